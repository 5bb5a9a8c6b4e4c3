#include "checkpoint/container/run_reader.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/counting_file_system.h"
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

// Windows of a few bytes, in which no element may be cut, and results that lie close or apart.
TEST(RunReaderTest, ElementsAreCastOnTheWay) {
  MemoryFileSystem fs;
  std::vector<float> numbers(3000);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(i % 251) - 100;
  }
  const std::string contents(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
  ASSERT_OK(WriteSmallFile(fs, "/0", contents));
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    RunReaderOptions options;
    options.window_bytes = 1 + static_cast<int64_t>(random() % 100);
    const int64_t grain = int64_t{1} << random() % 7;
    RunReader reader(fs, {{"/0", static_cast<int64_t>(contents.size()), grain, nullptr, random() % 2 == 0}}, options,
                     nullptr);
    ElementCast cast(DType::kF32, DType::kF64);
    std::vector<FileRun> runs(1 + random() % 5);
    std::vector<std::vector<double>> results(runs.size());
    for (size_t i = 0; i < runs.size(); ++i) {
      const auto first = static_cast<int64_t>(random() % 1000);
      const auto apart = static_cast<int64_t>(1 + random() % 2);
      const auto elements = static_cast<int64_t>(random() % 2000);
      results[i].resize(elements * apart, -1);
      runs[i] = {0, first * 4, elements, 4, reinterpret_cast<char*>(results[i].data()), apart * 8, &cast};
    }
    // One byte before them, so that the piece that holds the first run begins at an odd offset.
    char byte = 0;
    runs.push_back({0, std::max<int64_t>(runs[0].offset - 1, 0), 1, 1, &byte, 1});
    ASSERT_OK(reader.Read(runs));
    for (size_t i = 0; i < results.size(); ++i) {
      for (int64_t element = 0; element < runs[i].elements; ++element) {
        const int64_t apart = runs[i].to_stride / 8;
        ASSERT_EQ(results[i][element * apart], numbers[runs[i].offset / 4 + element]);
        ASSERT_TRUE(apart == 1 || results[i][element * apart + 1] == -1);
      }
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

std::string ManyBytes(int64_t bytes) {
  std::string text(bytes, '\0');
  std::mt19937_64 random(5);
  for (char& byte : text) {
    byte = static_cast<char>(random());
  }
  return text;
}

// Every third KiB: read along with the others, it would be three times as much.
TEST(RunReaderTest, ScatteredPiecesAreReadByThemselvesAndAnnounced) {
  CountingFileSystem fs;
  const std::string contents = ManyBytes(3 << 20);
  ASSERT_OK(WriteSmallFile(fs, "/0", contents));
  RunReader reader(fs, {{"/0", 3 << 20, kDirectAlignment, nullptr}}, RunReaderOptions(), nullptr);
  std::string read(1 << 20, 'x');
  std::vector<FileRun> runs;
  for (int64_t i = 0; i < 1024; ++i) {
    runs.push_back({0, i * 3072 + 1024, 256, 4, &read[i * 1024], 4});
  }

  ASSERT_OK(reader.Read(runs));

  for (int64_t i = 0; i < 1024; ++i) {
    ASSERT_EQ(read.substr(i * 1024, 1024), contents.substr(i * 3072 + 1024, 1024));
  }
  EXPECT_EQ(reader.bytes_read(), 1 << 20);
  EXPECT_EQ(fs.bytes, 1 << 20);
  EXPECT_GE(fs.announcements, 1);
  EXPECT_LE(fs.announcements, 20);  // their pages touch
}

TEST(RunReaderTest, LargePiecesAreReadInWholePagesAndFewCalls) {
  CountingFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/0", ManyBytes(4 << 20)));
  RunReader reader(fs, {{"/0", 4 << 20, kDirectAlignment, nullptr}}, RunReaderOptions(), nullptr);
  std::string first(100'000, 'x');
  std::string second(1'000'000, 'x');
  std::string third(1'000'000, 'x');

  // Little lies between the second and the third, beside both.
  ASSERT_OK(reader.Read({BytesOf(0, 1000, first), BytesOf(0, 1'000'000, second), BytesOf(0, 2'030'000, third)}));

  EXPECT_EQ(fs.calls, 2);
  EXPECT_EQ(fs.announcements, 0);
  EXPECT_LE(reader.bytes_read(), 2'130'000 + 4 * kDirectAlignment);
}

// A file of which every grain has a digest, by the check's own bookkeeping.
struct GrainFile {
  explicit GrainFile(int64_t bytes) : contents(ManyBytes(bytes)) {
    EXPECT_OK(WriteSmallFile(fs, "/0", contents));
    description = {"/0", bytes, 4096, nullptr, true};
  }
  RunReader::Check Check() {
    return [this](int64_t, int64_t begin, absl::Span<const char> data) {
      const int64_t end = begin + static_cast<int64_t>(data.size());
      EXPECT_EQ(begin % 4096, 0);
      EXPECT_TRUE(end % 4096 == 0 || end == description.file_bytes);
      EXPECT_EQ(std::string(data.begin(), data.end()), contents.substr(begin, data.size()));
      checked_bytes += end - begin;
      return refuse ? MakeError(ErrorKind::kChecksum, "bad") : absl::OkStatus();
    };
  }

  CountingFileSystem fs;
  std::string contents;
  RunFile description;
  std::atomic<int64_t> checked_bytes{0};
  std::atomic<bool> refuse{false};
};

// Blocks of a rank's memory end where they end: without the plan, a grain is read once for each block that it is in.
TEST(RunReaderTest, GrainsThatReadsShareAreReadOnce) {
  GrainFile file(1'000'000);
  for (const bool expected : {false, true}) {
    RunReader reader(file.fs, {file.description}, RunReaderOptions(), file.Check());
    if (expected) {
      ChunkPlan plan = reader.NewPlan();
      plan.Need(0, 0, 1'000'000);
      reader.Expect(std::move(plan));
    }
    // By threads, in any order.
    std::string read(1'000'000, 'x');
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&] {
        for (int64_t begin = next.fetch_add(25'000); begin < 1'000'000; begin = next.fetch_add(25'000)) {
          FileRun run = {0, begin, 25'000, 1, &read[begin], 1};
          EXPECT_OK(reader.Read({run}));
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(read, file.contents);
    if (expected) {
      EXPECT_EQ(reader.bytes_read(), 1'000'000);
      EXPECT_EQ(reader.bytes_unchecked(), 0);
    } else {
      EXPECT_GE(reader.bytes_read(), 1'000'000 + 30 * 4096);
    }
  }
}

TEST(RunReaderTest, SharedGrainsThatCouldNotBeReadAreAnErrorForAll) {
  GrainFile file(100'000);
  RunReader reader(file.fs, {file.description}, RunReaderOptions(), file.Check());
  ChunkPlan plan = reader.NewPlan();
  plan.Need(0, 0, 100'000);
  reader.Expect(std::move(plan));
  std::string first(50'000, 'x');
  std::string second(50'000, 'x');

  file.refuse = true;
  EXPECT_THAT(reader.Read({BytesOf(0, 0, first)}), IsKind(ErrorKind::kChecksum));
  EXPECT_THAT(reader.Read({BytesOf(0, 50'000, second)}), IsKind(ErrorKind::kChecksum));
  file.refuse = false;
  ASSERT_OK(reader.Read({BytesOf(0, 50'000, second)}));
  EXPECT_EQ(second, file.contents.substr(50'000));
}

// Each read wants some of many columns; whatever is planned, decided and shared, the bytes arrive and are counted.
TEST(RunReaderTest, WhateverIsExpectedArrives) {
  GrainFile file(200'001);
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    RunReaderOptions options;
    options.window_bytes = 4096 << random() % 6;
    options.max_over_read = random() % 3 == 0 ? 1e9 : 0.01;
    RunReader reader(file.fs, {file.description}, options, file.Check());
    const int64_t stride = 200 + static_cast<int64_t>(random() % 3000);
    const int64_t bytes = 1 + static_cast<int64_t>(random() % stride);
    std::vector<std::vector<FileRun>> batches(1 + random() % 5);
    std::vector<std::string> memory;
    memory.reserve(1001);
    ChunkPlan plan = reader.NewPlan();
    int64_t needed = 0;
    for (int64_t offset = static_cast<int64_t>(random() % 200); offset + bytes <= 200'001; offset += stride) {
      memory.emplace_back(bytes, 'x');
      batches[random() % batches.size()].push_back(BytesOf(0, offset, memory.back()));
      plan.Need(0, offset, bytes);
      needed += bytes;
    }
    plan.Cut(0, 0, 200'001);
    reader.Expect(std::move(plan));
    const int64_t checked_before = file.checked_bytes;
    const int64_t read_before = file.fs.bytes;
    for (const std::vector<FileRun>& batch : batches) {
      ASSERT_OK(reader.Read(batch));
      for (const FileRun& run : batch) {
        ASSERT_EQ(std::string(run.to, run.elements), file.contents.substr(run.offset, run.elements));
      }
    }
    EXPECT_EQ(reader.bytes_read(), file.fs.bytes - read_before);
    EXPECT_LE(reader.bytes_unchecked(), needed);
    EXPECT_GE(file.checked_bytes - checked_before, needed - reader.bytes_unchecked());
    if (options.max_over_read > 1) {
      EXPECT_EQ(reader.bytes_unchecked(), 0);
    }
  }
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
