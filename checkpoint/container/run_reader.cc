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

absl::StatusOr<std::shared_ptr<const ReadableFile>> RunReader::OpenFile(int64_t file) {
  const std::lock_guard<std::mutex> lock(mutex_);
  OpenedFile& wanted = open_files_[file];
  if (wanted.file != nullptr) {
    recent_.splice(recent_.begin(), recent_, wanted.place);
    return wanted.file;
  }
  const RunFile& description = files_[file];
  WAYPOINT_ASSIGN_OR_RETURN(
      auto opened, description.open ? description.open() : fs_.OpenForRead(description.path, {.direct = true}));
  if (opened->size_bytes() != description.file_bytes) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat("\"", description.path, "\" has ", opened->size_bytes(), " bytes, had ",
                                  description.file_bytes, " when its header was read"));
  }
  // Jobs of many ranks have more files than a process may open.
  while (!recent_.empty() && static_cast<int64_t>(recent_.size()) >= options_.open_files) {
    open_files_[recent_.back()].file.reset();
    recent_.pop_back();
  }
  recent_.push_front(file);
  wanted.file = std::move(opened);
  wanted.place = recent_.begin();
  return wanted.file;
}

absl::Status RunReader::Read(std::vector<FileRun> runs) {
  std::sort(runs.begin(), runs.end(), ComesBefore);

  size_t first = 0;
  while (first < runs.size()) {
    // As many runs as lie close together; what a window cannot hold of a long run is left for the next one.
    const int64_t begin = runs[first].offset;
    const int64_t grain_bytes = files_[runs[first].file].grain_bytes;
    // What is left of the first grain is read in any case.
    const int64_t limit = std::max(begin + std::max<int64_t>(options_.window_bytes, runs[first].element_bytes),
                                   AlignUp(begin + 1, grain_bytes));
    int64_t end = std::min(runs[first].end(), limit);
    size_t last = first + 1;
    while (last < runs.size() && runs[last].file == runs[first].file && runs[last].offset <= end + options_.gap_bytes &&
           runs[last].offset < limit) {
      end = std::max(end, std::min(runs[last].end(), limit));
      ++last;
    }
    // Windows end on a chunk where they can, so that no chunk is read twice for one run.
    const int64_t chunk_bytes = std::max(grain_bytes, kDigestChunkBytes);
    if (end < runs[last - 1].end() && AlignDown(end, chunk_bytes) > runs[last - 1].offset) {
      end = AlignDown(end, chunk_bytes);
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

  WAYPOINT_ASSIGN_OR_RETURN(const std::shared_ptr<const ReadableFile> readable, OpenFile(file));
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
