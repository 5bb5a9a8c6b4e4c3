#include "checkpoint/container/run_reader.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

std::string FileBytes(int file) {
  std::string bytes(5000, '\0');
  std::mt19937 random(file);
  for (char& byte : bytes) {
    byte = static_cast<char>(random());
  }
  return bytes;
}

// Runs over the same bytes with elements of different sizes end at different offsets of a window.
TEST(RunReaderTest, OverlappingRunsOfAnyElementsArriveWhole) {
  MemoryFileSystem fs;
  const std::string contents[2] = {FileBytes(0), FileBytes(1)};
  ASSERT_OK(WriteSmallFile(fs, "/0", contents[0]));
  ASSERT_OK(WriteSmallFile(fs, "/1", contents[1]));
  std::mt19937 random(11);
  for (int round = 0; round < 500; ++round) {
    RunReaderOptions options;
    options.window_bytes = 1 + static_cast<int64_t>(random() % 200);
    options.gap_bytes = static_cast<int64_t>(random() % 50);
    std::vector<RunFile> files(2);
    for (int file = 0; file < 2; ++file) {
      files[file].path = file == 0 ? "/0" : "/1";
      files[file].file_bytes = 5000;
      files[file].grain_bytes = random() % 2 == 0 ? 1 : 64;
    }
    int64_t windows_end[2] = {-1, -1};
    RunReader reader(fs, files, options, [&](int64_t file, int64_t begin, absl::Span<const char> data) {
      windows_end[file] = std::max(windows_end[file], begin + static_cast<int64_t>(data.size()));
      EXPECT_EQ(std::string(data.begin(), data.end()), contents[file].substr(begin, data.size()));
      return absl::OkStatus();
    });

    std::vector<FileRun> runs(1 + random() % 20);
    std::vector<std::string> memory(runs.size());
    for (size_t i = 0; i < runs.size(); ++i) {
      FileRun& run = runs[i];
      run.file = static_cast<int64_t>(random() % 2);
      run.element_bytes = 1 << random() % 4;
      run.elements = 1 + static_cast<int64_t>(random() % 100);
      run.offset = static_cast<int64_t>(random() % (5000 - run.elements * run.element_bytes));
      run.to_stride = run.element_bytes * (1 + static_cast<int64_t>(random() % 2));
      memory[i].resize(run.elements * run.to_stride);
      run.to = &memory[i][0];
    }
    ASSERT_OK(reader.Read(runs));

    for (size_t i = 0; i < runs.size(); ++i) {
      for (int64_t element = 0; element < runs[i].elements; ++element) {
        const int bytes = runs[i].element_bytes;
        ASSERT_EQ(memory[i].substr(element * runs[i].to_stride, bytes),
                  contents[runs[i].file].substr(runs[i].offset + element * bytes, bytes));
      }
      EXPECT_GE(windows_end[runs[i].file], runs[i].end());
    }
  }
}

TEST(RunReaderTest, NeighboursAreReadTogether) {
  MemoryFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/0", FileBytes(0)));
  int windows = 0;
  RunReaderOptions options;
  options.gap_bytes = 100;
  RunReader reader(fs, {{"/0", 5000, 1, nullptr}}, options, [&](int64_t, int64_t, absl::Span<const char>) {
    ++windows;
    return absl::OkStatus();
  });
  char to[8];
  ASSERT_OK(reader.Read({{0, 0, 4, 1, to, 1}, {0, 104, 4, 1, to + 4, 1}}));
  EXPECT_EQ(windows, 1);
  EXPECT_EQ(reader.bytes_read(), 108);
  ASSERT_OK(reader.Read({{0, 0, 4, 1, to, 1}, {0, 105, 4, 1, to + 4, 1}}));
  EXPECT_EQ(windows, 3);
  EXPECT_EQ(reader.bytes_read(), 116);
}

TEST(RunReaderTest, TheCheckMayRefuse) {
  MemoryFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/0", FileBytes(0)));
  RunReader reader(fs, {{"/0", 5000, 1, nullptr}}, RunReaderOptions(),
                   [](int64_t, int64_t, absl::Span<const char>) { return MakeError(ErrorKind::kChecksum, "bad"); });
  char to = 0;
  EXPECT_THAT(reader.Read({{0, 0, 1, 1, &to, 1}}), IsKind(ErrorKind::kChecksum));
  RunReader changed(fs, {{"/0", 5001, 1, nullptr}}, RunReaderOptions(), nullptr);
  EXPECT_THAT(changed.Read({{0, 0, 1, 1, &to, 1}}), IsKind(ErrorKind::kTruncated, HasSubstr("\"/0\"")));
}

