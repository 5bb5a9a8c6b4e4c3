#include "checkpoint/convert/weights/expression.h"

#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Expr Tensor(const std::string& name, Dims shape, DType dtype = DType::kF32, int64_t index = 0) {
  TensorMeta meta;
  meta.name = name;
  meta.dtype = dtype;
  meta.shape = std::move(shape);
  return Ref(meta, index);
}

std::string Text(const absl::StatusOr<Expr>& expression) {
  return expression.ok() ? (*expression)->ToString() : expression.status().ToString();
}

TEST(ExpressionTest, RefCarriesTheTensor) {
  const Expr a = Tensor("a", {2, 3}, DType::kBF16, 7);

  EXPECT_TRUE(IsRef(a));
  EXPECT_EQ(a->tensor(), 7);
  EXPECT_EQ(a->dtype(), DType::kBF16);
  EXPECT_EQ(a->shape(), (Dims{2, 3}));
}

TEST(ExpressionTest, PartOfAConcatIsTheOriginal) {
  const Expr k = Tensor("k", {4, 3});
  const Expr v = Tensor("v", {2, 3}, DType::kF32, 1);
  ASSERT_OK_AND_ASSIGN(const Expr both, Concat({k, v}, 0));
  EXPECT_EQ(both->ToString(), "concat(k, v, dim=0)");

  ASSERT_OK_AND_ASSIGN(const Expr first, Narrow(both, 0, 0, 4));
  ASSERT_OK_AND_ASSIGN(const Expr second, Narrow(both, 0, 4, 2));

  EXPECT_EQ(first, k);
  EXPECT_EQ(second, v);
  EXPECT_EQ(Text(Narrow(both, 0, 3, 2)), "concat(k[3:4], v[0:1], dim=0)");
  EXPECT_EQ(Text(Narrow(both, 1, 1, 2)), "concat(k[:, 1:3], v[:, 1:3], dim=0)");
}

TEST(ExpressionTest, AdjacentPartsRejoin) {
  const Expr a = Tensor("a", {6, 2});
  ASSERT_OK_AND_ASSIGN(const Expr top, Narrow(a, 0, 0, 2));
  ASSERT_OK_AND_ASSIGN(const Expr middle, Narrow(a, 0, 2, 3));
  ASSERT_OK_AND_ASSIGN(const Expr bottom, Narrow(a, 0, 5, 1));

  EXPECT_EQ(Text(Concat({top, middle, bottom}, 0)), "a");
  EXPECT_EQ(Text(Concat({middle, bottom}, 0)), "a[2:6]");
  EXPECT_EQ(Text(Concat({middle, top}, 0)), "concat(a[2:5], a[0:2], dim=0)");
  // Of different tensors of the same name and shape in two places: never joined.
  ASSERT_OK_AND_ASSIGN(const Expr other, Narrow(Tensor("a", {6, 2}, DType::kF32, 1), 0, 2, 4));
  EXPECT_EQ(Text(Concat({top, other}, 0)), "concat(a[0:2], a[2:6], dim=0)");
}

TEST(ExpressionTest, NestedConcatsAndNarrowsAreFlattened) {
  const Expr a = Tensor("a", {2});
  const Expr b = Tensor("b", {2});
  ASSERT_OK_AND_ASSIGN(const Expr ab, Concat({a, b}, 0));

  EXPECT_EQ(Text(Concat({ab, a}, 0)), "concat(a, b, a, dim=0)");
  ASSERT_OK_AND_ASSIGN(const Expr part, Narrow(Tensor("c", {10}), 0, 2, 6));
  EXPECT_EQ(Text(Narrow(part, 0, 1, 2)), "c[3:5]");
  EXPECT_EQ(Text(Concat({a}, 0)), "a");
  EXPECT_EQ(Text(Narrow(a, 0, 0, 2)), "a");
}

