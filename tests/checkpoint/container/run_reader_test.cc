#include "checkpoint/container/run_reader.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/base/error.h"
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

}  // namespace
}  // namespace waypoint
