#include "checkpoint/coordination/rank_watch.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr int kRanks = 5;

std::string PortIn(const std::string& invitation) { return invitation.substr(0, invitation.find('/')); }

// The end of a process that is watched as `rank`, with or without its farewell.
void EndProcess(const std::string& invitation, int rank, bool farewell) {
  const pid_t child = fork();
  if (child == 0) {
    auto watched = WatchedRank::Connect("127.0.0.1", invitation, rank, kLong);
    if (!watched.ok()) {
      _exit(1);
    }
    if (farewell) {
      watched->reset();
      _exit(0);
    }
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), farewell ? 0 : -SIGKILL);
}

// The first rank that is reported, after processes that must not be.
class RankWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(watch_, RankWatch::Create("127.0.0.1", kRanks, absl::Seconds(30), [this](int rank) {
                           if (!std::exchange(told_, true)) {
                             first_dead_.set_value(rank);
                           }
                         }));
  }
  int FirstDead() { return first_dead_.get_future().get(); }

  std::promise<int> first_dead_;
  bool told_ = false;
  std::unique_ptr<RankWatch> watch_;
};

TEST_F(RankWatchTest, AProcessThatIsKilledIsReported) {
  EndProcess(watch_->invitation(), 3, /*farewell=*/false);

  EXPECT_EQ(FirstDead(), 3);
}

TEST_F(RankWatchTest, ARankThatTookLeaveIsNot) {
  EndProcess(watch_->invitation(), 2, /*farewell=*/true);
  EndProcess(watch_->invitation(), 3, /*farewell=*/false);

  EXPECT_EQ(FirstDead(), 3);
}

TEST_F(RankWatchTest, WhoWasNotInvitedIsNoRank) {
  EndProcess(PortIn(watch_->invitation()) + "/0123456789abcdef", 1, /*farewell=*/false);
  EndProcess(watch_->invitation(), kRanks, /*farewell=*/false);  // there is no such rank
  EndProcess(watch_->invitation(), 3, /*farewell=*/false);

  EXPECT_EQ(FirstDead(), 3);
}

TEST_F(RankWatchTest, APortThatNobodyListensAtAndNoInvitationAreErrors) {
  EXPECT_THAT(WatchedRank::Connect("127.0.0.1", "1/0123456789abcdef", 2, kLong),
              IsKind(ErrorKind::kRank, HasSubstr("rank 2 cannot have itself watched by rank 0 at 127.0.0.1:1")));
  EXPECT_THAT(WatchedRank::Connect("127.0.0.1", "1", 2, kLong), IsKind(ErrorKind::kRank, HasSubstr("<port>/<word>")));
}

}  // namespace
}  // namespace waypoint
