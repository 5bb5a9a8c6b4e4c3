// Random expressions, read by random boxes into random strided memory, against an evaluation that knows no boxes.

#include "checkpoint/convert/weights/converted_source.h"

#include "gmock/gmock.h"
#include "tests/testing/exact_elements.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/random_geometry.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

// A tensor that was computed the plain way, beside the expression for it.
struct Evaluated {
  Expr expression;
  Dims shape;
  DType dtype = DType::kInvalid;
  std::vector<int> values;
};

class RandomExpressions {
 public:
  RandomExpressions(RandomGeometry* random, MemorySource* source, bool casts)
      : random_(*random), source_(*source), casts_(casts) {}

  Evaluated Make(int depth) {
    if (depth == 0) {
      return Leaf(random_.Shape(4, 5), kCastableTypes[random_.Pick(0, 3)]);
    }
    Evaluated input = Make(depth - 1);
    switch (random_.Pick(0, casts_ ? 4 : 3)) {
      case 0:
        return input.shape.empty() ? input : Part(input);
      case 1:
        return input.shape.empty() ? input : Joined(input, depth);
      case 2:
        return Transposed(input);
      case 3:
        return Reshaped(input);
      default:
        return CastTo(input, kCastableTypes[random_.Pick(0, 3)]);
    }
  }

 private:
  Evaluated Leaf(const Dims& shape, DType dtype) {
    Evaluated leaf;
    leaf.shape = shape;
    leaf.dtype = dtype;
    for (int64_t i = 0; i < NumElements(shape); ++i) {
      leaf.values.push_back(static_cast<int>(random_.Pick(-256, 256)));
    }
    const int64_t index = source_.manifest().size();
    source_.Add(absl::StrCat("t", index), dtype, shape, ExactBytes(dtype, leaf.values));
    leaf.expression = Ref(source_.manifest()[index], index);
    return leaf;
  }

  static Evaluated Take(const Evaluated& input, int dim, int64_t start, int64_t size) {
    Evaluated part = input;
    part.expression = Narrow(input.expression, dim, start, size).value();
    part.shape[dim] = size;
    part.values.clear();
    ForEachIndex(part.shape, [&](Dims index) {
      index[dim] += start;
      part.values.push_back(input.values[FlatIndex(input.shape, index)]);
    });
    return part;
  }

  Evaluated Part(const Evaluated& input) {
    const int dim = static_cast<int>(random_.Pick(0, input.shape.size() - 1));
    const int64_t start = random_.Pick(0, input.shape[dim]);
    return Take(input, dim, start, random_.Pick(0, input.shape[dim] - start));
  }

  // Pieces of one tensor (that may rejoin), in any order, and other tensors between them.
  Evaluated Joined(const Evaluated& input, int depth) {
    const int dim = static_cast<int>(random_.Pick(0, input.shape.size() - 1));
    std::vector<Evaluated> parts;
    for (int64_t begin = 0; begin < input.shape[dim];) {
      const int64_t size = random_.Pick(1, input.shape[dim] - begin);
      parts.push_back(Take(input, dim, begin, size));
      begin += size;
    }
    if (parts.empty() || random_.Coin()) {
      Dims shape = input.shape;
      shape[dim] = random_.Pick(0, 3);
      Evaluated other = Leaf(shape, input.dtype);
      if (casts_ && random_.Coin()) {
        other = CastTo(Leaf(shape, kCastableTypes[random_.Pick(0, 3)]), input.dtype);
      }
      parts.push_back(other);
    }
    if (random_.Coin()) {
      std::shuffle(parts.begin(), parts.end(), random_.engine());
    }
    Evaluated joined = input;
    joined.shape[dim] = 0;
    std::vector<Expr> inputs;
    for (const Evaluated& part : parts) {
      joined.shape[dim] += part.shape[dim];
      inputs.push_back(part.expression);
    }
    joined.expression = Concat(inputs, dim).value();
    joined.values.clear();
    ForEachIndex(joined.shape, [&](Dims index) {
      size_t part = 0;
      while (index[dim] >= parts[part].shape[dim]) {
        index[dim] -= parts[part++].shape[dim];
      }
      joined.values.push_back(parts[part].values[FlatIndex(parts[part].shape, index)]);
    });
    return joined;
  }