TEST(ExpressionTest, TransposesCompose) {
  const Expr a = Tensor("a", {2, 3, 4});
  ASSERT_OK_AND_ASSIGN(const Expr once, Transpose(a, {1, 2, 0}));
  EXPECT_EQ(once->shape(), (Dims{3, 4, 2}));

  EXPECT_EQ(Text(Transpose(once, {2, 0, 1})), "a");
  EXPECT_EQ(Text(Transpose(once, {1, 2, 0})), "transpose(a, [2, 0, 1])");
  EXPECT_EQ(Text(Transpose(a, {0, 1, 2})), "a");
  EXPECT_EQ(Text(Narrow(once, 0, 1, 1)), "transpose(a[:, 1:2], [1, 2, 0])");
}

TEST(ExpressionTest, ReshapesMerge) {
  const Expr a = Tensor("a", {2, 6});
  ASSERT_OK_AND_ASSIGN(const Expr once, Reshape(a, {3, 4}));

  EXPECT_EQ(Text(Reshape(once, {12})), "reshape(a, [12])");
  EXPECT_EQ(Text(Reshape(once, {2, 6})), "a");
  EXPECT_EQ(Text(Reshape(Tensor("s", {}), {1, 1})), "reshape(s, [1, 1])");
}

TEST(ExpressionTest, StackedTensorsAreFoundAgain) {
  std::vector<Expr> slices;
  for (int64_t i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(Expr slice, Reshape(Tensor(absl::StrCat("e", i), {4, 2}, DType::kF32, i), {1, 4, 2}));
    slices.push_back(slice);
  }
  ASSERT_OK_AND_ASSIGN(const Expr stack, Concat(slices, 0));

  for (int64_t i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const Expr slice, Narrow(stack, 0, i, 1));
    EXPECT_EQ(Text(Reshape(slice, {4, 2})), absl::StrCat("e", i));
  }
}

TEST(ExpressionTest, SlicesOfAStackRejoin) {
  const Expr stack = Tensor("stack", {2, 4, 3});
  std::vector<Expr> halves;
  for (const int64_t row : {0, 1}) {
    for (const int64_t half : {0, 2}) {
      ASSERT_OK_AND_ASSIGN(Expr part, Narrow(stack, 0, row, 1));
      ASSERT_OK_AND_ASSIGN(part, Reshape(part, {4, 3}));
      ASSERT_OK_AND_ASSIGN(part, Narrow(part, 0, half, 2));
      halves.push_back(part);
    }
  }
  std::vector<Expr> rows;
  for (const int row : {0, 1}) {
    ASSERT_OK_AND_ASSIGN(Expr whole, Concat({halves[2 * row], halves[2 * row + 1]}, 0));
    ASSERT_OK_AND_ASSIGN(whole, Reshape(whole, {1, 4, 3}));
    rows.push_back(whole);
  }
  EXPECT_EQ(Text(Concat(rows, 0)), "stack");
}

TEST(ExpressionTest, WideningBeforeACastIsNoStep) {
  const Expr half = Tensor("h", {2}, DType::kBF16);
  ASSERT_OK_AND_ASSIGN(const Expr wide, Cast(half, DType::kF32));

  EXPECT_EQ(Text(Cast(wide, DType::kBF16)), "h");
  EXPECT_EQ(Text(Cast(wide, DType::kF16)), "cast(h, float16)");
  EXPECT_EQ(Text(Cast(wide, DType::kF32)), "cast(h, float32)");
}

TEST(ExpressionTest, NarrowingCastsStay) {
  const Expr wide = Tensor("w", {2}, DType::kF32);
  ASSERT_OK_AND_ASSIGN(const Expr half, Cast(wide, DType::kF16));
  EXPECT_EQ(Text(Cast(half, DType::kF32)), "cast(cast(w, float16), float32)");
  ASSERT_OK_AND_ASSIGN(const Expr from_double, Cast(Tensor("d", {2}, DType::kF64), DType::kF32));
  EXPECT_EQ(Text(Cast(from_double, DType::kBF16)), "cast(cast(d, float32), bfloat16)");
}

