#include "tools/rank_output.h"

#include <fcntl.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace waypoint {
namespace {

TEST(RankErrorsTest, AnErrorOfSeveralRanksIsPrintedOnce) {
  RankErrors errors;

  EXPECT_TRUE(errors.Passes(1, "error: E_IO: no file", "[1] "));
  EXPECT_TRUE(errors.Passes(1, "  its second line", "[1] "));
  EXPECT_FALSE(errors.Passes(0, "error: E_IO: no file", ""));
  EXPECT_FALSE(errors.Passes(0, "  its second line", ""));
  EXPECT_TRUE(errors.Passes(0, "note: nobody's error", ""));
  EXPECT_TRUE(errors.Passes(2, "error: E_IO: another one", "[2] "));
}

TEST(RankErrorsTest, WhoTellsOfAnotherRankIsHeardWhenNobodyElseSpeaks) {
  RankErrors errors;

  EXPECT_FALSE(errors.Passes(2, "error: E_RANK: rank 1 died", "[2] "));
  EXPECT_FALSE(errors.Passes(2, "  at the barrier", "[2] "));
  EXPECT_FALSE(errors.Passes(0, "error: E_RANK: rank 1 died", ""));

  EXPECT_TRUE(errors.Follows(0));
  EXPECT_TRUE(errors.Follows(2));
  EXPECT_FALSE(errors.Follows(1));
  EXPECT_EQ(errors.AtEnd(), "[2] error: E_RANK: rank 1 died\n[2]   at the barrier\n");
  EXPECT_TRUE(errors.Passes(1, "error: E_IO: no file", "[1] "));
  EXPECT_EQ(errors.AtEnd(), "");
}

// A launcher that waited here would hear no signal.
TEST(OutputTest, AReaderThatStandsStillIsNotWaitedFor) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Output output(ends[1]);
  const std::string text(1 << 20, 'x');

  output.Add(text);

  EXPECT_TRUE(output.busy());
  std::string got;
  char buffer[1 << 12];
  while (got.size() < text.size()) {
    const ssize_t bytes = read(ends[0], buffer, sizeof(buffer));
    ASSERT_GT(bytes, 0);
    got.append(buffer, static_cast<size_t>(bytes));
    output.Flush();
  }
  EXPECT_EQ(got, text);
  EXPECT_FALSE(output.busy());
  EXPECT_EQ(output.error(), 0);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace waypoint
