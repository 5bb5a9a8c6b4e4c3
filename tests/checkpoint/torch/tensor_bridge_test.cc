#include "checkpoint/torch/tensor_bridge.h"

#include "ATen/ATen.h"
#include "checkpoint/tensor/transfer.h"
#include "gmock/gmock.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr at::ScalarType kTypes[] = {at::kBool, at::kByte,     at::kChar,  at::kShort,  at::kInt,         at::kLong,
                                     at::kHalf, at::kBFloat16, at::kFloat, at::kDouble, at::kComplexFloat};

// Counted, so that every element is another one where the type can tell.
at::Tensor Counted(at::IntArrayRef shape, at::ScalarType type = at::kFloat) {
  int64_t elements = 1;
  for (const int64_t dim : shape) {
    elements *= dim;
  }
  return at::arange(elements).remainder(120).to(type).reshape(shape);
}

// The same elements in another order of memory.
at::Tensor Strided(const at::Tensor& tensor, RandomGeometry* random) {
  std::vector<int64_t> permutation;
  std::vector<int64_t> inverse(tensor.dim());
  for (const int d : random->Permutation(static_cast<int>(tensor.dim()))) {
    inverse[d] = static_cast<int64_t>(permutation.size());
    permutation.push_back(d);
  }
  at::Tensor strided = tensor.permute(permutation).contiguous().permute(inverse);
  if (tensor.dim() > 0 && random->Coin()) {
    // Every second row of a larger one.
    const at::Tensor wide = at::zeros(tensor.sizes(), tensor.options()).repeat_interleave(2, 0);
    wide.slice(0, 0, wide.size(0), 2).copy_(strided);
    strided = wide.slice(0, 0, wide.size(0), 2);
  }
  return strided;
}

TEST(TensorBridgeTest, LiveToLiveOfAnyTypeAndStrides) {
  RandomGeometry random(111);
  for (int round = 0; round < 120; ++round) {
    LiveState from;
    LiveState to;
    for (int i = 0; i < 6; ++i) {
      const Dims shape = random.Shape(4, 6);
      const at::Tensor wanted = Counted({shape.data(), shape.size()}, kTypes[random.Pick(0, 10)]);
      from.push_back({absl::StrCat("t", i), random.Coin() ? Strided(wanted, &random) : wanted});
      const at::Tensor empty = at::zeros(wanted.sizes(), wanted.options());
      to.push_back({absl::StrCat("t", i), random.Coin() ? Strided(empty, &random) : empty});
    }
    ASSERT_OK_AND_ASSIGN(const auto source, NewLiveSource(from));
    ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(to, random.Pick(1, 3000)));
    TransferOptions options;
    options.threads = static_cast<int>(random.Pick(1, 4));

    ASSERT_OK(Transfer(*source, *sink, options));

    for (int i = 0; i < 6; ++i) {
      ASSERT_TRUE(at::equal(from[i].tensor, to[i].tensor)) << from[i].tensor.toString() << from[i].tensor.sizes();
    }
  }
}

TEST(TensorBridgeTest, ContiguousTensorsAreFilledInPlace) {
  const LiveState state = {{"w", at::zeros({100, 100})}};
  ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(state, 4000));

  ASSERT_EQ(sink->num_blocks(), 10);
  EXPECT_EQ(sink->Destination(3).data(), static_cast<char*>(state[0].tensor.data_ptr()) + 3 * 4000);
  EXPECT_EQ(sink->Destination(3).size(), 4000u);
}

TEST(TensorBridgeTest, SmallTensorsShareABlock) {
  LiveState state;
  for (int i = 0; i < 10; ++i) {
    state.push_back({absl::StrCat("n", i), at::zeros({16})});
  }
  ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(state));
  EXPECT_EQ(sink->num_blocks(), 1);
}

