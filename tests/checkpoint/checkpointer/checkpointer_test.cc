#include "checkpoint/checkpointer/checkpointer.h"

#include "absl/strings/str_format.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/random_sink.h"
#include "tests/testing/random_tensors.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kRoot[] = "/run";

class CheckpointRootTest : public testing::Test {
 protected:
  absl::StatusOr<SaveReport> Save(int64_t step, const Retention& retention = {}) {
    CheckpointerOptions options;
    options.retention = retention;
    CheckpointMetadata metadata;
    metadata.mutable_training()->set_step(step);
    return root_.Save(options, metadata, state_);
  }

  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const CheckpointRef& ref : std::vector<CheckpointRef>(root_.List().value())) {
      names.push_back(BaseName(ref.path));
    }
    return names;
  }

  void SetUp() override { state_.Add("a", DType::kF32, {2}, std::vector<float>{1, 2}); }

  MemoryFileSystem fs_;
  CheckpointRoot root_{fs_, kRoot};
  MemorySource state_;
};

TEST_F(CheckpointRootTest, ARootThatIsNotThereIsEmpty) {
  EXPECT_THAT(root_.List().value(), IsEmpty());
  EXPECT_FALSE(root_.Latest().value().has_value());
}

TEST_F(CheckpointRootTest, StepsNameTheDirectories) {
  ASSERT_OK_AND_ASSIGN(const SaveReport report, Save(10));
  EXPECT_EQ(report.checkpoint.path, "/run/step-00000010");
  EXPECT_EQ(report.checkpoint.attempt, 1);
  EXPECT_EQ(report.stats.blocks, 1);
  ASSERT_OK(Save(123'456'789'012));

  EXPECT_THAT(Names(), ElementsAre("step-00000010", "step-123456789012"));
}

TEST_F(CheckpointRootTest, LatestIsByNumber) {
  for (const int64_t step : {100'000'000, 20, 99'999'999}) {
    ASSERT_OK(Save(step));
  }
  EXPECT_EQ(root_.Latest().value()->step, 100'000'000);
}

TEST_F(CheckpointRootTest, TheSameStepGetsTheNextAttempt) {
  for (int i = 0; i < 11; ++i) {
    ASSERT_OK(Save(10));
  }
  EXPECT_EQ(Names().back(), "step-00000010.a11");
  EXPECT_EQ(root_.Latest().value()->attempt, 11);
}

TEST_F(CheckpointRootTest, OtherThingsInTheRootAreIgnoredAndLeftAlone) {
  for (const char* name : {"step-00000020", "step-20", "step-00000030.a1", "step-00000030.a02", "step-x", "notes",
                           "step-00000040.old", ".step-notes.tmp-1", ".cache"}) {
    ASSERT_OK(MakeDirectories(fs_, JoinPath(kRoot, name)));
    ASSERT_OK(WriteSmallFile(fs_, JoinPath(JoinPath(kRoot, name), "file"), "x"));
  }
  ASSERT_OK(WriteSmallFile(fs_, "/run/step-00000050", "a file"));
  const size_t before = ReadContents(fs_, kRoot).size();
  Retention keep_one;
  keep_one.keep = 1;

  ASSERT_OK(Save(10, keep_one));

  EXPECT_THAT(Names(), ElementsAre("step-00000010"));
  EXPECT_EQ(root_.Latest().value()->step, 10);
  EXPECT_EQ(ReadContents(fs_, kRoot).size(), before + 2 + 1);  // model, manifest, lock
  // An incomplete directory of that name is not written into.
  ASSERT_OK_AND_ASSIGN(const SaveReport report, Save(20));
  EXPECT_EQ(report.checkpoint.attempt, 2);
}

TEST_F(CheckpointRootTest, TheNewestScheduledSavesAreKept) {
  Retention retention;
  retention.keep = 2;
  retention.interval = 10;
  for (int64_t step = 10; step <= 50; step += 10) {
    ASSERT_OK_AND_ASSIGN(const SaveReport report, Save(step, retention));
    EXPECT_THAT(report.deleted, step <= 20 ? ElementsAre()
                                           : testing::Matcher<std::vector<std::string>>(
                                                 ElementsAre(absl::StrFormat("/run/step-%08d", step - 20))));
  }
  EXPECT_THAT(Names(), ElementsAre("step-00000040", "step-00000050"));
}

TEST_F(CheckpointRootTest, EveryNthScheduledSaveStays) {
  Retention retention;
  retention.keep = 1;
  retention.keep_every = 3;
  retention.interval = 10;
  for (int64_t step = 10; step <= 80; step += 10) {
    ASSERT_OK(Save(step, retention));
  }
  EXPECT_THAT(Names(), ElementsAre("step-00000030", "step-00000060", "step-00000080"));
}

TEST_F(CheckpointRootTest, SavesOffTheScheduleStayAndDoNotCountWhereThatIsAsked) {
  Retention retention;
  retention.keep = 1;
  retention.interval = 10;
  retention.keep_unscheduled = true;
  for (const int64_t step : {10, 13, 20, 27, 30}) {
    ASSERT_OK(Save(step, retention));
  }
  EXPECT_THAT(Names(), ElementsAre("step-00000013", "step-00000027", "step-00000030"));
}

TEST_F(CheckpointRootTest, ZeroKeepsAll) {
  for (int64_t step = 1; step <= 5; ++step) {
    ASSERT_OK(Save(step));
  }
  EXPECT_EQ(Names().size(), 5u);
}

// A run that was taken back to an earlier step.
TEST_F(CheckpointRootTest, TheSaveJustMadeIsNotDeleted) {
  Retention retention;
  retention.keep = 1;
  ASSERT_OK(Save(50, retention));
  ASSERT_OK_AND_ASSIGN(const SaveReport report, Save(20, retention));

  EXPECT_THAT(report.deleted, IsEmpty());
  EXPECT_THAT(Names(), ElementsAre("step-00000020", "step-00000050"));
}

TEST_F(CheckpointRootTest, TrashAndStagesOfKilledSavesGo) {
  for (const char* name : {".trash-step-00000001", ".step-00000013.tmp-1", ".step-00000013.a2.tmp-77"}) {
    ASSERT_OK(MakeDirectories(fs_, JoinPath(kRoot, name)));
    ASSERT_OK(WriteSmallFile(fs_, JoinPath(JoinPath(kRoot, name), "file"), "x"));
  }
  ASSERT_OK(Save(20));

  for (const DirectoryEntry& entry : std::vector<DirectoryEntry>(fs_.List(kRoot).value())) {
    EXPECT_TRUE(entry.type == FileType::kFile || entry.name == "step-00000020") << entry.name;
  }
}

TEST_F(CheckpointRootTest, OneSaverAtATime) {
  ASSERT_OK(MakeDirectories(fs_, kRoot));
  ASSERT_OK_AND_ASSIGN(const auto lock, fs_.Lock("/run/.lock"));
  EXPECT_THAT(Save(10), IsKind(ErrorKind::kLocked));
}

TEST_F(CheckpointRootTest, ErrorsNameTheStep) {
  CheckpointerOptions options;
  options.format = "gguf";
  CheckpointMetadata metadata;
  metadata.mutable_training()->set_step(17);
  EXPECT_THAT(root_.Save(options, metadata, state_),
              IsKind(ErrorKind::kRequest, AllOf(HasSubstr("step 17"), HasSubstr("\"gguf\""), HasSubstr("native"))));
}

class DetectFormatTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_OK(fs_.MakeDirectory("/model")); }
  MemoryFileSystem fs_;
};

