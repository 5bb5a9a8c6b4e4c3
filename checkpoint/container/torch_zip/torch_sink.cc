#include "checkpoint/container/torch_zip/torch_sink.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
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
  int64_t tensor = -1;      // -1: `contents`
  std::string contents;     // of what is no tensor
  int64_t first_block = 0;  // of the file, that has data of it
  uint32_t contents_crc32 = 0;
  std::vector<uint32_t> crc32s;  // of what each block has of it
  int64_t missing = 0;           // blocks that were not seen yet
  bool has_descriptor = true;    // in every block that was written
};

struct TorchSink::File {
  std::string name;
  ZipLayout layout;
  int64_t block_bytes = 0;
  std::mutex mutex;
  std::vector<Record> records;                     // as the layout's entries; what changes, under the mutex
  int64_t blocks_left ABSL_GUARDED_BY(mutex) = 0;  // that were not seen yet
  std::unique_ptr<WritableFile> open;              // set under the mutex

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

  // Of a record that was seen whole.
  uint32_t Crc32Of(size_t index) const {
    const Record& record = records[index];
    uint32_t crc32 = record.contents_crc32;
    for (size_t i = 0; i < record.crc32s.size(); ++i) {
      const int64_t block = (record.first_block + static_cast<int64_t>(i)) * block_bytes;
      const auto [begin, end] = PartOf(index, block, block + block_bytes);
      crc32 = CombineCrc32(crc32, record.crc32s[i], end - begin);
    }
    return crc32;
  }

  // Once all blocks were seen: writes the CRCs that are not in the file yet, and the archive's directory.
  absl::Status WriteRest(WritableFile& file) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (blocks_left != 0) {
      return absl::InternalError(absl::StrCat(Quoted(name), " is finished before all its blocks came"));
    }
    std::vector<uint32_t> crc32s;
    for (size_t i = 0; i < records.size(); ++i) {
      crc32s.push_back(Crc32Of(i));
      if (!records[i].has_descriptor) {
        WAYPOINT_RETURN_IF_ERROR(file.Write(layout.entries()[i].data_end(), layout.Descriptor(i, crc32s[i])));
      }
    }
    return file.Write(layout.directory_begin(), layout.Directory(crc32s));
  }
};

TorchSink::TorchSink(FileSystem& fs, std::string directory, Manifest manifest)
    : fs_(fs), directory_(std::move(directory)), manifest_(std::move(manifest)) {}

TorchSink::~TorchSink() = default;

absl::StatusOr<std::unique_ptr<TorchSink>> TorchSink::Create(FileSystem& fs, std::string directory, Manifest manifest,
                                                             std::vector<TorchFilePlan> files, int64_t block_bytes) {
  auto sink = std::unique_ptr<TorchSink>(new TorchSink(fs, std::move(directory), std::move(manifest)));
  block_bytes = AlignUp(std::max<int64_t>(block_bytes, 1), kDirectAlignment);
  for (TorchFilePlan& plan : files) {
    const std::string what = Quoted(plan.name);
    WAYPOINT_RETURN_IF_ERROR(Annotate(sink->AddFile(std::move(plan), block_bytes), what));
  }
  return sink;
}

absl::Status TorchSink::AddFile(TorchFilePlan plan, int64_t block_bytes) {
  if (!IsPlainFileName(plan.name) || !IsPlainFileName(plan.folder)) {
    return MakeError(ErrorKind::kPath, absl::StrCat("file ", Quoted(plan.name), " or its folder ", Quoted(plan.folder),
                                                    " is no plain name of letters, digits, '.', '_' and '-'"));
  }
  auto file = std::make_unique<File>();
  file->name = plan.name;
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
    record.contents_crc32 = ExtendCrc32(0, contents);
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

  // The directory is written last.
  const int64_t blocks_end = file->layout.directory_begin();
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
    options.size_bytes = file.layout.file_bytes();
    options.shared = mode_ != Mode::kAlone;
    const std::string path = JoinPath(directory_, file.name);
    WAYPOINT_ASSIGN_OR_RETURN(file.open,
                              mode_ == Mode::kJoins ? fs_.OpenForWrite(path, options) : fs_.Create(path, options));
  }
  return file.open.get();
}