// Two ranks hold the halves of a global tensor.
TEST(TensorBridgeTest, BoxesOfAGlobalTensor) {
  const at::Tensor global = Counted({6, 10});
  ASSERT_OK_AND_ASSIGN(const auto whole, NewLiveSource({{"w", global}}));
  for (const int64_t block_bytes : {1, 40, 100'000}) {
    for (const int rank : {0, 1}) {
      Box box;
      box.offsets = {1, 5 * rank};
      box.sizes = {4, 5};
      const LiveState part = {{"w", at::zeros({4, 5}), {6, 10}, box}};
      ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(part, block_bytes));

      ASSERT_OK(Transfer(*whole, *sink, {}));

      EXPECT_TRUE(at::equal(part[0].tensor, global.slice(0, 1, 5).slice(1, 5 * rank, 5 * rank + 5)));
    }
  }
}

TEST(TensorBridgeTest, ASourceGivesOnlyTheBoxItHolds) {
  Box box;
  box.offsets = {2, 0};
  box.sizes = {2, 3};
  ASSERT_OK_AND_ASSIGN(const auto source, NewLiveSource({{"w", Counted({2, 3}), {6, 3}, box}}));
  EXPECT_EQ(source->manifest()[0].shape, (Dims{6, 3}));
  EXPECT_EQ(source->manifest().total_bytes(), 24);

  ASSERT_OK_AND_ASSIGN(const std::vector<char> bytes, ReadBox(*source, 0, box));
  EXPECT_EQ(reinterpret_cast<const float*>(bytes.data())[5], 5);
  EXPECT_THAT(ReadWhole(*source, 0), IsKind(ErrorKind::kMissing, AllOf(HasSubstr("\"w\""), HasSubstr("[2:4, 0:3]"))));
}

TEST(TensorBridgeTest, BoxesThatDoNotDescribeTheTensorAreRefused) {
  Box box;
  box.offsets = {5, 0};
  box.sizes = {2, 3};
  EXPECT_THAT(NewLiveSource({{"w", at::zeros({2, 3}), {6, 3}, box}}), IsKind(ErrorKind::kRequest, HasSubstr("\"w\"")));
  box.offsets = {0, 0};
  box.sizes = {3, 2};
  EXPECT_THAT(NewLiveSink({{"w", at::zeros({2, 3}), {6, 3}, box}}), IsKind(ErrorKind::kRequest));
}

TEST(TensorBridgeTest, LazyConjugatesAndNegativesAreRead) {
  const at::Tensor values = at::complex(Counted({4}), Counted({4}) + 1);
  const at::Tensor imaginary = at::imag(values.conj());  // a negative view, no negated memory
  ASSERT_OK_AND_ASSIGN(const auto source, NewLiveSource({{"conj", values.conj()}, {"neg", imaginary}}));
  const LiveState read = {{"conj", at::zeros({4}, at::kComplexFloat)}, {"neg", at::zeros({4})}};
  ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(read));

  ASSERT_OK(Transfer(*source, *sink, {}));

  EXPECT_TRUE(at::equal(read[0].tensor, values.conj().resolve_conj()));
  EXPECT_TRUE(at::equal(read[1].tensor, imaginary.resolve_neg()));
}

TEST(TensorBridgeTest, ParametersAreFilledBehindAutograd) {
  const at::Tensor parameter = at::zeros({3}).set_requires_grad(true);
  ASSERT_OK_AND_ASSIGN(const auto source, NewLiveSource({{"w", Counted({3})}}));
  ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink({{"w", parameter}}));
  ASSERT_OK(Transfer(*source, *sink, {}));
  EXPECT_TRUE(parameter.requires_grad());
  EXPECT_TRUE(parameter.is_leaf());
  EXPECT_TRUE(at::equal(parameter.detach(), Counted({3})));
}

TEST(TensorBridgeTest, TypesThatFilesLackAreRefused) {
  EXPECT_THAT(NewLiveSource({{"z", at::zeros({2}, at::kComplexDouble)}}),
              IsKind(ErrorKind::kDType, AllOf(HasSubstr("\"z\""), HasSubstr("ComplexDouble"))));
  EXPECT_THAT(NewLiveSink({{"z", at::zeros({2}, at::kComplexDouble)}}), IsKind(ErrorKind::kDType));
  EXPECT_THAT(NewLiveSource({{"undefined", at::Tensor()}}), IsKind(ErrorKind::kDType, HasSubstr("\"undefined\"")));
}

