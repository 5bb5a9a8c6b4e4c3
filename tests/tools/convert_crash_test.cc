// convert under every fault at every call, and every state of the disk after it: the output is the old checkpoint or
// the new one, whole, and the next conversion works and cleans up.

#include <map>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/publish_order.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tools/convert_command.h"

namespace waypoint {
namespace {

using Contents = std::map<std::string, std::string>;

constexpr char kFixtures[] = "tests/testdata/fixtures";
constexpr char kTarget[] = "/out/model";

void ReadTree(FileSystem& fs, const std::string& path, const std::string& prefix, Contents* contents) {
  ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> entries, fs.List(path));
  for (const DirectoryEntry& entry : entries) {
    const std::string inside = JoinPath(path, entry.name);
    // Bazel's runfiles are links.
    ASSERT_OK_AND_ASSIGN(const FileInfo info, fs.Stat(inside));
    if (info.type == FileType::kDirectory) {
      ReadTree(fs, inside, prefix + entry.name + "/", contents);
    } else {
      ASSERT_OK_AND_ASSIGN((*contents)[prefix + entry.name], ReadSmallFile(fs, inside, int64_t{1} << 24, "test"));
    }
  }
}

Contents Tree(FileSystem& fs, const std::string& path) {
  Contents contents;
  const absl::StatusOr<bool> exists = Exists(fs, path);
  EXPECT_OK(exists);
  if (exists.ok() && *exists) {
    ReadTree(fs, path, "", &contents);
    EXPECT_FALSE(contents.empty()) << "an empty directory is visible";
  }
  return contents;
}

// Where a conversion starts and ends.
struct Direction {
  std::string name;
  std::string from;
  std::string to;
  bool replaces = false;

  friend void PrintTo(const Direction& direction, std::ostream* out) { *out << direction.name; }
};

ConvertRequest Request(const std::string& source, const std::string& target) {
  ConvertRequest request;
  request.source = source;
  request.target = target;
  request.max_shard_bytes = 100'000;
  request.max_memory_bytes = kMinMaxMemory;
  request.overwrite = true;
  return request;
}

absl::Status RunConvert(FileSystem& fs, const ConvertRequest& request) {
  std::ostringstream out, err;
  return Convert(request, {fs, out, err, false, ""});
}

class ConvertCrashTest : public testing::TestWithParam<Direction> {
 protected:
  // A disk with sources of both formats and, where one is replaced, an old target.
  void SetUp() override {
    auto memory = std::make_unique<MemoryFileSystem>();
    for (const char* fixture : {"llama31_v5_bf16", "llama32_tied_bf16"}) {
      const Contents files = Tree(PosixFileSystem(), absl::StrCat(kFixtures, "/", fixture, "/hf"));
      const std::string directory = absl::StrCat("/", fixture, "/llama");
      ASSERT_OK(MakeDirectories(*memory, directory));
      for (const auto& [name, contents] : files) {
        ASSERT_OK(WriteSmallFile(*memory, JoinPath(directory, name), contents));
      }
      ASSERT_OK(RunConvert(*memory, Request(directory, absl::StrCat("/", fixture, "/native"))));
    }
    ASSERT_OK(MakeDirectories(*memory, "/out"));
    if (GetParam().replaces) {
      ASSERT_OK(RunConvert(*memory, OldRequest()));
      old_ = Tree(*memory, kTarget);
    }
    start_ = memory->Crash(DiskState::kEverything);
    const std::unique_ptr<MemoryFileSystem> clean = Start();
    ASSERT_OK(RunConvert(*clean, NewRequest()));
    new_ = Tree(*clean, kTarget);
    ASSERT_NE(new_, old_);
  }

  std::unique_ptr<MemoryFileSystem> Start() const { return start_->Crash(DiskState::kEverything); }

  ConvertRequest OldRequest() const { return WithTo(Request("/llama32_tied_bf16/" + GetParam().from, kTarget)); }
  ConvertRequest NewRequest() const { return WithTo(Request("/llama31_v5_bf16/" + GetParam().from, kTarget)); }
  static ConvertRequest WithTo(ConvertRequest request) {
    request.to = GetParam().to;
    return request;
  }

  void Check(FileSystem& fs, bool published) {
    const Contents found = Tree(fs, kTarget);
    ASSERT_TRUE(found == new_ || (!published && found == old_))
        << (found.empty() ? "the target is gone" : "the target is neither the old nor the new checkpoint");
    ++recoveries_;
  }

  void CheckNextConversion(FileSystem& fs) {
    ASSERT_OK(RunConvert(fs, NewRequest()));
    ASSERT_TRUE(Tree(fs, kTarget) == new_);
    ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> left, fs.List("/out"));
    ASSERT_EQ(left.size(), 1u) << left[0].name;
  }

