#include "checkpoint/container/chunk_plan.h"

#include <limits>
#include <string>
#include <utility>

#include "checkpoint/container/shared_chunks.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

constexpr int64_t kChunk = 256 << 10;

// 100 chunks, the last one half as long as the others, and a file without digests.
ChunkPlan NewPlan() { return ChunkPlan({{100 * kChunk - kChunk / 2, kChunk}, {1000, 0}}); }

TEST(ChunkPlanTest, WhatIsNeededInFullCostsNothing) {
  ChunkPlan plan = NewPlan();
  plan.Need(0, 0, 100 * kChunk - kChunk / 2);
  plan.Need(1, 0, 1000);
  plan.Decide(0);
  for (int64_t chunk = 0; chunk < 100; ++chunk) {
    ASSERT_NE(plan.Find(0, chunk), nullptr);
    EXPECT_FALSE(plan.Find(0, chunk)->by_parts);
    EXPECT_EQ(plan.Find(0, chunk)->needed_bytes, chunk == 99 ? kChunk / 2 : kChunk);
  }
  EXPECT_EQ(plan.Find(1, 0), nullptr);
}

// A quarter of every chunk but one, of which all but 1 KiB is needed.
int64_t CheckedChunks(double over_read, bool cut) {
  ChunkPlan plan = NewPlan();
  for (int64_t chunk = 0; chunk < 99; ++chunk) {
    plan.Need(0, chunk * kChunk, chunk == 50 ? kChunk - 1024 : kChunk / 4);
  }
  if (cut) {
    plan.Cut(0, 0, 99 * kChunk);
  }
  plan.Decide(over_read);
  EXPECT_EQ(plan.Find(0, 99), nullptr);
  EXPECT_FALSE(plan.Find(0, 50)->by_parts);  // the cheapest
  int64_t checked = 0;
  for (int64_t chunk = 0; chunk < 99; ++chunk) {
    checked += plan.Find(0, chunk)->by_parts ? 0 : 1;
  }
  return checked;
}

TEST(ChunkPlanTest, TheCheapestAreCheckedWithinTheBudget) {
  // 25.5 chunks are needed; the rest of one is 0.75 chunks.
  EXPECT_EQ(CheckedChunks(0.3, true), 1 + 10);
  EXPECT_EQ(CheckedChunks(0.3, false), 1 + 1);  // an eighth of the budget: what is spent in any case
  EXPECT_EQ(CheckedChunks(0, true), 1 + 1);
  EXPECT_EQ(CheckedChunks(std::numeric_limits<double>::infinity(), true), 99);
  EXPECT_EQ(CheckedChunks(std::numeric_limits<double>::infinity(), false), 99);
}

TEST(SharedChunksTest, WhatDoesNotFitIsReadAgain) {
  ChunkPlan plan = NewPlan();
  plan.Need(0, 0, 10 * kChunk);
  plan.Decide(0);
  SharedChunks chunks(std::move(plan), 2 * kChunk);
  const std::string data(kChunk, 'a');
  for (int64_t chunk = 0; chunk < 10; ++chunk) {
    const SharedChunks::Taken taken = chunks.Take(0, chunk, 1000);
    ASSERT_EQ(taken.use, SharedChunks::kOwner);
    chunks.Publish(taken.entry, data);
  }
  EXPECT_EQ(chunks.peak_bytes(), 2 * kChunk);

  // The last two are there, the others are read by who comes next, for whom follows.
  EXPECT_EQ(chunks.Take(0, 7, 1000).use, SharedChunks::kOwner);
  const SharedChunks::Taken guest = chunks.Take(0, 9, kChunk - 1000);
  ASSERT_EQ(guest.use, SharedChunks::kGuest);
  EXPECT_EQ(*chunks.Wait(guest.entry), 'a');
  chunks.Leave(guest.entry);
  EXPECT_EQ(chunks.Take(0, 9, 1000).use, SharedChunks::kAlone);  // more than was planned
}

TEST(SharedChunksTest, GuestsOfAnOwnerThatGaveUpReadForThemselves) {
  ChunkPlan plan = NewPlan();
  plan.Need(0, 0, kChunk);
  plan.Decide(0);
  SharedChunks chunks(std::move(plan), 2 * kChunk);
  const SharedChunks::Taken owner = chunks.Take(0, 0, 1000);
  const SharedChunks::Taken guest = chunks.Take(0, 0, 1000);
  ASSERT_EQ(owner.use, SharedChunks::kOwner);
  ASSERT_EQ(guest.use, SharedChunks::kGuest);

  chunks.GiveUp(owner.entry);

  EXPECT_EQ(chunks.Wait(guest.entry), nullptr);
  chunks.Leave(guest.entry);
}

}  // namespace
}  // namespace waypoint
