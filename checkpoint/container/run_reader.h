#ifndef CHECKPOINT_CONTAINER_RUN_READER_H_
#define CHECKPOINT_CONTAINER_RUN_READER_H_

// Many small reads from a few files, made as few large ones.
//
// The runs of a batch are sorted by file and offset.  Neighbours are merged and read in large aligned windows past the
// page cache; what lies scattered in small pieces is read by itself, byte for byte, with the kernel told ahead what
// comes.  The elements are then copied to where they belong.
//
// Files whose grains have digests are read in whole grains, which are checked.  Who knows beforehand what a whole
// transfer will need says so with Expect: then no grain is read twice because two reads share it, and those of which
// too little is needed are read in parts, unchecked and counted.  Thread-safe.

#include <atomic>
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
#include "checkpoint/container/chunk_plan.h"
#include "checkpoint/container/shared_chunks.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/cast.h"

namespace waypoint {

// Elements that follow each other in a file and lie evenly, `to_stride` bytes apart, in memory.
struct FileRun {
  int64_t file = 0;
  int64_t offset = 0;
  int64_t elements = 0;
  int element_bytes = 0;  // in the file
  char* to = nullptr;
  int64_t to_stride = 0;
  // Converts the elements on the way; borrowed.  Only where offset % element_bytes == 0.
  ElementCast* cast = nullptr;

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
  // The check wants whole grains; of other files it sees whatever is read.
  bool checked_by_grain = false;
};

struct RunReaderOptions {
  // Largest single read, before it is widened to whole grains; one element at least, and the grain that a run begins
  // in, is read.
  int64_t window_bytes = int64_t{8} << 20;
  // Bytes between two wanted pieces that are read along rather than skipped, as far as max_over_read admits, or one of
  // the pieces is shorter than 32 bytes and not worth a call of its own.
  int64_t gap_bytes = int64_t{64} << 10;
  // What may be read along, as a share of what is needed: half of it for the gap between two pieces, of the shorter
  // one; as ChunkPlan::Decide for what Expect is told.
  double max_over_read = 0.08;
  // Files that stay open, with two descriptors each; beyond that, the one that nobody used for longest is closed.
  int64_t open_files = 128;
};

class RunReader {
 public:
  // Sees every window before its elements are copied out, but for unchecked parts of grains; may refuse it.
  using Check = std::function<absl::Status(int64_t file, int64_t begin, absl::Span<const char> data)>;

  RunReader(FileSystem& fs, std::vector<RunFile> files, const RunReaderOptions& options, Check check);
  ~RunReader();

  // Every run lies inside its file.  Errors: E_IO, E_TRUNCATED, and those of the check.
  absl::Status Read(std::vector<FileRun> runs);
  // Open for as long as somebody has it.
  absl::StatusOr<std::shared_ptr<const ReadableFile>> OpenFile(int64_t file);

  // Memory that a Read of `block_bytes` in all needs.
  int64_t ScratchBytes(int64_t block_bytes) const;
  // An empty plan for these files.
  ChunkPlan NewPlan() const;
  // `plan` holds all that the Reads of a transfer will ask for, and is not decided yet.  Replaces the plan before.
  // Other reads work too, and are checked.
  void Expect(ChunkPlan plan);

  // Read from disk so far, including what was read along.
  int64_t bytes_read() const { return bytes_read_; }
  // Given out so far of files that are checked by grain, without a check.
  int64_t bytes_unchecked() const { return bytes_unchecked_; }

 private:
  class FileRead;
  struct OpenedFile {
    std::shared_ptr<const ReadableFile> file;
    std::list<int64_t>::iterator place;  // in recent_, when there is a file
  };

  FileSystem& fs_;
  const std::vector<RunFile> files_;
  const RunReaderOptions options_;
  const Check check_;
  int64_t grain_bytes_ = 0;       // the largest
  int64_t max_shared_bytes_ = 0;  // of chunks that wait for other reads
  BufferPool scratch_;
  std::atomic<int64_t> bytes_read_{0};
  std::atomic<int64_t> bytes_unchecked_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<SharedChunks> shared_ ABSL_GUARDED_BY(mutex_);  // null: nothing is expected
  std::vector<OpenedFile> open_files_ ABSL_GUARDED_BY(mutex_);
  std::list<int64_t> recent_ ABSL_GUARDED_BY(mutex_);  // that are open, the last used one first
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_RUN_READER_H_
