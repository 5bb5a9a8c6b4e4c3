// A run whose newest checkpoint is damaged goes on from the one before, and only then.

#include "engine/damage.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "engine/trainer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Of `path`, from its begin, or from its end where `at` is negative.
void Flip(const std::string& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  ASSERT_TRUE(file) << path;
  const std::ios::seekdir from = at < 0 ? std::ios::end : std::ios::beg;
  file.seekg(at, from);
  const char byte = static_cast<char>(file.get());
  file.seekp(at, from);
  file.put(static_cast<char>(byte ^ 1));
}

void Shorten(const std::string& path) {
  ASSERT_EQ(truncate(path.c_str(), PosixFileSystem().Stat(path).value().size_bytes - 1), 0);
}

struct Harm {
  std::string name;
  ErrorKind kind;
  std::function<void(const std::string& checkpoint)> make;
};

void PrintTo(const Harm& harm, std::ostream* out) { *out << harm.name; }

std::vector<Harm> Harms() {
  return {
      {"weights", ErrorKind::kChecksum, [](const std::string& path) { Flip(path + "/model.safetensors", -1); }},
      {"optimizer", ErrorKind::kChecksum, [](const std::string& path) { Flip(path + "/optimizer.safetensors", -9); }},
      {"manifest", ErrorKind::kChecksum, [](const std::string& path) { Flip(path + "/manifest.pb", 100); }},
      {"seal", ErrorKind::kChecksum, [](const std::string& path) { Flip(path + "/manifest.pb", -1); }},
      {"magic", ErrorKind::kHeader, [](const std::string& path) { Flip(path + "/manifest.pb", 0); }},
      {"version", ErrorKind::kChecksum, [](const std::string& path) { Flip(path + "/manifest.pb", 8); }},
      {"short", ErrorKind::kTruncated, [](const std::string& path) { Shorten(path + "/optimizer.safetensors"); }},
      {"missing", ErrorKind::kMissing,
       [](const std::string& path) { EXPECT_OK(PosixFileSystem().RemoveFile(path + "/model.safetensors")); }},
  };
}

class DamageTest : public ::testing::TestWithParam<Harm> {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    directory_ = FreshDirectory("damage_" + absl::StrReplaceAll(name, {{"/", "_"}}));
    config_ = TinyConfig(directory_ + "/run", TextFile(directory_), 6) + " checkpoint { interval: 2 keep: 0 }";
    ASSERT_OK(RunTraining({config_}, Quiet()));
    newest_ = directory_ + "/run/checkpoint/step-00000006";
    options_.print = [this](const std::string& line) { absl::StrAppend(&lines_, line, "\n"); };
  }

  std::vector<std::string> Saved() const { return DirectoriesIn(directory_ + "/run/checkpoint"); }

  std::string directory_;
  std::string config_;
  std::string newest_;
  std::string lines_;
  TrainerOptions options_;
};

TEST_P(DamageTest, TheRunFallsBackLoudlyAndLosesNothing) {
  ASSERT_OK_AND_ASSIGN(const FinishedRun straight,
                       RunTraining({config_, absl::StrCat("output: \"", directory_, "/straight\"")}, Quiet()));
  GetParam().make(newest_);
  const DirectoryContents damaged = ReadContents(PosixFileSystem(), newest_);

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config_}, options_));

  EXPECT_EQ(run.report.first_step, 4);
  EXPECT_THAT(lines_, AllOf(HasSubstr(absl::StrCat("warning: checkpoint \"", newest_, "\" is damaged")),
                            HasSubstr(std::string(ErrorKindName(GetParam().kind))),
                            HasSubstr("continues from an older one, \"" + directory_ + "/run/checkpoint/step-00000004"),
                            HasSubstr("is now \"" + newest_ + ".damaged\"")));
  EXPECT_THAT(Saved(), ElementsAre("step-00000002", "step-00000004", "step-00000006", "step-00000006.damaged"));
  EXPECT_TRUE(ReadContents(PosixFileSystem(), newest_ + ".damaged") == damaged);
  // Nothing of what was read of the damaged one is left in the state.
  EXPECT_EQ(DifferenceOf(run.trainer->state().Tensors(), straight.trainer->state().Tensors()), "");
}

TEST_P(DamageTest, StopIsAnErrorThatSaysHowToGoOnAndRenamesNothing) {
  GetParam().make(newest_);

  EXPECT_THAT(
      RunTraining({config_, "resume { on_damage: STOP }"}, Quiet()),
      IsKind(GetParam().kind,
             AllOf(HasSubstr(absl::StrCat("move \"", newest_, "\" away")),
                   HasSubstr(absl::StrCat("the one before, \"", directory_, "/run/checkpoint/step-00000004")))));

  EXPECT_THAT(Saved(), ElementsAre("step-00000002", "step-00000004", "step-00000006"));
}

