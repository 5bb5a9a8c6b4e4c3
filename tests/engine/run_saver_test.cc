#include "engine/run_saver.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

class BeforeWriteTest : public ::testing::TestWithParam<std::string> {
 protected:
  absl::Status Save(const std::function<absl::Status()>& before_write) {
    ConfigLayers layers;
    WAYPOINT_RETURN_IF_ERROR(layers.AddText(TinyConfig(directory_, TextFile(directory_), 1), "config"));
    WAYPOINT_RETURN_IF_ERROR(layers.AddText(absl::StrCat("checkpoint { async: ", GetParam(), " }"), "config"));
    WAYPOINT_ASSIGN_OR_RETURN(const Start start, ResolveStart(PosixFileSystem(), layers, {}));
    const std::unique_ptr<ProcessGroups> groups = ProcessGroups::Alone();
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TrainState> state, TrainState::Create(start.config, *groups));
    LocalCoordinator alone;
    RunSaver saver(PosixFileSystem(), start, alone, nullptr);
    saver.SetBeforeWrite(before_write);
    WAYPOINT_RETURN_IF_ERROR(saver.Prepare(*state).status());
    absl::Status status = saver.SaveCheckpoint(*state, /*last=*/false);
    status.Update(saver.Finish());
    return status;
  }
  std::vector<std::string> Saved() const { return DirectoriesIn(directory_ + "/checkpoint"); }

  const std::string directory_ = FreshDirectory("before_write_" + GetParam());
};

// Training pauses for what its own thread does.
TEST_P(BeforeWriteTest, RunsOnceWhereTheCheckpointIsWrittenBeforeItIsPublished) {
  std::vector<std::thread::id> threads;
  std::vector<std::string> saved_before;

  ASSERT_OK(Save([&] {
    threads.push_back(std::this_thread::get_id());
    saved_before = Saved();
    return absl::OkStatus();
  }));

  ASSERT_EQ(threads.size(), 1u);
  EXPECT_EQ(threads[0] == std::this_thread::get_id(), GetParam() == "NONE");
  EXPECT_THAT(saved_before, ::testing::IsEmpty());
  EXPECT_THAT(Saved(), ::testing::ElementsAre("step-00000000"));
}

TEST_P(BeforeWriteTest, ItsFailureIsThatOfTheSave) {
  EXPECT_THAT(Save([] { return MakeError(ErrorKind::kIo, "history: fsync"); }),
              IsKind(ErrorKind::kIo, ::testing::HasSubstr("history: fsync")));

  EXPECT_THAT(Saved(), ::testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Methods, BeforeWriteTest, ::testing::Values("NONE", "COPY"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace waypoint::engine
