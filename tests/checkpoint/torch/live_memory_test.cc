#include "checkpoint/torch/live_memory.h"

#include "ATen/ATen.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

bool LivesIn(const SnapshotArena& arena, const at::Tensor& tensor) {
  const char* data = static_cast<const char*>(tensor.data_ptr());
  return arena.Contains({data, data + 1});
}

TEST(LiveMemoryTest, ReadsTheTensorsAsTheyAre) {
  const at::Tensor whole = at::arange(6, at::kInt).view({2, 3});
  const at::Tensor part = at::arange(4, at::kFloat).view({2, 2});
  LiveState state = {{"transposed", whole.t()}, {"part", part, {4, 2}, {{2, 0}, {2, 2}}}};

  ASSERT_OK_AND_ASSIGN(const MemoryState memory, LiveMemory(state));
  ASSERT_OK_AND_ASSIGN(const auto source, NewMemoryStateSource(memory));

  EXPECT_EQ(source->manifest()[0].shape, (Dims{3, 2}));
  EXPECT_EQ(source->manifest()[1].boxes.at(0), (Box{{2, 0}, {2, 2}}));
  std::vector<int> elements(6);
  ASSERT_OK(source->Read(
      {{0, Box::Whole({3, 2}), StridedSpan::Contiguous(reinterpret_cast<char*>(elements.data()), 4, {3, 2})}}));
  EXPECT_THAT(elements, ::testing::ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST(LiveMemoryTest, OneTensorMayBeHeldInSeveralBoxes) {
  const at::Tensor local = at::arange(6, at::kInt).view({3, 2});
  LiveState state = {{"w", local.narrow(0, 0, 1), {9, 2}, {{7, 0}, {1, 2}}},
                     {"other", at::zeros({1})},
                     {"w", local.narrow(0, 1, 2), {9, 2}, {{2, 0}, {2, 2}}}};

  ASSERT_OK_AND_ASSIGN(const MemoryState memory, LiveMemory(state));
  ASSERT_OK_AND_ASSIGN(const auto source, NewMemoryStateSource(memory));

  ASSERT_EQ(source->manifest().size(), 2);
  EXPECT_THAT(source->manifest()[0].boxes, ::testing::ElementsAre(state[0].box, state[2].box));
  std::vector<int> elements(2);
  const auto read = [&](Box box) {
    return source->Read({{0, box, StridedSpan::Contiguous(reinterpret_cast<char*>(elements.data()), 4, box.sizes)}});
  };
  ASSERT_OK(read({{3, 0}, {1, 2}}));
  EXPECT_THAT(elements, ::testing::ElementsAre(4, 5));
  EXPECT_THAT(read({{6, 0}, {1, 2}}), IsKind(ErrorKind::kMissing, HasSubstr("[7:8, 0:2]")));
  state[2].box.offsets = {6, 0};
  EXPECT_THAT(LiveMemory(state), IsKind(ErrorKind::kDupKey, HasSubstr("\"w\"")));
}

TEST(LiveMemoryTest, KeepsTheMemoryAlive) {
  MemoryState memory;
  {
    const at::Tensor gone = at::full({100000}, 7, at::kByte);
    ASSERT_OK_AND_ASSIGN(memory, LiveMemory({{"gone", gone}}));
  }
  EXPECT_EQ(memory[0].memory.data[99999], 7);
}

TEST(LiveMemoryTest, ViewsWithOtherValuesAreFetched) {
  const at::Tensor complex = at::complex(at::ones({2}), at::full({2}, 3.0F));
  ASSERT_OK_AND_ASSIGN(const MemoryState memory, LiveMemory({{"conjugate", at::conj(complex)}}));

  float values[4];
  ASSERT_TRUE(memory[0].fetch);
  ASSERT_OK(memory[0].fetch(StridedSpan::Contiguous(reinterpret_cast<char*>(values), 8, {2})));

  EXPECT_THAT(values, ::testing::ElementsAre(1, -3, 1, -3));
}

TEST(LiveMemoryTest, SparseTensorsAreRefused) {
  EXPECT_THAT(LiveMemory({{"sparse", at::eye(3).to_sparse()}}), IsKind(ErrorKind::kRequest, HasSubstr("not dense")));
}

TEST(LiveMemoryTest, ABoxOfAnotherShapeIsRefused) {
  EXPECT_THAT(LiveMemory({{"part", at::zeros({2, 2}), {4, 2}, {{2, 0}, {1, 2}}}}),
              IsKind(ErrorKind::kRequest, HasSubstr("\"part\"")));
}

TEST(MoveToArenaTest, ValuesViewsAndGradientsStay) {
  at::Tensor weight = at::arange(6, at::kFloat).requires_grad_();
  const at::Tensor view = weight.detach().view({2, 3});
  const LiveState state = {{"weight", weight}, {"view", view}, {"half", at::ones({3}, at::kHalf)}};
  ArenaOptions options;
  options.write_protect = false;
  EXPECT_EQ(ArenaBytesFor(state), 64 + 6);
  ASSERT_OK_AND_ASSIGN(auto arena, SnapshotArena::Create(ArenaBytesFor(state), options));

  ASSERT_OK(MoveToArena(state, arena));
  ASSERT_OK(MoveToArena(state, arena));

  EXPECT_TRUE(LivesIn(*arena, weight));
  EXPECT_TRUE(LivesIn(*arena, view));
  EXPECT_EQ(view.data_ptr(), weight.data_ptr());
  EXPECT_TRUE(LivesIn(*arena, state[2].tensor));
  EXPECT_TRUE(view.flatten().equal(at::arange(6, at::kFloat)));
  (weight * weight).sum().backward();
  EXPECT_TRUE(weight.grad().equal(2 * at::arange(6, at::kFloat)));
  // The tensors keep the arena.
  const std::weak_ptr<SnapshotArena> watched = arena;
  arena.reset();
  EXPECT_FALSE(watched.expired());
  EXPECT_EQ(view[1][2].item<float>(), 5);
}

TEST(MoveToArenaTest, AnArenaThatIsTooSmallIsRefused) {
  ArenaOptions options;
  options.write_protect = false;
  ASSERT_OK_AND_ASSIGN(const auto arena, SnapshotArena::Create(1, options));
  const at::Tensor large = at::zeros({kHugePageBytes + 1}, at::kByte);

  EXPECT_THAT(MoveToArena({{"large", large}}, arena), IsKind(ErrorKind::kLimit));
  EXPECT_FALSE(LivesIn(*arena, large));
}

}  // namespace
}  // namespace waypoint
