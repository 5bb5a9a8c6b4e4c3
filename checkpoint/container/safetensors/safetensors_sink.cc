#include "checkpoint/container/safetensors/safetensors_sink.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/shard_files.h"

namespace waypoint {

absl::StatusOr<std::unique_ptr<SafetensorsSink>> SafetensorsSink::Create(FileSystem& fs, std::string directory,
                                                                         Manifest manifest,
                                                                         std::vector<SafetensorsFilePlan> files,
                                                                         int64_t block_bytes, int64_t chunk_bytes) {
  auto sink = std::unique_ptr<SafetensorsSink>(new SafetensorsSink(fs, std::move(directory), std::move(manifest)));
  block_bytes = AlignUp(std::max<int64_t>(block_bytes, 1), chunk_bytes);
  for (SafetensorsFilePlan& plan : files) {
    for (const int64_t tensor : plan.tensors) {
      const TensorMeta& meta = sink->manifest_[tensor];
      if (DTypeBytes(meta.dtype) == 0) {
        // A block may begin inside any tensor, which such elements cannot be cut for.
        return MakeError(ErrorKind::kUnsupported, absl::StrCat("tensor \"", meta.name, "\" is ", DTypeName(meta.dtype),
                                                               ", whose elements are no whole bytes; it can be read, "
                                                               "not written"));
      }
    }
    std::stable_sort(plan.tensors.begin(), plan.tensors.end(), [&sink](int64_t a, int64_t b) {
      return DTypeBytes(sink->manifest_[a].dtype) > DTypeBytes(sink->manifest_[b].dtype);
    });
    File file;
    file.entry_tensors = plan.tensors;
    file.written.name = plan.name;
    for (const int64_t tensor : plan.tensors) {
      SafetensorsEntry entry;
      entry.name = sink->manifest_[tensor].name;
      entry.dtype = sink->manifest_[tensor].dtype;
      entry.shape = sink->manifest_[tensor].shape;
      file.written.header.entries.push_back(std::move(entry));
    }
    file.written.header.metadata = plan.metadata;
    file.header_bytes = BuildSafetensorsHeader(&file.written.header.entries, plan.metadata, plan.data_alignment);
    const int64_t data_begin = static_cast<int64_t>(file.header_bytes.size());
    const auto& entries = file.written.header.entries;
    file.written.size_bytes = entries.empty() ? data_begin : entries.back().end;
    file.written.header.data_begin = data_begin;
    file.written.header.file_bytes = file.written.size_bytes;
    file.written.digests.chunk_bytes = chunk_bytes;
    file.written.digests.digests.resize((file.written.size_bytes + chunk_bytes - 1) / chunk_bytes);
    for (int64_t begin = 0; begin < file.written.size_bytes; begin += block_bytes) {
      sink->blocks_.push_back(
          {static_cast<int64_t>(sink->files_.size()), begin, std::min(block_bytes, file.written.size_bytes - begin)});
    }
    sink->files_.push_back(std::move(file));
  }
  return sink;
}

Block SafetensorsSink::block(int64_t index) const {
  const Range& range = blocks_[index];
  const File& file = files_[range.file];
  const auto& entries = file.written.header.entries;
  Block block;
  block.bytes = range.bytes;
  const int64_t range_end = range.begin + range.bytes;
  auto entry = std::partition_point(entries.begin(), entries.end(),
                                    [&range](const SafetensorsEntry& e) { return e.end <= range.begin; });
  for (; entry != entries.end() && entry->begin < range_end; ++entry) {
    const int64_t tensor = file.entry_tensors[entry - entries.begin()];
    const int element_bytes = DTypeBytes(entry->dtype);
    int64_t begin = std::max(entry->begin, range.begin);
    const int64_t end = std::min(entry->end, range_end);
    for (Box& box :
         FlatRangeToBoxes(entry->shape, (begin - entry->begin) / element_bytes, (end - entry->begin) / element_bytes)) {
      const int64_t bytes = box.num_elements() * element_bytes;
      block.pieces.push_back({tensor, std::move(box), begin - range.begin});
      begin += bytes;
    }
  }
  return block;
}

absl::StatusOr<WritableFile*> SafetensorsSink::OpenFile(File& file) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (file.open == nullptr) {
    CreateOptions options;
    options.direct = true;
    options.size_bytes = file.written.size_bytes;
    options.shared = shared_ || joins_;
    const std::string path = JoinPath(directory_, file.written.name);
    WAYPOINT_ASSIGN_OR_RETURN(file.open, joins_ ? fs_.OpenForWrite(path, options) : fs_.Create(path, options));
  }
  return file.open.get();
}

