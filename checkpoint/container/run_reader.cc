#include "checkpoint/container/run_reader.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {
namespace {

bool ComesBefore(const FileRun& a, const FileRun& b) { return std::tie(a.file, a.offset) < std::tie(b.file, b.offset); }

}  // namespace

int64_t RunReader::bytes_read() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_read_;
}

int64_t RunReader::ScratchBytes(int64_t block_bytes) const {
  int64_t grain_bytes = 0;
  for (const RunFile& file : files_) {
    grain_bytes = std::max(grain_bytes, file.grain_bytes);
  }
  // One window at a time, widened to whole grains at both ends.
  return std::min(block_bytes, options_.window_bytes) + 2 * std::max(grain_bytes, kDigestChunkBytes);
}

absl::StatusOr<const ReadableFile*> RunReader::OpenFile(int64_t file) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (open_files_[file] == nullptr) {
    const RunFile& description = files_[file];
    WAYPOINT_ASSIGN_OR_RETURN(
        auto opened, description.open ? description.open() : fs_.OpenForRead(description.path, {.direct = true}));
    if (opened->size_bytes() != description.file_bytes) {
      return MakeError(ErrorKind::kTruncated,
                       absl::StrCat("\"", description.path, "\" has ", opened->size_bytes(), " bytes, had ",
                                    description.file_bytes, " when its header was read"));
    }
    open_files_[file] = std::move(opened);
  }
  return open_files_[file].get();
}

absl::Status RunReader::Read(std::vector<FileRun> runs) {
  std::sort(runs.begin(), runs.end(), ComesBefore);

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
      FileRun rest = runs[i];
      const int64_t done = rest.offset >= end ? 0 : std::min(rest.elements, (end - rest.offset) / rest.element_bytes);
      rest.elements -= done;
      rest.offset += done * rest.element_bytes;
      rest.to += done * rest.to_stride;
      if (rest.elements > 0) {
        runs[kept++] = rest;
      }
    }
    // The rests move to the end of the range.  Runs of different elements over the same bytes stop at different
    // offsets, and the next window must begin at the first of them.
    std::sort(runs.begin() + first, runs.begin() + kept, ComesBefore);
    std::move_backward(runs.begin() + first, runs.begin() + kept, runs.begin() + last);
    first = last - (kept - first);
  }
  return absl::OkStatus();
}

absl::Status RunReader::ReadWindow(absl::Span<const FileRun> runs, int64_t begin, int64_t end) {
  const int64_t file = runs[0].file;
  const RunFile& description = files_[file];
  const int64_t read_begin = AlignDown(begin, description.grain_bytes);
  const int64_t read_end = std::min(AlignUp(end, description.grain_bytes), description.file_bytes);

  WAYPOINT_ASSIGN_OR_RETURN(const ReadableFile* readable, OpenFile(file));
  const BufferPool::Lease lease = scratch_.Get(read_end - read_begin);
  const absl::Span<char> data = lease.span().subspan(0, read_end - read_begin);
  WAYPOINT_RETURN_IF_ERROR(readable->Read(read_begin, data));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_read_ += read_end - read_begin;
  }
  if (check_) {
    WAYPOINT_RETURN_IF_ERROR(check_(file, read_begin, data));
  }
  for (const FileRun& run : runs) {
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

}  // namespace waypoint
