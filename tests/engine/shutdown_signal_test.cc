#include "engine/shutdown_signal.h"

#include <csignal>

#include "gtest/gtest.h"

namespace waypoint::engine {
namespace {

int previous_calls = 0;
void Previous(int) { ++previous_calls; }

class ShutdownSignalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    previous_calls = 0;
    std::signal(SIGINT, Previous);
    std::signal(SIGTERM, Previous);
  }
  void TearDown() override {
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGHUP, SIG_DFL);
  }
};

TEST_F(ShutdownSignalTest, FirstSignalIsNoted) {
  ShutdownSignal shutdown;
  EXPECT_EQ(shutdown.received(), 0);

  std::raise(SIGTERM);

  EXPECT_EQ(shutdown.received(), SIGTERM);
  EXPECT_EQ(previous_calls, 0);
}

TEST_F(ShutdownSignalTest, ALaterSignalGoesToThePreviousHandler) {
  ShutdownSignal shutdown(/*echo_seconds=*/0);

  std::raise(SIGINT);
  std::raise(SIGTERM);

  EXPECT_EQ(shutdown.received(), SIGINT);
  EXPECT_EQ(previous_calls, 1);
}

// Ctrl-C under torchrun 1.13: the terminal signals the ranks, and then the agent does.
TEST_F(ShutdownSignalTest, AnEchoOfTheFirstSignalIsNoSecondOne) {
  ShutdownSignal shutdown(/*echo_seconds=*/3600);

  std::raise(SIGINT);
  std::raise(SIGINT);
  std::raise(SIGTERM);

  EXPECT_EQ(shutdown.received(), SIGINT);
  EXPECT_EQ(previous_calls, 0);
}

TEST_F(ShutdownSignalTest, AHangUpIsNotedUnlessItIsIgnored) {
  {
    ShutdownSignal shutdown;
    std::raise(SIGHUP);
    EXPECT_EQ(shutdown.received(), SIGHUP);
  }
  std::signal(SIGHUP, SIG_IGN);
  ShutdownSignal shutdown;

  std::raise(SIGHUP);

  EXPECT_EQ(shutdown.received(), 0);
}

TEST_F(ShutdownSignalTest, DestructionAfterASignalRestoresThePreviousHandler) {
  {
    ShutdownSignal shutdown;
    std::raise(SIGINT);
  }

  std::raise(SIGINT);

  EXPECT_EQ(previous_calls, 1);
}

TEST_F(ShutdownSignalTest, DestructionRestoresThePreviousHandler) {
  { ShutdownSignal shutdown; }

  std::raise(SIGINT);

  EXPECT_EQ(previous_calls, 1);
}

TEST_F(ShutdownSignalTest, ANewObjectStartsAfresh) {
  {
    ShutdownSignal shutdown;
    std::raise(SIGINT);
  }

  ShutdownSignal shutdown;

  EXPECT_EQ(shutdown.received(), 0);
}

}  // namespace
}  // namespace waypoint::engine
