#include "checkpoint/container/torch_zip/torch_source.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/container/torch_zip/inflated_file.h"
#include "checkpoint/container/torch_zip/strided_runs.h"
#include "checkpoint/container/torch_zip/unfolded_bytes.h"

namespace waypoint {
namespace {

// What a Read holds of a tensor that falls apart into single elements.
constexpr size_t kBatchRuns = 65'536;

absl::Status CheckUnfoldedFiles(const std::vector<TorchContents>& files, const Limits& limits) {
  int64_t file_bytes = 0;
  for (const TorchContents& contents : files) {
    file_bytes += contents.file_bytes;
  }
  UnfoldedBytes unfolded(limits, file_bytes);
  for (const TorchContents& contents : files) {
    WAYPOINT_RETURN_IF_ERROR(Annotate(unfolded.AddFile(contents.unfolded_bytes), QuotedPath(contents.path)));
  }
  return absl::OkStatus();
}

}  // namespace

// A storage of one of the files.
struct TorchSource::Record {
  Record(const TorchStorage& storage, int64_t file) : storage(storage), file(file), ledger(storage.bytes) {}

  const TorchStorage& storage;
  const int64_t file;
  // Where the reader finds its bytes: the file, or for a compressed record one of its own.
  int64_t run_file = 0;
  int64_t run_begin = 0;
  // How the CRC is checked: read through before its first tensor is, or as its bytes come by.
  enum Check { kNone, kFirst, kOnTheWay };
  Check check = kNone;
  CrcLedger ledger;
  std::mutex mutex;
  bool done ABSL_GUARDED_BY(mutex) = false;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

TorchSource::TorchSource(std::vector<TorchContents> files, std::vector<std::shared_ptr<ChunkRecorder>> recorders)
    : files_(std::move(files)), recorders_(std::move(recorders)) {}

TorchSource::~TorchSource() = default;

absl::StatusOr<std::unique_ptr<TorchSource>> TorchSource::Create(FileSystem& fs, std::vector<TorchContents> files,
                                                                 const TorchSourceOptions& options) {
  // One file's share of the limits must not be had again for each of very many files.
  WAYPOINT_RETURN_IF_ERROR(CheckUnfoldedFiles(files, options.limits));
  auto source = std::unique_ptr<TorchSource>(new TorchSource(std::move(files), options.recorders));
  std::vector<RunFile> run_files;
  int64_t tensors = 0;
  for (const TorchContents& contents : source->files_) {
    // Recorders want whole chunks.
    const bool recorded = !options.recorders.empty() && options.recorders[run_files.size()] != nullptr;
    run_files.push_back(
        {contents.path, contents.file_bytes, recorded ? kDigestChunkBytes : kDirectAlignment, nullptr, recorded});
    tensors += static_cast<int64_t>(contents.tensors.size());
  }
  source->manifest_.Reserve(tensors);
  source->places_.reserve(tensors);
  for (size_t file = 0; file < source->files_.size(); ++file) {
    TorchContents& contents = source->files_[file];
    contents.values.clear();
    const size_t first = source->records_.size();
    const size_t first_place = source->places_.size();
    source->first_record_.push_back(first);
    for (const TorchStorage& storage : contents.storages) {
      auto record = std::make_unique<Record>(storage, static_cast<int64_t>(file));
      record->check = options.verify && storage.crc32 != 0 ? Record::kFirst : Record::kNone;
      record->run_file = static_cast<int64_t>(file);
      record->run_begin = storage.data_begin;
      if (storage.deflated) {
        record->run_file = static_cast<int64_t>(run_files.size());
        record->run_begin = 0;
        const auto open = [&fs, &contents, &storage]() -> absl::StatusOr<std::unique_ptr<ReadableFile>> {
          WAYPOINT_ASSIGN_OR_RETURN(auto archive, fs.OpenForRead(contents.path, OpenOptions()));
          return std::make_unique<InflatedFile>(
              std::move(archive),
              ZipEntry{storage.key, true, storage.crc32, storage.data_begin, storage.stored_bytes, storage.bytes});
        };
        run_files.push_back({contents.path, storage.bytes, 1, open});
      }
      source->records_.push_back(std::move(record));
    }
    // From here on the manifest has them: names are not held twice.
    WAYPOINT_RETURN_IF_ERROR(
        Annotate(source->AddTensors(contents, std::exchange(contents.tensors, {}), first, options.verify_whole),
                 QuotedPath(contents.path)));
    std::sort(source->records_.begin() + first, source->records_.end(),
              [](const auto& a, const auto& b) { return a->storage.data_begin < b->storage.data_begin; });
    // Tensors were added by the old positions.
    std::vector<int64_t> position(contents.storages.size());
    for (size_t i = first; i < source->records_.size(); ++i) {
      position[&source->records_[i]->storage - contents.storages.data()] = static_cast<int64_t>(i);
    }
    for (size_t i = first_place; i < source->places_.size(); ++i) {
      source->places_[i].record = position[source->places_[i].record - first];
    }
  }
  source->first_record_.push_back(source->records_.size());
  source->reader_ =
      std::make_unique<RunReader>(fs, std::move(run_files), options.reader,
                                  [source = source.get()](int64_t file, int64_t begin, absl::Span<const char> data) {
                                    return source->CheckWindow(file, begin, data);
                                  });
  return source;
}

absl::Status TorchSource::AddTensors(const TorchContents& contents, std::vector<TorchTensor> tensors,
                                     size_t first_record, bool verify_whole) {
  const auto key = [&](const TorchTensor& tensor) {
    return std::make_tuple(contents.storages[tensor.storage].data_begin, tensor.offset * DTypeBytes(tensor.dtype));
  };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const TorchTensor& a, const TorchTensor& b) { return key(a) < key(b); });