TEST_F(DetectFormatTest, UnknownDirectoriesListTheChoices) {
  EXPECT_THAT(DetectFormat(fs_, "/model"),
              IsKind(ErrorKind::kUnsupported, AllOf(HasSubstr("\"/model\""), HasSubstr("llama, native"))));
  EXPECT_THAT(DetectFormat(fs_, "/gone"), IsKind(ErrorKind::kIo, HasSubstr("/gone")));
  ASSERT_OK(WriteSmallFile(fs_, "/file", "x"));
  EXPECT_THAT(DetectFormat(fs_, "/file"), IsKind(ErrorKind::kIo, HasSubstr("no directory")));
}

TEST_F(DetectFormatTest, TwoAnswersAreAmbiguous) {
  ASSERT_OK(WriteSmallFile(fs_, "/model/config.json", R"({"model_type": "llama"})"));
  ASSERT_OK(WriteSmallFile(fs_, "/model/manifest.pb", "x"));
  EXPECT_THAT(DetectFormat(fs_, "/model"), IsKind(ErrorKind::kAmbiguous, HasSubstr("llama or native")));
}

TEST_F(DetectFormatTest, ABrokenConfigIsTheError) {
  ASSERT_OK(WriteSmallFile(fs_, "/model/config.json", R"({"model_type": )"));
  EXPECT_THAT(DetectFormat(fs_, "/model"), IsKind(ErrorKind::kJson, HasSubstr("config.json")));
  Rewrite(fs_, "/model/config.json", "[]");
  EXPECT_THAT(DetectFormat(fs_, "/model"), IsKind(ErrorKind::kSchema));
}