FileRun BytesOf(int64_t file, int64_t offset, std::string& to) {
  FileRun run;
  run.file = file;
  run.offset = offset;
  run.elements = static_cast<int64_t>(to.size());
  run.element_bytes = 1;
  run.to = &to[0];
  run.to_stride = 1;
  return run;
}

// Large chunks, each of which must be read and hashed whole.
TEST(RunReaderTest, AGrainLargerThanAWindowIsReadOnceForARun) {
  MemoryFileSystem fs;
  const std::string contents(4 << 20, 'a');
  ASSERT_OK(WriteSmallFile(fs, "/0", contents));
  RunReaderOptions options;
  options.window_bytes = 64 << 10;
  RunReader reader(fs, {{"/0", 4 << 20, 1 << 20, nullptr}}, options, nullptr);
  std::string all(contents.size(), 'x');
  ASSERT_OK(reader.Read({BytesOf(0, 0, all)}));
  EXPECT_EQ(all, contents);
  EXPECT_EQ(reader.bytes_read(), 4 << 20);

  std::string inside(1 << 20, 'x');
  ASSERT_OK(reader.Read({BytesOf(0, 3 << 19, inside)}));
  EXPECT_EQ(inside, contents.substr(0, 1 << 20));
  EXPECT_EQ(reader.bytes_read(), 6 << 20);
}

// Counts the files that are open.
class OpenFileCount : public MemoryFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                            const OpenOptions& options) override {
    WAYPOINT_ASSIGN_OR_RETURN(auto file, MemoryFileSystem::OpenForRead(path, options));
    const int now = ++open_;
    ++opened;
    int seen = most;
    while (seen < now && !most.compare_exchange_weak(seen, now)) {
    }
    return std::unique_ptr<ReadableFile>(std::make_unique<Counted>(std::move(file), &open_));
  }

  std::atomic<int> opened{0};
  std::atomic<int> most{0};

 private:
  class Counted : public ReadableFile {
   public:
    Counted(std::unique_ptr<ReadableFile> file, std::atomic<int>* open) : file_(std::move(file)), open_(open) {}
    ~Counted() override { --*open_; }
    const std::string& path() const override { return file_->path(); }
    int64_t size_bytes() const override { return file_->size_bytes(); }
    absl::Status Read(int64_t offset, absl::Span<char> out) const override { return file_->Read(offset, out); }

   private:
    const std::unique_ptr<ReadableFile> file_;
    std::atomic<int>* const open_;
  };
  std::atomic<int> open_{0};
};

TEST(RunReaderTest, OfManyFilesAFewStayOpen) {
  OpenFileCount fs;
  std::vector<RunFile> files;
  for (int i = 0; i < 40; ++i) {
    const std::string path = absl::StrCat("/", i);
    ASSERT_OK(WriteSmallFile(fs, path, std::string(100, static_cast<char>('A' + i))));
    files.push_back({path, 100, 1, nullptr});
  }
  RunReaderOptions options;
  options.open_files = 8;
  RunReader reader(fs, files, options, nullptr);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&reader, thread] {
      std::mt19937 random(thread);
      for (int i = 0; i < 500; ++i) {
        const int file = static_cast<int>(random() % 40);
        std::string read(50, 'x');
        EXPECT_OK(reader.Read({BytesOf(file, 25, read)}));
        EXPECT_EQ(read, std::string(50, static_cast<char>('A' + file)));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  // Those that a thread reads are not closed under it.
  EXPECT_LE(fs.most, 8 + 4);

  // The last used ones stay.
  const int before = fs.opened;
  std::string read(1, 'x');
  for (int round = 0; round < 3; ++round) {
    for (int file = 0; file < 8; ++file) {
      ASSERT_OK(reader.Read({BytesOf(file, 0, read)}));
    }
  }
  EXPECT_LE(fs.opened - before, 8);
}

}  // namespace
}  // namespace waypoint
