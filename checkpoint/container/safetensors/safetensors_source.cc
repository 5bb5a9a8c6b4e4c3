#include "checkpoint/container/safetensors/safetensors_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

absl::StatusOr<std::unique_ptr<SafetensorsSource>> SafetensorsSource::Create(FileSystem& fs,
                                                                             std::vector<SafetensorsFile> files,
                                                                             const SafetensorsSourceOptions& options) {
  auto source = std::unique_ptr<SafetensorsSource>(new SafetensorsSource(std::move(files)));
  int64_t tensors = 0;
  for (const SafetensorsFile& file : source->files_) {
    tensors += static_cast<int64_t>(file.header.entries.size());
  }
  source->manifest_.Reserve(tensors);
  source->places_.reserve(tensors);
  std::vector<RunFile> run_files;
  for (size_t file = 0; file < source->files_.size(); ++file) {
    SafetensorsFile& description = source->files_[file];
    // From here on the manifest has them: names are not held twice.
    for (SafetensorsEntry& entry : std::exchange(description.header.entries, {})) {
      TensorMeta meta;
      meta.name = std::move(entry.name);
      meta.dtype = entry.dtype;
      meta.shape = std::move(entry.shape);
      const absl::Status added = source->manifest_.Add(std::move(meta));
      if (!added.ok()) {
        return Annotate(added, absl::StrCat("\"", description.path, "\""));
      }
      source->places_.push_back({static_cast<int64_t>(file), entry.begin});
    }
    // Digests are of whole chunks.
    const bool checked = !description.digests.digests.empty() || description.recorder != nullptr;
    run_files.push_back({description.path, description.header.file_bytes,
                         checked ? description.digests.chunk_bytes : kDirectAlignment, nullptr, checked});
    source->checked_ = source->checked_ || checked;
  }
  source->reader_ =
      std::make_unique<RunReader>(fs, std::move(run_files), options,
                                  [source = source.get()](int64_t file, int64_t begin, absl::Span<const char> data) {
                                    return source->CheckDigests(file, begin, data);
                                  });
  return source;
}

void SafetensorsSource::AddRuns(const ReadRequest& request, std::vector<FileRun>& runs) const {
  const Place& place = places_[request.tensor];
  const TensorMeta& meta = manifest_[request.tensor];
  if (DTypeBytes(meta.dtype) == 0) {
    runs.push_back({place.file, place.begin, request.to.sizes[0], 1, request.to.data, 1});
    return;
  }
  ForEachRun(
      meta.shape, request.box, request.to, [&](int64_t begin, int64_t elements, char* data, int64_t stride_bytes) {
        const int bytes = DTypeBytes(meta.dtype);
        runs.push_back({place.file, place.begin + begin * bytes, elements, bytes, data, stride_bytes, request.cast});
      });
}

bool SafetensorsSource::CanCast(int64_t tensor) const {
  const DType dtype = manifest_[tensor].dtype;
  return IsCastable(dtype) && places_[tensor].begin % DTypeBytes(dtype) == 0;
}

absl::Status SafetensorsSource::Read(absl::Span<const ReadRequest> requests) {
  std::vector<FileRun> runs;
  for (const ReadRequest& request : requests) {
    AddRuns(request, runs);
  }
  return reader_->Read(std::move(runs));
}

void SafetensorsSource::Expect(RequestList requests) {
  if (!checked_) {
    return;
  }
  ChunkPlan plan = reader_->NewPlan();
  std::vector<int64_t> needed_bytes(places_.size(), 0);
  requests([&](absl::Span<const ReadRequest> batch) {
    std::vector<FileRun> runs;
    for (const ReadRequest& request : batch) {
      runs.clear();
      AddRuns(request, runs);
      for (const FileRun& run : runs) {
        plan.Need(run.file, run.offset, run.end() - run.offset);
        needed_bytes[request.tensor] += run.end() - run.offset;
      }
    }
  });
  for (size_t i = 0; i < places_.size(); ++i) {
    const int64_t bytes = manifest_[static_cast<int64_t>(i)].num_bytes();
    if (needed_bytes[i] > 0 && needed_bytes[i] < bytes) {
      plan.Cut(places_[i].file, places_[i].begin, places_[i].begin + bytes);
    }
  }
  reader_->Expect(std::move(plan));
}

absl::Status SafetensorsSource::CheckDigests(int64_t file, int64_t begin, absl::Span<const char> data) const {
  if (files_[file].recorder != nullptr) {
    return Annotate(files_[file].recorder->See(begin, data), absl::StrCat("\"", files_[file].path, "\""));
  }
  const ChunkDigests& digests = files_[file].digests;
  if (digests.digests.empty()) {
    return absl::OkStatus();
  }
  for (int64_t offset = 0; offset < static_cast<int64_t>(data.size()); offset += digests.chunk_bytes) {
    const size_t chunk = (begin + offset) / digests.chunk_bytes;
    const uint64_t found = Xxh3(data.subspan(offset, digests.chunk_bytes));
    if (chunk >= digests.digests.size() || found != digests.digests[chunk]) {
      std::string tensors;
      for (int64_t i = 0; i < manifest_.size(); ++i) {
        if (places_[i].file == file && places_[i].begin < begin + offset + digests.chunk_bytes &&
            places_[i].begin + manifest_[i].num_bytes() > begin + offset) {
          absl::StrAppend(&tensors, tensors.empty() ? "" : ", ", "\"", manifest_[i].name, "\"");
        }
      }
      return MakeError(
          ErrorKind::kChecksum,
          absl::StrCat("\"", files_[file].path, "\": chunk ", chunk, " at ", begin + offset, " has digest ",
                       DigestHex(found), ", the manifest says ",
                       chunk < digests.digests.size() ? DigestHex(digests.digests[chunk]) : "nothing", " (tensors ",
                       tensors.empty() ? "none, the header" : tensors, "); the file was damaged after it was written"));
    }
  }
  return absl::OkStatus();
}

}  // namespace waypoint