TEST(TensorBridgeTest, SparseTensorsAreRefused) {
  const at::Tensor sparse = at::eye(3).to_sparse();
  EXPECT_THAT(NewLiveSource({{"s", sparse}}), IsKind(ErrorKind::kRequest, HasSubstr("\"s\"")));
  EXPECT_THAT(NewLiveSink({{"s", sparse}}), IsKind(ErrorKind::kRequest));
}

TEST(TensorBridgeTest, NamesAreUnique) {
  EXPECT_THAT(NewLiveSource({{"w", at::zeros({1})}, {"w", at::zeros({1})}}), IsKind(ErrorKind::kDupKey));
}

// Rows 1 and 4 to 5 of a tensor of 6: as a rank holds a fused projection.
LiveState TwoBoxes(const at::Tensor& local) {
  return {{"w", local.narrow(0, 0, 1), {6, 3}, {{1, 0}, {1, 3}}},
          {"w", local.narrow(0, 1, 2), {6, 3}, {{4, 0}, {2, 3}}}};
}

TEST(TensorBridgeTest, OneTensorMayBeHeldInSeveralBoxes) {
  const at::Tensor whole = Counted({6, 3});
  const at::Tensor local = at::zeros({3, 3});
  for (const int64_t block_bytes : {1, 13, 4096}) {
    local.zero_();
    ASSERT_OK_AND_ASSIGN(const auto from, NewLiveSource({{"w", whole}}));
    ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(TwoBoxes(local), block_bytes));
    ASSERT_EQ(sink->manifest().size(), 1);
    EXPECT_EQ(sink->manifest()[0].boxes.size(), 2u);
    ASSERT_OK(Transfer(*from, *sink, {}));
    EXPECT_TRUE(at::equal(local, at::cat({whole.narrow(0, 1, 1), whole.narrow(0, 4, 2)})));
  }
  ASSERT_OK_AND_ASSIGN(const auto source, NewLiveSource(TwoBoxes(local)));
  std::vector<float> row(3);
  const auto read = [&](Box box) {
    return source->Read({{0, box, StridedSpan::Contiguous(reinterpret_cast<char*>(row.data()), 4, box.sizes)}});
  };
  ASSERT_OK(read({{5, 0}, {1, 3}}));
  EXPECT_THAT(row, ::testing::ElementsAre(15, 16, 17));
  EXPECT_THAT(read({{3, 0}, {1, 3}}),
              IsKind(ErrorKind::kMissing, AllOf(HasSubstr("[3:4, 0:3]"), HasSubstr("only [1:2, 0:3], [4:6, 0:3]"))));
}

TEST(TensorBridgeTest, BoxesOfOneTensorMustFitEachOther) {
  const at::Tensor local = at::zeros({3, 3});
  LiveState state = TwoBoxes(local);
  state[1].box.offsets[0] = 0;
  EXPECT_THAT(NewLiveSource(state), IsKind(ErrorKind::kDupKey, HasSubstr("overlap")));
  state = TwoBoxes(local);
  state[1].global_shape = {7, 3};
  EXPECT_THAT(NewLiveSource(state), IsKind(ErrorKind::kDupKey, HasSubstr("[7, 3]")));
  state = TwoBoxes(local);
  state[1].tensor = state[1].tensor.to(at::kDouble);
  EXPECT_THAT(NewLiveSink(state), IsKind(ErrorKind::kDupKey));
}

TEST(TensorBridgeTest, TypesMapThereAndBack) {
  for (const at::ScalarType type : kTypes) {
    ASSERT_OK_AND_ASSIGN(const DType dtype, DTypeFromTorch(type));
    EXPECT_EQ(DTypeToTorch(dtype).value(), type);
    EXPECT_EQ(DTypeBytes(dtype), static_cast<int>(c10::elementSize(type)));
  }
  EXPECT_THAT(DTypeToTorch(DType::kF8E4M3), IsKind(ErrorKind::kDType, HasSubstr("F8_E4M3")));
  EXPECT_THAT(DTypeFromTorch(at::kQInt8), IsKind(ErrorKind::kDType));
}

}  // namespace
}  // namespace waypoint
