#include "checkpoint/container/torch_zip/torch_sink.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/file_name.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/crc32.h"

namespace waypoint {
namespace {

// What of `bytes`, which stand at `at` in the file, lies in `data`, which stands at `data_begin`.
void CopyInto(absl::string_view bytes, int64_t at, int64_t data_begin, absl::Span<char> data) {
  const int64_t begin = std::max(at, data_begin);
  const int64_t end = std::min(at + static_cast<int64_t>(bytes.size()), data_begin + static_cast<int64_t>(data.size()));
  if (begin < end) {
    std::memcpy(data.data() + (begin - data_begin), bytes.data() + (begin - at), end - begin);
  }
}

}  // namespace

// An entry of the archive.
struct TorchSink::Record {
  int64_t tensor = -1;           // -1: `contents`
  std::string contents;          // of what is no tensor
  int64_t first_block = 0;       // of the file, that has data of it
  std::vector<uint32_t> crc32s;  // of what each block has of it
  int64_t missing = 0;           // blocks that were not seen yet
  uint32_t crc32 = 0;            // once none is
};

// A chunk that misses bytes.
struct TorchSink::Held {
  AlignedBuffer buffer;
  int64_t bytes = 0;
  int64_t waits_for = 0;  // descriptors, and the directory

  absl::Span<char> data() const { return buffer.span().first(bytes); }
};

struct TorchSink::File {
  ZipLayout layout;
  int64_t block_bytes = 0;
  WrittenTorchFile written;
  std::mutex mutex;
  std::vector<Record> records;  // as the layout's entries; crc32s, missing and crc32 under the mutex
  std::map<int64_t, Held> held ABSL_GUARDED_BY(mutex);  // by begin
  int64_t blocks_left ABSL_GUARDED_BY(mutex) = 0;       // that were not seen yet
  std::unique_ptr<WritableFile> open;                   // set under the mutex

  int64_t chunk_bytes() const { return written.digests.chunk_bytes; }

  // The first entry that ends behind `offset`.
  size_t EntryAt(int64_t offset) const {
    const auto& entries = layout.entries();
    return std::partition_point(entries.begin(), entries.end(),
                                [offset](const ZipLayout::Entry& entry) { return entry.end <= offset; }) -
           entries.begin();
  }

  // The part of a record's data that a block has.
  std::pair<int64_t, int64_t> PartOf(size_t record, int64_t begin, int64_t end) const {
    const ZipLayout::Entry& entry = layout.entries()[record];
    return {std::max(entry.data_begin, begin), std::min(entry.data_end(), end)};
  }

  // Joins the CRCs of a record that was seen whole, completes the chunks that wait for it; those that wait for nothing
  // else are moved to `ready`.
  void Complete(size_t index, std::map<int64_t, Held>* ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Record& record = records[index];
    for (size_t i = 0; i < record.crc32s.size(); ++i) {
      const int64_t block = (record.first_block + static_cast<int64_t>(i)) * block_bytes;
      const auto [begin, end] = PartOf(index, block, block + block_bytes);
      record.crc32 = CombineCrc32(record.crc32, record.crc32s[i], end - begin);
    }
    const ZipLayout::Entry& entry = layout.entries()[index];
    const std::string descriptor = layout.Descriptor(index, record.crc32);
    for (int64_t chunk = AlignDown(entry.data_end(), chunk_bytes()); chunk < entry.end; chunk += chunk_bytes()) {
      const auto it = held.find(chunk);
      if (it == held.end()) {
        continue;  // its block is still to come
      }
      CopyInto(descriptor, entry.data_end(), chunk, it->second.data());
      if (--it->second.waits_for == 0) {
        ready->insert(held.extract(it));
      }
    }
  }

  // Whole chunks, but for the file's last.
  absl::Status WriteChunks(int64_t begin, absl::Span<const char> data) {
    for (size_t offset = 0; offset < data.size(); offset += chunk_bytes()) {
      written.digests.digests[(begin + offset) / chunk_bytes()] = Xxh3(data.subspan(offset, chunk_bytes()));
    }
    return open->Write(begin, data);
  }

