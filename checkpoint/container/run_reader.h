#ifndef CHECKPOINT_CONTAINER_RUN_READER_H_
#define CHECKPOINT_CONTAINER_RUN_READER_H_

// Many small reads from a few files, made as few large ones.
//
// The runs of a batch are sorted by file and offset, neighbours merged, and read in large aligned windows past the page
// cache; the elements are then copied to where they belong.  Thread-safe.

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Elements that follow each other in a file and lie evenly, `to_stride` bytes apart, in memory.
struct FileRun {
  int64_t file = 0;
  int64_t offset = 0;
  int64_t elements = 0;
  int element_bytes = 0;
  char* to = nullptr;
  int64_t to_stride = 0;

  int64_t end() const { return offset + elements * element_bytes; }
};

struct RunFile {
  std::string path;
  // As it was when the runs were planned; a file that changed since is not read.
  int64_t file_bytes = 0;
  // Windows begin at multiples of this, and end at one or at the end of the file.
  int64_t grain_bytes = kDirectAlignment;
  // Empty: the file at `path`, past the page cache.
  std::function<absl::StatusOr<std::unique_ptr<ReadableFile>>()> open;
};

struct RunReaderOptions {
  // Largest single read, before it is widened to whole grains; one element at least, and the grain that a run begins
  // in, is read.
  int64_t window_bytes = int64_t{8} << 20;
  // Bytes between two wanted runs that are read along rather than skipped.
  int64_t gap_bytes = int64_t{64} << 10;
  // Files that stay open, with two descriptors each; beyond that, the one that nobody used for longest is closed.
  int64_t open_files = 128;
};

class RunReader {
 public:
  // Sees every window before its elements are copied out; may refuse it.
  using Check = std::function<absl::Status(int64_t file, int64_t begin, absl::Span<const char> data)>;

  RunReader(FileSystem& fs, std::vector<RunFile> files, const RunReaderOptions& options, Check check)
      : fs_(fs), files_(std::move(files)), options_(options), check_(std::move(check)), open_files_(files_.size()) {}

  // Every run lies inside its file.  Errors: E_IO, E_TRUNCATED, and those of the check.
  absl::Status Read(std::vector<FileRun> runs);
  // Open for as long as somebody has it.
  absl::StatusOr<std::shared_ptr<const ReadableFile>> OpenFile(int64_t file);

  // Memory that a Read of `block_bytes` in all needs.
  int64_t ScratchBytes(int64_t block_bytes) const;
  // Read from disk so far, including what was read along.
  int64_t bytes_read() const;

 private:
  absl::Status ReadWindow(absl::Span<const FileRun> runs, int64_t begin, int64_t end);

  FileSystem& fs_;
  const std::vector<RunFile> files_;
  const RunReaderOptions options_;
  const Check check_;
  BufferPool scratch_;
  mutable std::mutex mutex_;
  struct OpenedFile {
    std::shared_ptr<const ReadableFile> file;
    std::list<int64_t>::iterator place;  // in recent_, when there is a file
  };
  std::vector<OpenedFile> open_files_ ABSL_GUARDED_BY(mutex_);
  std::list<int64_t> recent_ ABSL_GUARDED_BY(mutex_);  // that are open, the last used one first
  int64_t bytes_read_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_RUN_READER_H_