TEST(ExpressionTest, CastsMoveOutwards) {
  const Expr a = Tensor("a", {4, 2}, DType::kBF16);
  const Expr b = Tensor("b", {4, 2}, DType::kBF16, 1);
  ASSERT_OK_AND_ASSIGN(const Expr wide_a, Cast(a, DType::kF32));
  ASSERT_OK_AND_ASSIGN(const Expr wide_b, Cast(b, DType::kF32));

  EXPECT_EQ(Text(Concat({wide_a, wide_b}, 0)), "cast(concat(a, b, dim=0), float32)");
  EXPECT_EQ(Text(Narrow(wide_a, 0, 1, 2)), "cast(a[1:3], float32)");
  EXPECT_EQ(Text(Transpose(wide_a, {1, 0})), "cast(transpose(a, [1, 0]), float32)");
  EXPECT_EQ(Text(Reshape(wide_a, {8})), "cast(reshape(a, [8]), float32)");
  EXPECT_EQ(Text(Concat({wide_a, Tensor("c", {4, 2})}, 0)), "concat(cast(a, float32), c, dim=0)");
}

TEST(ExpressionTest, SubstituteComposesAndSimplifies) {
  const Expr k = Tensor("k", {2, 3});
  const Expr v = Tensor("v", {2, 3}, DType::kF32, 1);
  ASSERT_OK_AND_ASSIGN(const Expr imported, Concat({k, v}, 0));
  ASSERT_OK_AND_ASSIGN(const Expr exported, Narrow(Tensor("kv", {4, 3}), 0, 2, 2));

  EXPECT_EQ(Text(Substitute(exported, [&](const Expression&) { return imported; })), "v");
  EXPECT_THAT(Substitute(exported, [&](const Expression&) { return k; }),
              IsKind(ErrorKind::kShape, AllOf(HasSubstr("\"kv\""), HasSubstr("k [2, 3]"))));
}

TEST(ExpressionTest, RefsAreVisitedFromLeftToRight) {
  ASSERT_OK_AND_ASSIGN(const Expr both, Concat({Tensor("a", {2}), Tensor("b", {1})}, 0));
  std::string seen;
  ForEachRef(both, [&seen](const Expression& ref) { seen += ref.name(); });
  EXPECT_EQ(seen, "ab");
}

TEST(ExpressionTest, MisfitsNameTheOperands) {
  const Expr a = Tensor("a", {4, 3});
  const Expr b = Tensor("b", {4, 2});

  EXPECT_THAT(Narrow(a, 0, 3, 2), IsKind(ErrorKind::kShape, HasSubstr("[3, 5) of dimension 0 of a [4, 3]")));
  EXPECT_THAT(Narrow(a, 2, 0, 1), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Narrow(a, -1, 0, 1), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Narrow(a, 0, -1, 1), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Narrow(a, 0, 0, -1), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Narrow(a, 0, 1, INT64_MAX - 1), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Concat({}, 0), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Concat({a, b}, 0), IsKind(ErrorKind::kShape, AllOf(HasSubstr("a [4, 3]"), HasSubstr("b [4, 2]"))));
  EXPECT_THAT(Concat({a, a}, 2), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Concat({Tensor("s", {}), Tensor("s", {})}, 0), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Concat({a, Tensor("h", {4, 3}, DType::kF16)}, 0),
              IsKind(ErrorKind::kDType, AllOf(HasSubstr("a (F32)"), HasSubstr("h (F16)"))));
  EXPECT_THAT(Transpose(a, {0, 0}), IsKind(ErrorKind::kShape, HasSubstr("a [4, 3]")));
  EXPECT_THAT(Transpose(a, {0}), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Reshape(a, {5, 2}), IsKind(ErrorKind::kShape, HasSubstr("a [4, 3] to [5, 2]")));
  EXPECT_THAT(Reshape(a, {-3, -4}), IsKind(ErrorKind::kShape));
  EXPECT_THAT(Cast(Tensor("i", {2}, DType::kI32), DType::kF32),
              IsKind(ErrorKind::kDType, HasSubstr("cannot cast i from I32 to F32")));
  EXPECT_THAT(Cast(a, DType::kF8E4M3), IsKind(ErrorKind::kDType));
}

}  // namespace
}  // namespace waypoint