  // Where what WriteDirectory writes begins.
  int64_t tail_begin() const { return AlignDown(layout.directory_begin(), chunk_bytes()); }
  // Once all blocks were seen.
  absl::Status WriteDirectory();
};

TorchSink::TorchSink(FileSystem& fs, std::string directory, Manifest manifest)
    : fs_(fs), directory_(std::move(directory)), manifest_(std::move(manifest)) {}

TorchSink::~TorchSink() = default;

absl::StatusOr<std::unique_ptr<TorchSink>> TorchSink::Create(FileSystem& fs, std::string directory, Manifest manifest,
                                                             std::vector<TorchFilePlan> files, int64_t block_bytes,
                                                             int64_t chunk_bytes) {
  auto sink = std::unique_ptr<TorchSink>(new TorchSink(fs, std::move(directory), std::move(manifest)));
  block_bytes = AlignUp(std::max<int64_t>(block_bytes, 1), chunk_bytes);
  for (TorchFilePlan& plan : files) {
    const std::string what = Quoted(plan.name);
    WAYPOINT_RETURN_IF_ERROR(Annotate(sink->AddFile(std::move(plan), block_bytes, chunk_bytes), what));
  }
  return sink;
}

absl::Status TorchSink::AddFile(TorchFilePlan plan, int64_t block_bytes, int64_t chunk_bytes) {
  if (!IsPlainFileName(plan.name) || !IsPlainFileName(plan.folder)) {
    return MakeError(ErrorKind::kPath, absl::StrCat("file ", Quoted(plan.name), " or its folder ", Quoted(plan.folder),
                                                    " is no plain name of letters, digits, '.', '_' and '-'"));
  }
  auto file = std::make_unique<File>();
  file->written.name = plan.name;
  file->block_bytes = block_bytes;

  std::vector<int64_t> tensors;  // by storage
  absl::flat_hash_map<int64_t, int64_t> storages;
  std::vector<PickledTensorEntry> pickled;
  for (const TorchFilePlan::Entry& entry : plan.entries) {
    const auto [it, fresh] = storages.try_emplace(entry.tensor, static_cast<int64_t>(tensors.size()));
    if (fresh) {
      tensors.push_back(entry.tensor);
    }
    pickled.push_back({entry.key, manifest_[entry.tensor].dtype, manifest_[entry.tensor].shape, it->second});
  }
  const auto add_contents = [&](absl::string_view name, std::string contents) {
    Record record;
    record.crc32 = ExtendCrc32(0, contents);
    const auto bytes = static_cast<int64_t>(contents.size());
    record.contents = std::move(contents);
    file->records.push_back(std::move(record));
    return file->layout.Add(absl::StrCat(plan.folder, "/", name), bytes);
  };
  WAYPOINT_ASSIGN_OR_RETURN(std::string pickle, PickleTensorDict(pickled, plan.wrapper));
  WAYPOINT_RETURN_IF_ERROR(add_contents("data.pkl", std::move(pickle)));
  WAYPOINT_RETURN_IF_ERROR(add_contents("byteorder", "little"));
  for (size_t storage = 0; storage < tensors.size(); ++storage) {
    Record record;
    record.tensor = tensors[storage];
    WAYPOINT_RETURN_IF_ERROR(
        file->layout.Add(absl::StrCat(plan.folder, "/data/", storage), manifest_[record.tensor].num_bytes()));
    const ZipLayout::Entry& entry = file->layout.entries().back();
    if (entry.bytes > 0) {
      record.first_block = entry.data_begin / block_bytes;
      record.missing = (entry.data_end() - 1) / block_bytes - record.first_block + 1;
      record.crc32s.resize(record.missing);
    }
    file->records.push_back(std::move(record));
  }
  WAYPOINT_RETURN_IF_ERROR(add_contents("version", "3\n"));

  const int64_t file_bytes = file->layout.file_bytes();
  file->written.size_bytes = file_bytes;
  file->written.digests.chunk_bytes = chunk_bytes;
  file->written.digests.digests.resize((file_bytes + chunk_bytes - 1) / chunk_bytes);
  // The directory is Finish's own, but for what lies in a chunk with data.
  const int64_t blocks_end = std::min(file_bytes, AlignUp(file->layout.directory_begin(), chunk_bytes));
  for (int64_t begin = 0; begin < blocks_end; begin += block_bytes) {
    blocks_.push_back({static_cast<int64_t>(files_.size()), begin, std::min(block_bytes, blocks_end - begin)});
    ++file->blocks_left;
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

Block TorchSink::block(int64_t index) const {
  const Range& range = blocks_[index];
  const File& file = *files_[range.file];
  Block block;
  block.bytes = range.bytes;
  for (size_t i = file.EntryAt(range.begin); i < file.records.size(); ++i) {
    const ZipLayout::Entry& entry = file.layout.entries()[i];
    if (entry.local_begin >= range.end()) {
      break;
    }
    auto [begin, end] = file.PartOf(i, range.begin, range.end());
    const int64_t tensor = file.records[i].tensor;
    if (tensor < 0 || begin >= end) {
      continue;
    }
    const TensorMeta& meta = manifest_[tensor];
    const int element_bytes = DTypeBytes(meta.dtype);
    for (Box& box : FlatRangeToBoxes(meta.shape, (begin - entry.data_begin) / element_bytes,
                                     (end - entry.data_begin) / element_bytes)) {
      const int64_t bytes = box.num_elements() * element_bytes;
      block.pieces.push_back({tensor, std::move(box), begin - range.begin});
      begin += bytes;
    }
  }
  return block;
}

absl::StatusOr<WritableFile*> TorchSink::OpenFile(File& file) {
  const std::lock_guard<std::mutex> lock(file.mutex);
  if (file.open == nullptr) {
    CreateOptions options;
    options.direct = true;
    options.size_bytes = file.written.size_bytes;
    WAYPOINT_ASSIGN_OR_RETURN(file.open, fs_.Create(JoinPath(directory_, file.written.name), options));
  }
  return file.open.get();
}

absl::Status TorchSink::Write(int64_t index, absl::Span<char> data) {
  const Range& range = blocks_[index];
  File& file = *files_[range.file];
  const auto& entries = file.layout.entries();
  WAYPOINT_RETURN_IF_ERROR(OpenFile(file).status());

  const size_t first = file.EntryAt(range.begin);
  size_t last = first;
  std::vector<std::pair<size_t, uint32_t>> seen;  // CRCs of parts of records
  for (; last < entries.size() && entries[last].local_begin < range.end(); ++last) {
    if (entries[last].data_begin > range.begin) {
      CopyInto(file.layout.LocalHeader(last), entries[last].local_begin, range.begin, data);
    }
    CopyInto(file.records[last].contents, entries[last].data_begin, range.begin, data);
    const auto [begin, end] = file.PartOf(last, range.begin, range.end());
    if (file.records[last].tensor >= 0 && begin < end) {
      seen.emplace_back(last, ExtendCrc32(0, data.subspan(begin - range.begin, end - begin)));
    }
  }

  std::map<int64_t, Held> ready;     // of other blocks, now complete
  std::map<int64_t, int64_t> waits;  // chunk of this block -> number of things that it misses
  bool last_block = false;
  {
    const std::lock_guard<std::mutex> lock(file.mutex);
    for (const auto& [i, crc32] : seen) {
      Record& record = file.records[i];
      record.crc32s[range.begin / file.block_bytes - record.first_block] = crc32;
      if (--record.missing == 0) {
        file.Complete(i, &ready);
      }
    }
    const auto wait = [&](int64_t begin, int64_t end) {
      for (int64_t chunk = AlignDown(std::max(begin, range.begin), file.chunk_bytes());
           chunk < std::min(end, range.end()); chunk += file.chunk_bytes()) {
        ++waits[chunk];
      }
    };
    for (size_t i = first; i < last; ++i) {
      if (file.records[i].missing == 0) {
        CopyInto(file.layout.Descriptor(i, file.records[i].crc32), entries[i].data_end(), range.begin, data);
      } else {
        wait(entries[i].data_end(), entries[i].end);
      }
    }
    wait(file.layout.directory_begin(), file.layout.file_bytes());
    for (const auto& [chunk, count] : waits) {
      Held held;
      held.bytes = std::min(file.chunk_bytes(), range.end() - chunk);
      held.buffer = AlignedBuffer(held.bytes);
      held.waits_for = count;
      std::memcpy(held.buffer.data(), data.data() + (chunk - range.begin), held.bytes);
      file.held.emplace(chunk, std::move(held));
    }
    last_block = --file.blocks_left == 0;
  }

  for (const auto& [begin, chunk] : ready) {
    WAYPOINT_RETURN_IF_ERROR(file.WriteChunks(begin, chunk.data()));
  }
  int64_t begin = range.begin;
  for (const auto& [chunk, count] : waits) {
    if (begin < chunk) {
      WAYPOINT_RETURN_IF_ERROR(file.WriteChunks(begin, data.subspan(begin - range.begin, chunk - begin)));
    }
    begin = std::min(chunk + file.chunk_bytes(), range.end());
  }
  if (begin < range.end()) {
    WAYPOINT_RETURN_IF_ERROR(file.WriteChunks(begin, data.subspan(begin - range.begin)));
  }
  return last_block ? file.WriteDirectory() : absl::OkStatus();
}

absl::Status TorchSink::File::WriteDirectory() {
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<uint32_t> crc32s;
  for (const Record& record : records) {
    crc32s.push_back(record.crc32);
  }
  const int64_t begin = tail_begin();
  const AlignedBuffer tail(written.size_bytes - begin);
  const auto it = held.find(begin);
  if (it != held.end()) {
    std::memcpy(tail.data(), it->second.buffer.data(), it->second.bytes);
    held.erase(it);
  }
  CopyInto(layout.Directory(crc32s), layout.directory_begin(), begin, tail.span());
  return WriteChunks(begin, tail.span());
}

int64_t TorchSink::ScratchBytes() const {
  int64_t bytes = 0;
  for (const auto& file : files_) {
    bytes = std::max(bytes, 2 * file->chunk_bytes() + file->written.size_bytes - file->tail_begin());
  }
  return bytes;
}

absl::Status TorchSink::Finish() {
  for (const auto& file : files_) {
    const std::lock_guard<std::mutex> lock(file->mutex);
    if (file->blocks_left != 0) {
      return absl::InternalError(absl::StrCat(Quoted(file->written.name), " is finished before all its blocks came"));
    }
    WAYPOINT_RETURN_IF_ERROR(file->open->Sync());
    WAYPOINT_RETURN_IF_ERROR(file->open->Close());
  }
  return absl::OkStatus();
}

std::vector<WrittenTorchFile> TorchSink::written_files() const {
  std::vector<WrittenTorchFile> written;
  for (const auto& file : files_) {
    written.push_back(file->written);
  }
  return written;
}

int64_t TorchSink::held_bytes() const {
  int64_t sum = 0;
  for (const auto& file : files_) {
    const std::lock_guard<std::mutex> lock(file->mutex);
    for (const auto& [begin, held] : file->held) {
      sum += held.bytes;
    }
  }
  return sum;
}

}  // namespace waypoint
