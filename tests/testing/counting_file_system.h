#ifndef TESTS_TESTING_COUNTING_FILE_SYSTEM_H_
#define TESTS_TESTING_COUNTING_FILE_SYSTEM_H_

// Files in memory that count what is read of them: what a reader says of itself is compared with it.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/memory_file_system.h"

namespace waypoint {

class CountingFileSystem : public MemoryFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                            const OpenOptions& options) override {
    WAYPOINT_ASSIGN_OR_RETURN(auto file, MemoryFileSystem::OpenForRead(path, options));
    return std::unique_ptr<ReadableFile>(std::make_unique<Counted>(std::move(file), this));
  }

  void Reset() { calls = bytes = large_bytes = announcements = 0; }

  std::atomic<int64_t> calls{0};
  std::atomic<int64_t> bytes{0};
  // In calls of 1 MiB and more.
  std::atomic<int64_t> large_bytes{0};
  std::atomic<int64_t> announcements{0};

 private:
  class Counted : public ReadableFile {
   public:
    Counted(std::unique_ptr<ReadableFile> file, CountingFileSystem* count) : file_(std::move(file)), count_(count) {}
    const std::string& path() const override { return file_->path(); }
    int64_t size_bytes() const override { return file_->size_bytes(); }
    absl::Status Read(int64_t offset, absl::Span<char> out) const override {
      const auto bytes = static_cast<int64_t>(out.size());
      ++count_->calls;
      count_->bytes += bytes;
      count_->large_bytes += bytes >= (1 << 20) ? bytes : 0;
      return file_->Read(offset, out);
    }
    void WillRead(int64_t offset, int64_t bytes) const override { ++count_->announcements; }

   private:
    const std::unique_ptr<ReadableFile> file_;
    CountingFileSystem* const count_;
  };
};

}  // namespace waypoint

#endif  // TESTS_TESTING_COUNTING_FILE_SYSTEM_H_