TEST_F(DetectFormatTest, ANameIsTakenAtItsWord) {
  EXPECT_EQ(FindFormat(fs_, "/model", "llama").value()->name(), "llama");
  EXPECT_THAT(FindFormat(fs_, "/model", "gguf"), IsKind(ErrorKind::kRequest, HasSubstr("llama, native")));
  EXPECT_THAT(FindFormat(fs_, "/model", "auto"), IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(FindFormat(fs_, "/model", ""), IsKind(ErrorKind::kUnsupported));
}

class RestoreTest : public testing::Test {
 protected:
  void SetUp() override {
    state_ = NewDecoderState(models::TinyConfig(), 3);
    ASSERT_OK(WriteCheckpoint(fs_, "/native", {}, state_.metadata, *state_.tensors, {}));
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs_, "/native"));
    ASSERT_OK_AND_ASSIGN(opened_, format->Open(fs_, "/native", {}));
  }

  Manifest Wanted(DType dtype) { return models::ParameterManifest(models::TinyConfig(), dtype).value(); }

  MemoryFileSystem fs_;
  DecoderState state_;
  OpenedCheckpoint opened_;
  RandomGeometry random_{101};
};

TEST_F(RestoreTest, WeightsAreCastToWhatTheSinkHolds) {
  const DecoderState wanted = NewDecoderState(models::TinyConfig(), 3, DType::kF32);
  RandomSink sink(Wanted(DType::kF32), &random_);

  ASSERT_OK(Restore(opened_, sink, {}));

  for (int64_t i = 0; i < sink.manifest().size(); ++i) {
    const int64_t index = wanted.tensors->manifest().Find(sink.manifest()[i].name);
    EXPECT_EQ(sink.bytes(i), ReadWhole(*wanted.tensors, index).value());
  }
}

TEST_F(RestoreTest, WithoutCastAnotherTypeIsRefused) {
  RandomSink sink(Wanted(DType::kF32), &random_);
  RestoreOptions options;
  options.cast = false;
  EXPECT_THAT(Restore(opened_, sink, options), IsKind(ErrorKind::kDType, HasSubstr("BF16, wanted F32")));
}

TEST_F(RestoreTest, AllMissingTensorsAreNamed) {
  Manifest wanted = Wanted(DType::kBF16);
  ASSERT_OK(wanted.Add({"adapter.a", DType::kF32, {2}, {}}));
  ASSERT_OK(wanted.Add({"adapter.b", DType::kF32, {2}, {}}));
  RandomSink sink(wanted, &random_);
  EXPECT_THAT(Restore(opened_, sink, {}),
              IsKind(ErrorKind::kMissing, AllOf(HasSubstr("\"adapter.a\""), HasSubstr("\"adapter.b\""))));
  EXPECT_EQ(sink.finished, 0);
}

TEST_F(RestoreTest, TypesThatCannotBeCastAreRefused) {
  Manifest wanted;
  ASSERT_OK(wanted.Add({"head.final_norm.weight", DType::kI64, {16}, {}}));
  RandomSink sink(wanted, &random_);
  EXPECT_THAT(Restore(opened_, sink, {}), IsKind(ErrorKind::kDType, HasSubstr("head.final_norm.weight")));
}

TEST(WriteCheckpointTest, AnExistingTargetIsRefusedUnlessAsked) {
  MemoryFileSystem fs;
  MemorySource state;
  state.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
  WriteOptions options;
  ASSERT_OK(WriteCheckpoint(fs, "/c", options, {}, state, {}));
  EXPECT_THAT(WriteCheckpoint(fs, "/c", options, {}, state, {}), IsKind(ErrorKind::kExists));
  options.overwrite = true;
  EXPECT_OK(WriteCheckpoint(fs, "/c", options, {}, state, {}));
}

TEST(WriteCheckpointTest, AWrongRequestLeavesNoTrace) {
  MemoryFileSystem fs;
  MemorySource state;
  state.Add("a", DType::kI32, {2}, std::vector<int32_t>{1, 2});
  WriteOptions options;
  options.save.weights_dtype = DType::kF32;
  EXPECT_THAT(WriteCheckpoint(fs, "/out/c", options, {}, state, {}), IsKind(ErrorKind::kDType));
  options.format = "llama";
  EXPECT_FALSE(WriteCheckpoint(fs, "/out/c", options, {}, state, {}).ok());
  EXPECT_THAT(fs.List("/").value(), IsEmpty());
}

TEST(WriteCheckpointTest, BeforePublishSeesAllAndMayRefuse) {
  MemoryFileSystem fs;
  MemorySource state;
  state.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
  WriteOptions options;
  options.before_publish = [&fs](const std::string& staged) {
    EXPECT_TRUE(DetectFormat(fs, staged).ok());
    return MakeError(ErrorKind::kVerify, "not today");
  };
  EXPECT_THAT(WriteCheckpoint(fs, "/c", options, {}, state, {}), IsKind(ErrorKind::kVerify));
  EXPECT_FALSE(Exists(fs, "/c").value());
}

}  // namespace
}  // namespace waypoint