  // By storage: has tensors, and each of them touches every byte.
  std::vector<bool> whole(contents.storages.size(), false);
  std::vector<bool> partly(contents.storages.size(), verify_whole);
  for (TorchTensor& tensor : tensors) {
    const int element_bytes = DTypeBytes(tensor.dtype);
    const size_t record = first_record + tensor.storage;
    if (NumElements(tensor.shape) > 0) {
      int64_t last = 0;
      for (size_t d = 0; d < tensor.shape.size(); ++d) {
        last += (tensor.shape[d] - 1) * tensor.strides[d];
      }
      const bool all = IsDense(tensor.shape, tensor.strides) && tensor.offset == 0 &&
                       (last + 1) * element_bytes == contents.storages[tensor.storage].bytes;
      (all ? whole : partly)[tensor.storage] = true;
    }
    places_.push_back({static_cast<int64_t>(record), records_[record]->run_begin + tensor.offset * element_bytes,
                       std::move(tensor.strides)});
    TensorMeta meta;
    meta.name = std::move(tensor.name);
    meta.dtype = tensor.dtype;
    meta.shape = std::move(tensor.shape);
    WAYPOINT_RETURN_IF_ERROR(manifest_.Add(std::move(meta)));
  }
  for (size_t i = 0; i < contents.storages.size(); ++i) {
    if (records_[first_record + i]->check != Record::kNone && whole[i] && !partly[i]) {
      records_[first_record + i]->check = Record::kOnTheWay;
    }
  }
  return absl::OkStatus();
}

int64_t TorchSource::ScratchBytes(int64_t block_bytes) const {
  return reader_->ScratchBytes(block_bytes) + static_cast<int64_t>(kBatchRuns * sizeof(FileRun));
}

bool TorchSource::CanCast(int64_t tensor) const {
  const DType dtype = manifest_[tensor].dtype;
  return IsCastable(dtype) && places_[tensor].begin % DTypeBytes(dtype) == 0;
}