  std::unique_ptr<MemoryFileSystem> start_;
  Contents old_;
  Contents new_;
  int recoveries_ = 0;
};

TEST_P(ConvertCrashTest, OldOrNewIsWholeAfterAKillAtAnyCall) {
  for (const Fault fault : {Fault::kKillBefore, Fault::kKillAfter}) {
    for (int64_t k = 0;; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem fs(*memory, fault, k);
      const absl::Status status = RunConvert(fs, NewRequest());
      if (!fs.fired()) {
        EXPECT_GT(k, 10);
        break;
      }
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", k, ": ", status.ToString()));
      ASSERT_NO_FATAL_FAILURE(Check(*memory, status.ok()));
      for (const DiskState state : kAllDiskStates) {
        for (int index = 0; index < memory->CrashCount(state); ++index) {
          SCOPED_TRACE(absl::StrCat("disk state ", static_cast<int>(state), ", index ", index));
          const std::unique_ptr<MemoryFileSystem> after = memory->Crash(state, index);
          ASSERT_NO_FATAL_FAILURE(Check(*after, status.ok()));
        }
      }
      ASSERT_NO_FATAL_FAILURE(CheckNextConversion(*memory->Crash(DiskState::kEverything)));
      ASSERT_NO_FATAL_FAILURE(CheckNextConversion(*memory->Crash(DiskState::kOnlySynced)));
    }
  }
  EXPECT_GT(recoveries_, 200);
}

TEST_P(ConvertCrashTest, AnyErrorLeavesTheOldOrTheNewAndIsReported) {
  for (const Fault fault : {Fault::kEio, Fault::kFullDisk, Fault::kShortWriteMost, Fault::kSyncEio, Fault::kCloseEio,
                            Fault::kRenameEio, Fault::kExchangeMissing}) {
    bool reached = true;
    for (int64_t k = 0; reached; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem fs(*memory, fault, k);
      const absl::Status status = RunConvert(fs, NewRequest());
      reached = fs.calls() > k;
      if (!fs.fired()) {
        continue;
      }
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", k, ": ", status.ToString()));
      ASSERT_NO_FATAL_FAILURE(Check(*memory, status.ok()));
      if (!status.ok()) {
        // A file system that cannot exchange is recognised and not supported; all else is I/O.
        EXPECT_EQ(ExitCodeFor(status), fault == Fault::kExchangeMissing ? kExitInput : kExitIo);
      }
      ASSERT_NO_FATAL_FAILURE(CheckNextConversion(*memory));
    }
  }
}

TEST_P(ConvertCrashTest, SyncsComeInTheRightOrder) {
  const std::unique_ptr<MemoryFileSystem> memory = Start();
  FaultFileSystem fs(*memory);

  ASSERT_OK(RunConvert(fs, NewRequest()));

  EXPECT_OK(CheckPublishOrder(fs.trace()));
}

INSTANTIATE_TEST_SUITE_P(Directions, ConvertCrashTest,
                         testing::Values(Direction{"ToNative", "llama", "native", false},
                                         Direction{"ToNativeReplacing", "llama", "native", true},
                                         Direction{"ToLlama", "native", "llama", false},
                                         Direction{"ToLlamaReplacing", "native", "llama", true}),
                         [](const testing::TestParamInfo<Direction>& info) { return info.param.name; });

// Interrupted at the n-th look: before the transfer, in it, and before publishing.
TEST(ConvertInterruptTest, NothingIsLeftWheneverItIsInterrupted) {
  MemoryFileSystem memory;
  ASSERT_OK(MakeDirectories(memory, "/source"));
  for (const auto& [name, contents] : Tree(PosixFileSystem(), absl::StrCat(kFixtures, "/llama31_v5_bf16/hf"))) {
    ASSERT_OK(WriteSmallFile(memory, JoinPath("/source", name), contents));
  }
  ASSERT_OK(MakeDirectories(memory, "/out"));

  int looks_until_done = 0;
  for (int n = 0;; ++n) {
    int looks = 0;
    std::ostringstream out, err;
    const absl::Status status =
        Convert(Request("/source", kTarget), {memory, out, err, false, "", [&looks, n] { return looks++ >= n; }});
    if (status.ok()) {
      looks_until_done = n;
      break;
    }
    EXPECT_EQ(ExitCodeFor(status), kExitInterrupted) << status;
    ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> left, memory.List("/out"));
    EXPECT_TRUE(left.empty());
  }
  EXPECT_GT(looks_until_done, 2);
}

}  // namespace
}  // namespace waypoint