  Evaluated Transposed(const Evaluated& input) {
    const std::vector<int> permutation = random_.Permutation(static_cast<int>(input.shape.size()));
    Evaluated result = input;
    result.expression = Transpose(input.expression, permutation).value();
    for (size_t d = 0; d < permutation.size(); ++d) {
      result.shape[d] = input.shape[permutation[d]];
    }
    result.values.clear();
    ForEachIndex(result.shape, [&](const Dims& index) {
      Dims inner(index.size());
      for (size_t d = 0; d < index.size(); ++d) {
        inner[permutation[d]] = index[d];
      }
      result.values.push_back(input.values[FlatIndex(input.shape, inner)]);
    });
    return result;
  }

  // Merges or splits dimensions, adds or drops ones.
  Evaluated Reshaped(const Evaluated& input) {
    Evaluated result = input;
    for (int64_t changes = random_.Pick(1, 3); changes > 0; --changes) {
      Dims& shape = result.shape;
      const auto at = static_cast<int64_t>(shape.empty() ? 0 : random_.Pick(0, shape.size() - 1));
      switch (random_.Pick(0, 3)) {
        case 0:
          shape.insert(shape.begin() + at, 1);
          break;
        case 1:
          if (!shape.empty() && shape[at] == 1) {
            shape.erase(shape.begin() + at);
          }
          break;
        case 2:
          if (at + 1 < static_cast<int64_t>(shape.size())) {
            shape[at] *= shape[at + 1];
            shape.erase(shape.begin() + at + 1);
          }
          break;
        default:
          for (const int64_t factor : {2, 3, 5}) {
            if (!shape.empty() && shape[at] > factor && shape[at] % factor == 0) {
              shape[at] /= factor;
              shape.insert(shape.begin() + at, factor);
              break;
            }
          }
      }
    }
    result.expression = Reshape(input.expression, result.shape).value();
    return result;
  }

  static Evaluated CastTo(const Evaluated& input, DType dtype) {
    Evaluated result = input;
    result.expression = Cast(input.expression, dtype).value();
    result.dtype = dtype;
    return result;
  }

  RandomGeometry& random_;
  MemorySource& source_;
  const bool casts_;
};

class RandomExpressionTest : public testing::TestWithParam<bool> {};

TEST_P(RandomExpressionTest, AnyBoxIsWhatTheWholeIs) {
  RandomGeometry random(GetParam() ? 11 : 12);
  for (int round = 0; round < 1500; ++round) {
    MemorySource memory;
    if (random.Coin()) {
      memory.CastOnRead();
    }
    RandomExpressions expressions(&random, &memory, GetParam());
    std::vector<Evaluated> wanted;
    std::vector<ConvertedTensor> tensors;
    for (int i = 0; i < 2; ++i) {
      wanted.push_back(expressions.Make(static_cast<int>(random.Pick(0, 7))));
      tensors.push_back({absl::StrCat("out", i), wanted.back().expression});
    }
    ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&memory, tensors));

    // All boxes in one batch, as a transfer asks for them.
    std::vector<ReadRequest> requests;
    std::vector<std::vector<char>> memories;
    memories.reserve(8);
    for (int i = 0; i < 8; ++i) {
      ReadRequest request;
      request.tensor = i % 2;
      const Evaluated& whole = wanted[request.tensor];
      ASSERT_EQ(source->manifest()[request.tensor].shape, whole.shape);
      ASSERT_EQ(source->manifest()[request.tensor].dtype, whole.dtype);
      request.box = i < 2 ? Box::Whole(whole.shape) : random.BoxIn(whole.shape);
      memories.emplace_back();
      request.to = random.Span(&memories.back(), DTypeBytes(whole.dtype), request.box.sizes, random.Coin());
      requests.push_back(request);
    }
    std::vector<std::vector<char>> expected = memories;
    for (int i = 0; i < 8; ++i) {
      const Evaluated& whole = wanted[i % 2];
      const ReadRequest& request = requests[i];
      ForEachIndex(request.box.sizes, [&](const Dims& index) {
        EncodeExact(whole.dtype, whole.values[FlatIndex(whole.shape, Shifted(request.box, index))],
                    expected[i].data() + (ElementAt(request.to, index) - request.to.data));
      });
    }

    ASSERT_OK(source->Read(requests));

    for (int i = 0; i < 8; ++i) {
      ASSERT_EQ(memories[i], expected[i]) << tensors[i % 2].expression->ToString() << " "
                                          << ShapeString(wanted[i % 2].shape) << " at " << requests[i].box.ToString();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Casts, RandomExpressionTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) { return info.param ? "With" : "Without"; });