absl::Status TorchSink::Write(int64_t index, absl::Span<char> data) {
  const Range& range = blocks_[index];
  File& file = *files_[range.file];
  const auto& entries = file.layout.entries();
  WAYPOINT_ASSIGN_OR_RETURN(WritableFile * writable, OpenFile(file));

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
  {
    const std::lock_guard<std::mutex> lock(file.mutex);
    for (const auto& [i, crc32] : seen) {
      Record& record = file.records[i];
      record.crc32s[range.begin / file.block_bytes - record.first_block] = crc32;
      --record.missing;
    }
    for (size_t i = first; i < last; ++i) {
      if (entries[i].data_end() >= range.end()) {
        continue;
      }
      Record& record = file.records[i];
      record.has_descriptor = record.has_descriptor && record.missing == 0;
      CopyInto(file.layout.Descriptor(i, record.missing == 0 ? file.Crc32Of(i) : 0), entries[i].data_end(), range.begin,
               data);
    }
    --file.blocks_left;
  }
  return writable->Write(range.begin, data);
}

absl::Status TorchSink::Finish() {
  for (const auto& file : files_) {
    if (file->open == nullptr && mode_ == Mode::kJoins) {
      continue;
    }
    WAYPOINT_ASSIGN_OR_RETURN(WritableFile * writable, OpenFile(*file));
    if (mode_ == Mode::kAlone) {
      WAYPOINT_RETURN_IF_ERROR(file->WriteRest(*writable));
    }
    WAYPOINT_RETURN_IF_ERROR(writable->Sync());
    WAYPOINT_RETURN_IF_ERROR(writable->Close());
  }
  return absl::OkStatus();
}

absl::Status TorchSink::CreateFiles() {
  mode_ = Mode::kCreates;
  for (const auto& file : files_) {
    WAYPOINT_RETURN_IF_ERROR(OpenFile(*file).status());
  }
  return absl::OkStatus();
}

void TorchSink::ForEachPart(int64_t begin_block, int64_t end_block,
                            absl::FunctionRef<void(Record& record, uint32_t& crc32)> visit) {
  for (int64_t block = begin_block; block < end_block; ++block) {
    const Range& range = blocks_[block];
    File& file = *files_[range.file];
    const auto& entries = file.layout.entries();
    const std::lock_guard<std::mutex> lock(file.mutex);
    for (size_t i = file.EntryAt(range.begin); i < entries.size() && entries[i].data_begin < range.end(); ++i) {
      const auto [begin, end] = file.PartOf(i, range.begin, range.end());
      Record& record = file.records[i];
      if (record.tensor >= 0 && begin < end) {
        visit(record, record.crc32s[range.begin / file.block_bytes - record.first_block]);
      }
    }
  }
}

std::string TorchSink::BlockSums(int64_t begin, int64_t end) {
  std::string bytes;
  ForEachPart(begin, end, [&bytes](Record&, uint32_t& crc32) {
    bytes.append(reinterpret_cast<const char*>(&crc32), sizeof(crc32));
  });
  return bytes;
}

absl::Status TorchSink::SetBlockSums(int64_t begin, int64_t end, absl::string_view sums) {
  size_t wanted = 0;
  ForEachPart(begin, end, [&wanted](Record&, uint32_t& crc32) { wanted += sizeof(crc32); });
  if (wanted != sums.size()) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("checksums of blocks [", begin, ", ", end, ") have ", sums.size(),
                                                      " bytes, wanted ", wanted));
  }
  ForEachPart(begin, end, [&sums](Record& record, uint32_t& crc32) {
    std::memcpy(&crc32, sums.data(), sizeof(crc32));
    sums.remove_prefix(sizeof(crc32));
    --record.missing;
  });
  for (int64_t block = begin; block < end; ++block) {
    File& file = *files_[blocks_[block].file];
    const std::lock_guard<std::mutex> lock(file.mutex);
    --file.blocks_left;
  }
  return absl::OkStatus();
}

absl::Status TorchSink::Complete() {
  for (const auto& file : files_) {
    for (Record& record : file->records) {
      // Who wrote the block did not know.
      record.has_descriptor = false;
    }
    CreateOptions options;
    options.size_bytes = file->layout.file_bytes();
    options.shared = true;
    WAYPOINT_ASSIGN_OR_RETURN(const auto open, fs_.OpenForWrite(JoinPath(directory_, file->name), options));
    WAYPOINT_RETURN_IF_ERROR(file->WriteRest(*open));
    WAYPOINT_RETURN_IF_ERROR(open->Sync());
    WAYPOINT_RETURN_IF_ERROR(open->Close());
  }
  return absl::OkStatus();
}

}  // namespace waypoint