TEST_P(DamageTest, OneAfterTheOtherIsLeftAsideAndTheLastOneIsAnError) {
  for (const std::string step : {"2", "4", "6"}) {
    GetParam().make(absl::StrCat(directory_, "/run/checkpoint/step-0000000", step));
  }

  EXPECT_THAT(RunTraining({config_}, options_),
              IsKind(GetParam().kind,
                     AllOf(HasSubstr("no checkpoint of the run is whole"), HasSubstr(newest_),
                           HasSubstr("step-00000004"), HasSubstr("step-00000002"), HasSubstr("start_over: true"))));
  EXPECT_THAT(Saved(), ElementsAre("step-00000002", "step-00000004", "step-00000006"));

  ASSERT_OK_AND_ASSIGN(const FinishedRun anew, RunTraining({config_, "start_over: true steps: 2"}, options_));
  EXPECT_EQ(anew.report.first_step, 0);
  EXPECT_THAT(Saved(),
              ElementsAre("step-00000002", "step-00000002.damaged", "step-00000004.damaged", "step-00000006.damaged"));
}

INSTANTIATE_TEST_SUITE_P(Harms, DamageTest, ::testing::ValuesIn(Harms()),
                         [](const auto& info) { return info.param.name; });

class NoDamageTest : public DamageTest {};

// Fails what is read of the newest checkpoint.
class FailingDisk : public FaultFileSystem {
 public:
  explicit FailingDisk(int error, std::string name)
      : FaultFileSystem(PosixFileSystem()), error_(error), name_(std::move(name)) {}
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                            const OpenOptions& options) override {
    if (absl::StrContains(path, "step-00000006/" + name_)) {
      return ErrnoError(error_, absl::StrCat("open of \"", path, "\""));
    }
    return FaultFileSystem::OpenForRead(path, options);
  }

 private:
  const int error_;
  const std::string name_;
};

TEST_F(NoDamageTest, ADiskThatDoesNotAnswerIsNoReasonToGiveACheckpointUp) {
  for (const int error : {EIO, EACCES, ENOMEM, EMFILE, ESTALE}) {
    for (const char* name : {"manifest.pb", "model", "optimizer"}) {
      FailingDisk disk(error, name);
      TrainerOptions options = Quiet();
      options.fs = &disk;

      EXPECT_THAT(RunTraining({config_}, options),
                  IsKind(error == ENOMEM ? ErrorKind::kNoMemory : ErrorKind::kIo, HasSubstr("step-00000006")));

      EXPECT_THAT(Saved(), ElementsAre("step-00000002", "step-00000004", "step-00000006"));
    }
  }
}

TEST_F(NoDamageTest, AConfigThatDoesNotFitIsNoReasonEither) {
  EXPECT_THAT(RunTraining({config_, "dtype: \"bfloat16\""}, Quiet()), IsKind(ErrorKind::kConfig));
  EXPECT_THAT(RunTraining({config_, "model { hidden_size: 32 }"}, Quiet()), IsKind(ErrorKind::kConfig));

  EXPECT_THAT(Saved(), ElementsAre("step-00000002", "step-00000004", "step-00000006"));
}

TEST_F(NoDamageTest, OneThatIsNotSealedIsPassedOverWithANoteOrStopsTheRun) {
  ASSERT_OK(PosixFileSystem().RemoveFile(newest_ + "/manifest.pb"));

  EXPECT_THAT(RunTraining({config_, "resume { on_damage: STOP }"}, Quiet()),
              IsKind(ErrorKind::kMissing, AllOf(HasSubstr(newest_), HasSubstr("no sealed checkpoint"))));
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config_}, options_));

  EXPECT_EQ(run.report.first_step, 4);
  EXPECT_THAT(lines_, HasSubstr(absl::StrCat("note: \"", newest_, "\" holds no sealed checkpoint")));
}

// Each byte of what is read before the tensors, and the sizes of all files.
TEST(DamageOfOpenTest, EveryFlipThatIsNoticedIsDamage) {
  const std::string directory = FreshDirectory("flips");
  for (const std::string format : {"native", "distributed"}) {
    ASSERT_OK_AND_ASSIGN(const FinishedRun run,
                         RunTraining({TinyConfig(directory + "/" + format, TextFile(directory), 1),
                                      absl::StrCat("checkpoint { format: \"", format, "\" }")},
                                     Quiet()));
    const DirectoryContents whole = ReadContents(PosixFileSystem(), run.report.checkpoints.at(0));
    MemoryFileSystem fs;
    ASSERT_OK(MakeDirectories(fs, "/root/step-00000001"));
    for (const auto& [name, bytes] : whole) {
      ASSERT_OK(WriteSmallFile(fs, "/root/step-00000001/" + name, bytes));
    }
    int noticed = 0;
    for (const auto& [name, bytes] : whole) {
      // All of the first bytes, which say how to read the rest.
      for (size_t at = 0; at < std::min<size_t>(bytes.size(), 6000); at += at < 200 ? 1 : 13) {
        for (const char bit : {'\x01', '\x80'}) {
          std::string flipped = bytes;
          flipped[at] = static_cast<char>(flipped[at] ^ bit);
          Rewrite(fs, "/root/step-00000001/" + name, flipped);
          ASSERT_OK_AND_ASSIGN(const auto found, CheckpointRoot(fs, "/root").Latest());
          if (!found.has_value()) {
            continue;  // passed over: the seal is not whole
          }
          auto opener = DetectFormat(fs, found->path);
          const absl::Status opened = opener.ok() ? (*opener)->Open(fs, found->path, {}).status() : opener.status();
          noticed += opened.ok() ? 0 : 1;
          EXPECT_TRUE(opened.ok() || IsDamageOfOpen(opened)) << name << " " << at << ": " << opened;
        }
      }
      Rewrite(fs, "/root/step-00000001/" + name, bytes);
    }
    EXPECT_GT(noticed, 500);
  }
}