TEST(ConvertedSourceTest, ConversionOfAConversionIsComposed) {
  MemorySource memory;
  memory.Add("k", DType::kF32, {2}, std::vector<float>{1, 2});
  memory.Add("v", DType::kF32, {1}, std::vector<float>{3});
  ASSERT_OK_AND_ASSIGN(const Expr joined, Concat({Ref(memory.manifest()[0], 0), Ref(memory.manifest()[1], 1)}, 0));
  ASSERT_OK_AND_ASSIGN(const auto imported, ConvertedSource::Create(&memory, {{"kv", joined}}));
  const Expr kv = Ref(imported->manifest()[0], 0);
  ASSERT_OK_AND_ASSIGN(const Expr k, Narrow(kv, 0, 0, 2));
  ASSERT_OK_AND_ASSIGN(const Expr v, Narrow(kv, 0, 2, 1));

  ASSERT_OK_AND_ASSIGN(const auto exported, ConvertedSource::Create(imported.get(), {{"k", k}, {"v", v}}));

  EXPECT_EQ(&exported->innermost(), &memory);
  EXPECT_TRUE(IsRef(exported->tensors()[0].expression));
  EXPECT_EQ(exported->tensors()[1].expression->ToString(), "v");
  EXPECT_EQ(exported->ScratchBytes(1000), 0);
}

TEST(ConvertedSourceTest, CastsAreAccountedFor) {
  MemorySource memory;
  memory.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
  ASSERT_OK_AND_ASSIGN(const Expr half, Cast(Ref(memory.manifest()[0], 0), DType::kF16));

  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&memory, {{"a", half}}));

  EXPECT_GE(source->ScratchBytes(1000), 2000);
}

TEST(ConvertedSourceTest, CastsThatTheSourceMakesNeedNoMemory) {
  MemorySource memory;
  memory.CastOnRead();
  memory.Add("a", DType::kF32, {3}, std::vector<float>{1, 1e30f, 2});
  memory.Add("b", DType::kF32, {1}, std::vector<float>{1});
  ASSERT_OK_AND_ASSIGN(const Expr half, Cast(Ref(memory.manifest()[0], 0), DType::kF16));
  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&memory, {{"half", half}}));

  EXPECT_EQ(source->ScratchBytes(1000), 0);

  // What does not fit is refused all the same.
  char to[6];
  EXPECT_THAT(source->Read({{0, Box::Whole({3}), StridedSpan::Contiguous(to, 2, {3})}}),
              IsKind(ErrorKind::kDType, HasSubstr("\"a\": 1 of 3 elements")));

  // "b" is none that the source casts, so nothing of what they make together is.
  ASSERT_OK_AND_ASSIGN(const Expr both, Concat({Ref(memory.manifest()[0], 0), Ref(memory.manifest()[1], 1)}, 0));
  ASSERT_OK_AND_ASSIGN(const Expr halves, Cast(both, DType::kF16));
  ASSERT_OK_AND_ASSIGN(const auto mixed, ConvertedSource::Create(&memory, {{"halves", halves}}));
  EXPECT_GE(mixed->ScratchBytes(1000), 2000);
}

TEST(ConvertedSourceTest, NamesAreUnique) {
  MemorySource memory;
  memory.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
  const Expr a = Ref(memory.manifest()[0], 0);

  EXPECT_THAT(ConvertedSource::Create(&memory, {{"x", a}, {"x", a}}), IsKind(ErrorKind::kDupKey));
}

TEST(ConvertedSourceTest, SubByteTensorsPassWhole) {
  MemorySource memory;
  memory.Add("q", DType::kF4, {2, 3}, std::vector<char>{1, 2, 3});
  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&memory, {{"r", Ref(memory.manifest()[0], 0)}}));
  std::vector<char> bytes(3);

  ASSERT_OK(source->Read({{0, Box::Whole({2, 3}), StridedSpan::Contiguous(bytes.data(), 1, {3})}}));

  EXPECT_EQ(bytes, (std::vector<char>{1, 2, 3}));
}

}  // namespace
}  // namespace waypoint
