#include "checkpoint/container/safetensors/safetensors_source.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

// Elements that follow each other in a file and lie evenly in memory.
struct SafetensorsSource::Run {
  int64_t file;
  int64_t offset;
  int64_t elements;
  int element_bytes;
  char* to;
  int64_t to_stride;

  int64_t end() const { return offset + elements * element_bytes; }
};

absl::StatusOr<std::unique_ptr<SafetensorsSource>> SafetensorsSource::Create(FileSystem& fs,
                                                                             std::vector<SafetensorsFile> files,
                                                                             const SafetensorsSourceOptions& options) {
  auto source = std::unique_ptr<SafetensorsSource>(new SafetensorsSource(fs, std::move(files), options));
  int64_t tensors = 0;
  for (const SafetensorsFile& file : source->files_) {
    tensors += static_cast<int64_t>(file.header.entries.size());
  }
  source->manifest_.Reserve(tensors);
  source->places_.reserve(tensors);
  for (size_t file = 0; file < source->files_.size(); ++file) {
    // From here on the manifest has them: names are not held twice.
    for (SafetensorsEntry& entry : std::exchange(source->files_[file].header.entries, {})) {
      TensorMeta meta;
      meta.name = std::move(entry.name);
      meta.dtype = entry.dtype;
      meta.shape = std::move(entry.shape);
      const absl::Status added = source->manifest_.Add(std::move(meta));
      if (!added.ok()) {
        return Annotate(added, absl::StrCat("\"", source->files_[file].path, "\""));
      }
      source->places_.push_back({static_cast<int64_t>(file), entry.begin});
    }
  }
  return source;
}

int64_t SafetensorsSource::bytes_read() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_read_;
}

int64_t SafetensorsSource::ScratchBytes(int64_t block_bytes) const {
  // One window at a time, widened to whole chunks at both ends.
  int64_t chunk_bytes = kDigestChunkBytes;
  for (const SafetensorsFile& file : files_) {
    chunk_bytes = std::max(chunk_bytes, file.digests.chunk_bytes);
  }
  return std::min(block_bytes, options_.window_bytes) + 2 * chunk_bytes;
}

absl::StatusOr<const ReadableFile*> SafetensorsSource::OpenFile(int64_t file) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (open_files_[file] == nullptr) {
    const SafetensorsFile& description = files_[file];
    WAYPOINT_ASSIGN_OR_RETURN(auto opened, fs_.OpenForRead(description.path, {.direct = true}));
    if (opened->size_bytes() != description.header.file_bytes) {
      return MakeError(ErrorKind::kTruncated,
                       absl::StrCat("\"", description.path, "\" has ", opened->size_bytes(), " bytes, had ",
                                    description.header.file_bytes, " when its header was read"));
    }
    open_files_[file] = std::move(opened);
  }
  return open_files_[file].get();
}

absl::Status SafetensorsSource::Read(absl::Span<const ReadRequest> requests) {
  std::vector<Run> runs;
  for (const ReadRequest& request : requests) {
    const Place& place = places_[request.tensor];
    const TensorMeta& meta = manifest_[request.tensor];
    if (DTypeBytes(meta.dtype) == 0) {
      runs.push_back({place.file, place.begin, request.to.sizes[0], 1, request.to.data, 1});
      continue;
    }
    ForEachRun(meta.shape, request.box, request.to,
               [&](int64_t begin, int64_t elements, char* data, int64_t stride_bytes) {
                 const int bytes = request.to.element_bytes;
                 runs.push_back({place.file, place.begin + begin * bytes, elements, bytes, data, stride_bytes});
               });
  }
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return std::tie(a.file, a.offset) < std::tie(b.file, b.offset); });

  size_t first = 0;
  while (first < runs.size()) {
    // As many runs as lie close together; what a window cannot hold of a long run is left for the next one.
    const int64_t begin = runs[first].offset;
    int64_t end = std::min(runs[first].end(), begin + options_.window_bytes);
    size_t last = first + 1;
    while (last < runs.size() && runs[last].file == runs[first].file && runs[last].offset <= end + options_.gap_bytes &&
           runs[last].offset < begin + options_.window_bytes) {
      end = std::max(end, std::min(runs[last].end(), begin + options_.window_bytes));
      ++last;
    }
    // Windows end on a chunk where they can, so that no chunk is read twice for one run.
    if (end < runs[last - 1].end() && AlignDown(end, kDigestChunkBytes) > runs[last - 1].offset) {
      end = AlignDown(end, kDigestChunkBytes);
    }
    // An element is never cut: a window that holds none would be asked for for ever.
    end = std::max(end, begin + runs[first].element_bytes);
    WAYPOINT_RETURN_IF_ERROR(ReadWindow(absl::MakeConstSpan(runs).subspan(first, last - first), begin, end));
    size_t kept = first;
    for (size_t i = first; i < last; ++i) {
      Run rest = runs[i];
      const int64_t done = rest.offset >= end ? 0 : std::min(rest.elements, (end - rest.offset) / rest.element_bytes);
      rest.elements -= done;
      rest.offset += done * rest.element_bytes;
      rest.to += done * rest.to_stride;
      if (rest.elements > 0) {
        runs[kept++] = rest;
      }
    }
    // The rests move to the end of the range, still in order.
    std::move_backward(runs.begin() + first, runs.begin() + kept, runs.begin() + last);
    first = last - (kept - first);
  }
  return absl::OkStatus();
}

absl::Status SafetensorsSource::ReadWindow(absl::Span<const Run> runs, int64_t begin, int64_t end) {
  const int64_t file = runs[0].file;
  const SafetensorsFile& description = files_[file];
  const bool checked = !description.digests.digests.empty();
  const int64_t grain = checked ? description.digests.chunk_bytes : kDirectAlignment;
  const int64_t read_begin = AlignDown(begin, grain);
  const int64_t read_end = std::min(AlignUp(end, grain), description.header.file_bytes);

  WAYPOINT_ASSIGN_OR_RETURN(const ReadableFile* readable, OpenFile(file));
  const BufferPool::Lease lease = scratch_.Get(read_end - read_begin);
  const absl::Span<char> data = lease.span().subspan(0, read_end - read_begin);
  WAYPOINT_RETURN_IF_ERROR(readable->Read(read_begin, data));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_read_ += read_end - read_begin;
  }
  if (checked) {
    WAYPOINT_RETURN_IF_ERROR(CheckDigests(file, read_begin, data));
  }
  for (const Run& run : runs) {
    if (run.offset >= end) {
      continue;
    }
    const int64_t elements = std::min(run.elements, (end - run.offset) / run.element_bytes);
    char* const from = data.data() + (run.offset - read_begin);
    StridedSpan to;
    to.data = run.to;
    to.element_bytes = run.element_bytes;
    to.sizes = {elements};
    to.strides = {run.to_stride};
    CopyStrided(StridedSpan::Contiguous(from, run.element_bytes, {elements}), to);
  }
  return absl::OkStatus();
}

absl::Status SafetensorsSource::CheckDigests(int64_t file, int64_t begin, absl::Span<const char> data) const {
  const ChunkDigests& digests = files_[file].digests;
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
