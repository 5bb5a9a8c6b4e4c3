// Every fault at every call of a save, every state of the disk after it: what is found is the old checkpoint or the new
// one, whole, and the next save works.

#include <iostream>

#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/publish_order.h"
#include "gmock/gmock.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

constexpr char kRoot[] = "/run/checkpoint";
constexpr char kAsset[] = "/run/tokenizer.json";

std::unique_ptr<MemorySource> State(uint64_t seed) {
  RandomGeometry random(seed);
  auto state = std::make_unique<MemorySource>();
  AddRandomTensor("a", DType::kF32, {30, 50}, &random, state.get());
  AddRandomTensor("b", DType::kBF16, {7}, &random, state.get());
  AddRandomTensor("a/exp_avg", DType::kF32, {30, 50}, &random, state.get());
  return state;
}

CheckpointMetadata Step(int64_t step) {
  CheckpointMetadata metadata;
  metadata.mutable_training()->set_step(step);
  return metadata;
}

std::vector<Asset> Assets() { return {{"tokenizer.json", kAsset, 2, {}}}; }

// One thread: call k is the same in every run.
TransferOptions OneThread() {
  TransferOptions options;
  options.threads = 1;
  return options;
}

void ExpectWhole(FileSystem& fs, const std::string& path, int64_t step) {
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, path));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(fs, path, {}));
  ASSERT_EQ(opened.metadata.training().step(), step);
  const auto wanted = State(step);
  ASSERT_EQ(opened.tensors->manifest().size(), wanted->manifest().size());
  for (int64_t i = 0; i < wanted->manifest().size(); ++i) {
    ASSERT_OK_AND_ASSIGN(const std::vector<char> bytes,
                         ReadWhole(*opened.tensors, opened.tensors->manifest().Find(wanted->manifest()[i].name)));
    ASSERT_TRUE(bytes == ReadWhole(*wanted, i).value());
  }
  ASSERT_EQ(opened.assets.size(), 1u);
  ASSERT_EQ(ReadSmallFile(fs, opened.assets[0].path, 100, "test").value(), "{}");
}

// How a test saves a step and finds out which one is there.
class Saver {
 public:
  virtual ~Saver() = default;
  virtual absl::Status Save(FileSystem& fs, int64_t step) const = 0;
  // -1 when there is none.  Whatever is visible is whole.
  virtual void Find(FileSystem& fs, int64_t* step) const = 0;
  // After a save in peace nothing but these entries is left.
  virtual void ExpectClean(FileSystem& fs) const = 0;
};

class TargetSaver : public Saver {
 public:
  absl::Status Save(FileSystem& fs, int64_t step) const override {
    WriteOptions options;
    options.overwrite = true;
    options.transfer = OneThread();
    return WriteCheckpoint(fs, Path(), options, Step(step), *State(step), Assets()).status();
  }
  void Find(FileSystem& fs, int64_t* step) const override {
    *step = -1;
    if (!Exists(fs, Path()).value()) {
      return;
    }
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, Path()));
    ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(fs, Path(), {}));
    *step = opened.metadata.training().step();
    ExpectWhole(fs, Path(), *step);
  }
  void ExpectClean(FileSystem& fs) const override { EXPECT_EQ(fs.List(kRoot).value().size(), 1u); }

 private:
  static std::string Path() { return JoinPath(kRoot, "target"); }
};

class RootSaver : public Saver {
 public:
  absl::Status Save(FileSystem& fs, int64_t step) const override {
    CheckpointerOptions options;
    options.transfer = OneThread();
    options.retention.keep = 1;
    return CheckpointRoot(fs, kRoot).Save(options, Step(step), *State(step), Assets()).status();
  }
  void Find(FileSystem& fs, int64_t* step) const override {
    CheckpointRoot root(fs, kRoot);
    ASSERT_OK_AND_ASSIGN(const std::vector<CheckpointRef> all, root.List());
    for (const CheckpointRef& ref : all) {
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(fs, ref.path, ref.step));
    }
    ASSERT_OK_AND_ASSIGN(const auto latest, root.Latest());
    *step = latest.has_value() ? latest->step : -1;
  }
  void ExpectClean(FileSystem& fs) const override {
    for (const DirectoryEntry& entry : std::vector<DirectoryEntry>(fs.List(kRoot).value())) {
      EXPECT_TRUE(entry.type == FileType::kFile || entry.name.rfind("step-", 0) == 0) << entry.name;
    }
    EXPECT_EQ(CheckpointRoot(fs, kRoot).List().value().size(), 1u);
  }
};

struct SweepCase {
  std::string name;
  std::shared_ptr<const Saver> saver;
  int64_t old_step = -1;  // -1: none before
};

class CheckpointCrashTest : public testing::TestWithParam<SweepCase> {
 protected:
  std::unique_ptr<MemoryFileSystem> Start() const {
    auto memory = std::make_unique<MemoryFileSystem>();
    EXPECT_OK(MakeDirectories(*memory, kRoot));
    EXPECT_OK(WriteSmallFile(*memory, kAsset, "{}"));
    EXPECT_OK(memory->SyncDirectory("/run"));
    if (old_step_ >= 0) {
      EXPECT_OK(saver_.Save(*memory, old_step_));
    }
    return memory->Crash(DiskState::kOnlySynced);
  }

