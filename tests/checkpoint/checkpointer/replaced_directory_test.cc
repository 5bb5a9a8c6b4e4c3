// What a new checkpoint takes with it, over all formats that are linked.

#include "checkpoint/checkpointer/replaced_directory.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"

namespace waypoint {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kTarget[] = "/out/model";

class ReplacedDirectoryTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ASSERT_OK(WriteSmallFile(fs_, "/tokenizer.json", "{}"));
    ASSERT_OK(Write());
  }

  absl::Status Write(const std::vector<Asset>& assets = {{"tokenizer.json", "/tokenizer.json", 2, {}}}) {
    WriteOptions options;
    options.format = GetParam();
    options.overwrite = true;
    options.notes = &notes_;
    options.before_publish = before_publish_;
    return WriteCheckpoint(fs_, kTarget, options, state_.metadata, *state_.tensors, assets).status();
  }

  MemoryFileSystem fs_;
  DecoderState state_ = NewDecoderState(models::TinyConfig(), 5);
  std::vector<std::string> notes_;
  std::function<absl::Status(const std::string&)> before_publish_;
};

TEST_P(ReplacedDirectoryTest, TheSameCheckpointIsReplacedAgainAndAgain) {
  EXPECT_OK(Write());
  EXPECT_OK(Write());
  EXPECT_EQ(fs_.List("/out").value().size(), 1);
}

TEST_P(ReplacedDirectoryTest, WhatSomebodyMadeByHandIsNamedAndStays) {
  for (const std::string name : {"README.md", "LICENSE", "modeling_mine.py", "notes.md", "generation_config.json",
                                 "tokenizer.model", "assets/mine.json", "additional_chat_templates/mine.jinja"}) {
    const std::string path = JoinPath(kTarget, name);
    ASSERT_OK(MakeDirectories(fs_, DirName(path)));
    ASSERT_OK(WriteSmallFile(fs_, path, "mine"));
    const DirectoryContents before = ReadContents(fs_, kTarget);
    EXPECT_THAT(Write(), IsKind(ErrorKind::kExists, HasSubstr(absl::StrCat("\"", name, "\""))));
    EXPECT_EQ(ReadContents(fs_, kTarget), before);
    ASSERT_OK(fs_.RemoveFile(path));
    // A directory that holds nothing is nobody's either.
    fs_.RemoveDirectory(DirName(path)).IgnoreError();
  }
  EXPECT_OK(Write());
}

TEST_P(ReplacedDirectoryTest, ATravellingFileGoesOnlyWhenTheNewOneBringsIt) {
  const bool has_manifest = !Registry<CheckpointFormat>::Global().Find(GetParam())->external();
  const absl::Status without = Write({});
  if (has_manifest) {
    EXPECT_OK(without);  // its own manifest names it
  } else {
    EXPECT_THAT(without, IsKind(ErrorKind::kExists, HasSubstr("\"tokenizer.json\"")));
  }
}

TEST_P(ReplacedDirectoryTest, WhatAppearsInItMeanwhileIsMovedAside) {
  before_publish_ = [this](const std::string&) { return WriteSmallFile(fs_, JoinPath(kTarget, "late.txt"), "mine"); };
  ASSERT_OK(Write());
  EXPECT_EQ(ReadContents(fs_, "/out/model.replaced-1").at("late.txt"), "mine");
  EXPECT_FALSE(Exists(fs_, JoinPath(kTarget, "late.txt")).value());
  EXPECT_THAT(notes_, Contains(HasSubstr("\"/out/model.replaced-1\"")));

  // Nothing in its way is overwritten.
  ASSERT_OK(Write());
  EXPECT_EQ(ReadContents(fs_, "/out/model.replaced-1").at("late.txt"), "mine");
  EXPECT_EQ(ReadContents(fs_, "/out/model.replaced-2").at("late.txt"), "mine");
}

TEST_P(ReplacedDirectoryTest, WhatAppearsInItsPlaceMeanwhileIsMovedAside) {
  ASSERT_OK(RemoveTree(fs_, kTarget));
  before_publish_ = [this](const std::string&) {
    EXPECT_OK(fs_.MakeDirectory(kTarget));
    return WriteSmallFile(fs_, JoinPath(kTarget, "theirs"), "theirs");
  };
  ASSERT_OK(Write());
  EXPECT_EQ(ReadContents(fs_, "/out/model.replaced-1").at("theirs"), "theirs");
  EXPECT_OK(DetectFormat(fs_, kTarget));
}

TEST_P(ReplacedDirectoryTest, BelowADamagedOneNothingThatIsNotItsOwnGoes) {
  CheckpointFormat& format = *Registry<CheckpointFormat>::Global().Find(GetParam());
  ASSERT_OK(MakeDirectories(fs_, JoinPath(kTarget, "assets")));
  ASSERT_OK(WriteSmallFile(fs_, JoinPath(kTarget, "assets/mine.json"), "mine"));
  for (const auto& [name, bytes] : ReadContents(fs_, kTarget)) {
    if (absl::EndsWith(name, ".pb")) {
      Rewrite(fs_, JoinPath(kTarget, name), bytes.substr(0, bytes.size() / 2));
    }
  }
  EXPECT_FALSE(!format.external() && format.Open(fs_, kTarget, {}).ok());
  EXPECT_THAT(Write(), IsKind(ErrorKind::kExists, HasSubstr("\"assets/mine.json\"")));
}

INSTANTIATE_TEST_SUITE_P(Formats, ReplacedDirectoryTest,
                         testing::ValuesIn(Registry<CheckpointFormat>::Global().Names()),
                         [](const auto& info) { return info.param; });

TEST(ReplacedDirectoryLookTest, WhatIsNoCheckpointIsRefused) {
  MemoryFileSystem fs;
  EXPECT_OK(ReplacedDirectory::Look(fs, "/nothing", {}));
  ASSERT_OK(fs.MakeDirectory("/empty"));
  EXPECT_OK(ReplacedDirectory::Look(fs, "/empty", {}));
  ASSERT_OK(WriteSmallFile(fs, "/file", "x"));
  EXPECT_THAT(ReplacedDirectory::Look(fs, "/file", {}), IsKind(ErrorKind::kExists, HasSubstr("neither a checkpoint")));
  ASSERT_OK(fs.MakeDirectory("/other"));
  ASSERT_OK(WriteSmallFile(fs, "/other/thesis.tex", "x"));
  EXPECT_THAT(ReplacedDirectory::Look(fs, "/other", {}), IsKind(ErrorKind::kExists, HasSubstr("neither a checkpoint")));
}

}  // namespace
}  // namespace waypoint