absl::Status SafetensorsSink::Write(int64_t index, absl::Span<char> data) {
  const Range& range = blocks_[index];
  File& file = files_[range.file];
  const auto header_bytes = static_cast<int64_t>(file.header_bytes.size());
  if (range.begin < header_bytes) {
    std::memcpy(data.data(), file.header_bytes.data() + range.begin, std::min(range.bytes, header_bytes - range.begin));
  }
  // Blocks are whole chunks, so no two threads share one.
  const int64_t chunk_bytes = file.written.digests.chunk_bytes;
  for (int64_t offset = 0; offset < range.bytes; offset += chunk_bytes) {
    file.written.digests.digests[(range.begin + offset) / chunk_bytes] = Xxh3(data.subspan(offset, chunk_bytes));
  }
  WAYPOINT_ASSIGN_OR_RETURN(WritableFile * writable, OpenFile(file));
  return writable->Write(range.begin, data);
}

absl::Status SafetensorsSink::CreateFiles() {
  shared_ = true;
  for (File& file : files_) {
    WAYPOINT_RETURN_IF_ERROR(OpenFile(file).status());
  }
  return absl::OkStatus();
}

absl::Span<uint64_t> SafetensorsSink::DigestsOfBlock(int64_t index) {
  const Range& range = blocks_[index];
  ChunkDigests& table = files_[range.file].written.digests;
  const int64_t chunks = (range.bytes + table.chunk_bytes - 1) / table.chunk_bytes;
  return absl::MakeSpan(table.digests).subspan(range.begin / table.chunk_bytes, chunks);
}

std::string SafetensorsSink::BlockSums(int64_t begin, int64_t end) {
  std::string bytes;
  for (int64_t block = begin; block < end; ++block) {
    const absl::Span<const uint64_t> digests = DigestsOfBlock(block);
    bytes.append(reinterpret_cast<const char*>(digests.data()), digests.size() * sizeof(uint64_t));
  }
  return bytes;
}

absl::Status SafetensorsSink::SetBlockSums(int64_t begin, int64_t end, absl::string_view sums) {
  int64_t wanted = 0;
  for (int64_t block = begin; block < end; ++block) {
    wanted += static_cast<int64_t>(DigestsOfBlock(block).size() * sizeof(uint64_t));
  }
  if (wanted != static_cast<int64_t>(sums.size())) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("digests of blocks [", begin, ", ", end, ") have ", sums.size(),
                                                      " bytes, wanted ", wanted));
  }
  for (int64_t block = begin; block < end; ++block) {
    const absl::Span<uint64_t> digests = DigestsOfBlock(block);
    std::memcpy(digests.data(), sums.data(), digests.size() * sizeof(uint64_t));
    sums.remove_prefix(digests.size() * sizeof(uint64_t));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsSink::Finish() {
  for (File& file : files_) {
    if (joins_ && file.open == nullptr) {
      continue;
    }
    WAYPOINT_ASSIGN_OR_RETURN(WritableFile * writable, OpenFile(file));
    WAYPOINT_RETURN_IF_ERROR(writable->Sync());
    WAYPOINT_RETURN_IF_ERROR(writable->Close());
  }
  return absl::OkStatus();
}

std::vector<WrittenFile> SafetensorsSink::written_files() const {
  std::vector<WrittenFile> written;
  for (const File& file : files_) {
    written.push_back(file.written);
  }
  return written;
}

std::vector<SafetensorsFilePlan> PlanSafetensorsFiles(const Manifest& manifest, const std::vector<int64_t>& tensors,
                                                      const std::string& stem, int64_t max_file_bytes,
                                                      const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsFilePlan> files;
  for (ShardFile& file : PlanShardFiles(manifest, tensors, stem, ".safetensors", max_file_bytes)) {
    files.emplace_back();
    files.back().name = std::move(file.name);
    files.back().tensors = std::move(file.tensors);
    files.back().metadata = metadata;
  }
  return files;
}

}  // namespace waypoint