  void Check(MemoryFileSystem& fs, bool saved) {
    int64_t step = -1;
    ASSERT_NO_FATAL_FAILURE(saver_.Find(fs, &step));
    ASSERT_TRUE(step == 20 || (!saved && step == old_step_)) << "found step " << step;
    ++recoveries_;
  }

  void CheckNextSave(MemoryFileSystem& fs) {
    ASSERT_OK(saver_.Save(fs, 30));
    int64_t step = -1;
    ASSERT_NO_FATAL_FAILURE(saver_.Find(fs, &step));
    ASSERT_EQ(step, 30);
    saver_.ExpectClean(fs);
  }

  const Saver& saver_ = *GetParam().saver;
  const int64_t old_step_ = GetParam().old_step;
  int recoveries_ = 0;
};

TEST_P(CheckpointCrashTest, OldOrNewIsWholeAfterAnyFaultAtAnyCall) {
  int faults = 0;
  for (const Fault fault : kAllFaults) {
    bool reached = true;
    for (int64_t k = 0; reached; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem fs(*memory, fault, k);
      const absl::Status status = saver_.Save(fs, 20);
      reached = fs.calls() > k;
      if (!fs.fired()) {
        continue;
      }
      ++faults;
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", k, " of ", fs.calls(), ": ", status.ToString()));
      ASSERT_NO_FATAL_FAILURE(Check(*memory, status.ok()));
      int states = 0;
      for (const DiskState state : kAllDiskStates) {
        for (int index = 0; index < memory->CrashCount(state); ++index) {
          SCOPED_TRACE(absl::StrCat("disk state ", static_cast<int>(state), ", index ", index));
          const std::unique_ptr<MemoryFileSystem> after = memory->Crash(state, index);
          ASSERT_NO_FATAL_FAILURE(Check(*after, status.ok()));
          if (index == 0 || ++states % 8 == 0) {
            ASSERT_NO_FATAL_FAILURE(CheckNextSave(*after));
          }
        }
      }
      ASSERT_NO_FATAL_FAILURE(CheckNextSave(*memory));
    }
  }
  std::cout << faults << " faults, " << recoveries_ << " recoveries\n";
  EXPECT_GT(faults, 150);
  EXPECT_GT(recoveries_, 2000);
}

TEST_P(CheckpointCrashTest, ASaveThatSaidOkSurvivesEveryDisk) {
  const std::unique_ptr<MemoryFileSystem> memory = Start();
  ASSERT_OK(saver_.Save(*memory, 20));
  for (const DiskState state : kAllDiskStates) {
    for (int index = 0; index < memory->CrashCount(state); ++index) {
      SCOPED_TRACE(absl::StrCat("disk state ", static_cast<int>(state), ", index ", index));
      ASSERT_NO_FATAL_FAILURE(Check(*memory->Crash(state, index), true));
    }
  }
}

TEST_P(CheckpointCrashTest, SaveObeysTheOrderOfSyncs) {
  const std::unique_ptr<MemoryFileSystem> memory = Start();
  FaultFileSystem fs(*memory);
  ASSERT_OK(saver_.Save(fs, 20));

  EXPECT_OK(CheckPublishOrder(fs.trace()));
}

// A killed save, a killed clean-up after it, then a power loss.
TEST_P(CheckpointCrashTest, TwoKillsAndAPowerLoss) {
  bool first_reached = true;
  for (int64_t first = 0; first_reached; first += 2) {
    bool second_reached = true;
    for (int64_t second = first % 3; second_reached && first_reached; second += 3) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem first_process(*memory, Fault::kKillAfter, first);
      saver_.Save(first_process, 20).IgnoreError();
      first_reached = first_process.fired();
      FaultFileSystem second_process(*memory, Fault::kKillAfter, second);
      saver_.Save(second_process, 20).IgnoreError();
      second_reached = second_process.fired();
      SCOPED_TRACE(absl::StrCat("kills at ", first, " and ", second));
      for (const DiskState state : {DiskState::kEverything, DiskState::kOnlySynced, DiskState::kDataOnly}) {
        ASSERT_NO_FATAL_FAILURE(Check(*memory->Crash(state), false));
      }
    }
  }
  EXPECT_GT(recoveries_, 200);
}

INSTANTIATE_TEST_SUITE_P(Sweep, CheckpointCrashTest,
                         testing::Values(SweepCase{"NewTarget", std::make_shared<TargetSaver>(), -1},
                                         SweepCase{"ReplacedTarget", std::make_shared<TargetSaver>(), 10},
                                         SweepCase{"EmptyRoot", std::make_shared<RootSaver>(), -1},
                                         SweepCase{"RootWithRetention", std::make_shared<RootSaver>(), 10},
                                         SweepCase{"SameStepAgain", std::make_shared<RootSaver>(), 20}),
                         [](const testing::TestParamInfo<SweepCase>& info) { return info.param.name; });

}  // namespace
}  // namespace waypoint