// What only the last rank reads.
TEST(DamageOfRanksTest, AllFallBackTogetherWhoeverFindsIt) {
  const std::string directory = FreshDirectory("ranks");
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 4) + " checkpoint { interval: 2 }";
  const std::string mesh = "mesh { zero: WEIGHTS }";
  const JobRun straight = RunJob(3, {config, mesh});
  ASSERT_THAT(straight.statuses, Each(IsOk()));
  const std::string newest = directory + "/run/checkpoint/step-00000004";
  Flip(newest + "/rank-00002-of-00003.safetensors", -1);

  const JobRun stopped = RunJob(3, {config, mesh, "resume { on_damage: STOP }"});
  EXPECT_THAT(stopped.statuses[2], IsKind(ErrorKind::kChecksum, HasSubstr("the one before")));
  for (const int other : {0, 1}) {
    EXPECT_THAT(stopped.statuses[other], IsKind(ErrorKind::kRank, HasSubstr("rank 2 failed: E_CHECKSUM")));
  }

  const JobRun again = RunJob(3, {config, mesh});
  ASSERT_THAT(again.statuses, Each(IsOk()));
  EXPECT_EQ(again.reports[1].first_step, 2);
  EXPECT_THAT(again.lines,
              Contains(AllOf(HasSubstr("warning: checkpoint \"" + newest), HasSubstr("rank 2: E_CHECKSUM"))));
  EXPECT_EQ(DifferenceOf(again.end, straight.end), "");
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"),
              ElementsAre("step-00000002", "step-00000004", "step-00000004.damaged"));
}

// A file that one host does not see yet.
class LateView : public FaultFileSystem {
 public:
  LateView() : FaultFileSystem(PosixFileSystem()) {}
  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    return absl::EndsWith(path, "step-00000002/rank-00001-of-00002.safetensors") ? FaultFileSystem::Stat(path + ".none")
                                                                                 : FaultFileSystem::Stat(path);
  }
};

TEST(DamageOfRanksTest, WhatRankZeroSeesIsNotMissing) {
  const std::string directory = FreshDirectory("late_view");
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 2) + " checkpoint { interval: 1 }";
  ASSERT_THAT(RunJob(2, {config}).statuses, Each(IsOk()));
  LateView late;
  JobOptions options;
  options.fs_of_rank = [&](int rank) -> FileSystem* { return rank == 1 ? &late : &PosixFileSystem(); };

  const JobRun run = RunJob(2, {config, "steps: 3"}, options);

  EXPECT_THAT(run.statuses[1], IsKind(ErrorKind::kMissing));
  EXPECT_THAT(run.statuses[0], IsKind(ErrorKind::kRank, HasSubstr("rank 1")));
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"), ElementsAre("step-00000001", "step-00000002"));
}

TEST(DamageInTest, DamageCountsWhereNobodyFailedOtherwise) {
  const absl::Status damage = MakeError(ErrorKind::kChecksum, "block 3");
  const absl::Status disk = MakeError(ErrorKind::kIo, "EIO");
  const std::string found = DamageVote(damage, true);

  EXPECT_EQ(DamageIn({"", ""}, 0, absl::OkStatus()), absl::nullopt);
  EXPECT_EQ(DamageIn({found, DamageVote(disk, false)}, 0, damage), absl::nullopt);
  EXPECT_EQ(DamageIn({}, 0, damage), absl::nullopt) << "ranks that cannot be reached";
  EXPECT_THAT(*DamageIn({"", found}, 1, damage), IsKind(ErrorKind::kChecksum, "block 3"));
  EXPECT_THAT(*DamageIn({"", found}, 0, absl::OkStatus()),
              IsKind(ErrorKind::kRank, HasSubstr("rank 1: E_CHECKSUM: block 3")));
}

}  // namespace
}  // namespace waypoint::engine