absl::Status TorchSource::Read(absl::Span<const ReadRequest> requests) {
  for (const ReadRequest& request : requests) {
    Record& record = *records_[places_[request.tensor].record];
    if (record.check == Record::kFirst) {
      WAYPOINT_RETURN_IF_ERROR(CheckWhole(record));
    }
  }
  std::vector<FileRun> runs;
  for (const ReadRequest& request : requests) {
    const Place& place = places_[request.tensor];
    const int64_t run_file = records_[place.record]->run_file;
    const int bytes = DTypeBytes(manifest_[request.tensor].dtype);
    Box box = request.box;
    StridedSpan to = request.to;
    WithoutRepeats(place.strides, &box, &to);
    WAYPOINT_RETURN_IF_ERROR(ForEachStridedRun(
        place.strides, box, to, [&](int64_t begin, int64_t elements, char* data, int64_t stride_bytes) {
          runs.push_back({run_file, place.begin + begin * bytes, elements, bytes, data, stride_bytes, request.cast});
          return runs.size() < kBatchRuns ? absl::OkStatus() : reader_->Read(std::exchange(runs, {}));
        }));
  }
  WAYPOINT_RETURN_IF_ERROR(reader_->Read(std::move(runs)));
  for (const ReadRequest& request : requests) {
    FillRepeats(places_[request.tensor].strides, request.to);
  }
  return absl::OkStatus();
}

absl::Status TorchSource::CheckWindow(int64_t file, int64_t begin, absl::Span<const char> data) {
  // Compressed records check themselves.
  if (file >= static_cast<int64_t>(files_.size())) {
    return absl::OkStatus();
  }
  if (!recorders_.empty() && recorders_[file] != nullptr) {
    WAYPOINT_RETURN_IF_ERROR(Annotate(recorders_[file]->See(begin, data), QuotedPath(files_[file].path)));
  }
  const int64_t end = begin + static_cast<int64_t>(data.size());
  const auto first = records_.begin() + first_record_[file];
  const auto last = records_.begin() + first_record_[file + 1];
  auto it = std::upper_bound(first, last, begin, [](int64_t wanted, const std::unique_ptr<Record>& record) {
    return wanted < record->storage.data_begin + record->storage.stored_bytes;
  });
  for (; it != last && (*it)->storage.data_begin < end; ++it) {
    Record& record = **it;
    if (record.check != Record::kOnTheWay || record.storage.deflated) {
      continue;
    }
    const int64_t from = std::max(begin, record.storage.data_begin);
    const int64_t to = std::min(end, record.storage.data_begin + record.storage.bytes);
    const absl::optional<uint32_t> crc32 =
        record.ledger.See(from - record.storage.data_begin, data.subspan(from - begin, to - from));
    const std::lock_guard<std::mutex> lock(record.mutex);
    if (crc32.has_value() && *crc32 != record.storage.crc32) {
      record.status = MakeError(
          ErrorKind::kChecksum,
          absl::StrCat(QuotedPath(files_[file].path), ": storage ", Quoted(record.storage.key), " at ",
                       record.storage.data_begin,
                       absl::StrFormat(" has CRC-32 %08x, the archive says %08x", *crc32, record.storage.crc32),
                       "; the file was damaged after it was written"));
    }
    WAYPOINT_RETURN_IF_ERROR(record.status);
  }
  return absl::OkStatus();
}

absl::Status TorchSource::CheckWhole(Record& record) {
  const std::lock_guard<std::mutex> lock(record.mutex);
  if (!record.done) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::shared_ptr<const ReadableFile> file, reader_->OpenFile(record.file));
    const TorchStorage& storage = record.storage;
    ZipEntryStream stream(
        *file, {storage.key, storage.deflated, storage.crc32, storage.data_begin, storage.stored_bytes, storage.bytes});
    record.status = stream.Skip(storage.bytes);
    record.done = true;
  }
  return record.status;
}

}  // namespace waypoint
