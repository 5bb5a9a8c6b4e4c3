// Every function against the definition, element by element, on random shapes.

#include "checkpoint/tensor/box.h"

#include <cstring>
#include <map>
#include <set>

#include "gtest/gtest.h"
#include "tests/testing/random_geometry.h"

namespace waypoint {
namespace {

std::set<int64_t> Elements(absl::Span<const int64_t> shape, const Box& box) {
  std::set<int64_t> elements;
  ForEachIndex(box.sizes, [&](const Dims& index) { elements.insert(FlatIndex(shape, Shifted(box, index))); });
  return elements;
}

TEST(BoxTest, PrintsAsRanges) {
  EXPECT_EQ(ShapeString({}), "[]");
  EXPECT_EQ(ShapeString({4096, 128}), "[4096, 128]");
  Box box;
  box.offsets = {0, 2};
  box.sizes = {4, 1};
  EXPECT_EQ(box.ToString(), "[0:4, 2:3]");
}

TEST(BoxTest, ContainsRefusesWhatLeavesTheShape) {
  const Dims shape = {4, 3};
  Box box = Box::Whole(shape);
  EXPECT_TRUE(Contains(shape, box));
  box.offsets = {4, 3};
  box.sizes = {0, 0};
  EXPECT_TRUE(Contains(shape, box));
  box.sizes = {1, 0};
  EXPECT_FALSE(Contains(shape, box));
  box.offsets = {-1, 0};
  EXPECT_FALSE(Contains(shape, box));
  box.offsets = {0, 0};
  box.sizes = {-1, 3};
  EXPECT_FALSE(Contains(shape, box));
  box.offsets = {INT64_MAX, 0};
  box.sizes = {INT64_MAX, 3};
  EXPECT_FALSE(Contains(shape, box));
  EXPECT_FALSE(Contains(shape, Box::Whole(Dims{4})));
  EXPECT_TRUE(Contains(Dims{}, Box()));
}

TEST(BoxTest, IntersectIsTheSetOfCommonElements) {
  RandomGeometry random(1);
  for (int i = 0; i < 3000; ++i) {
    const Dims shape = random.Shape(4, 5);
    const Box a = random.BoxIn(shape);
    const Box b = random.BoxIn(shape);
    const std::set<int64_t> in_a = Elements(shape, a);
    std::set<int64_t> common;
    for (const int64_t element : Elements(shape, b)) {
      if (in_a.count(element) > 0) {
        common.insert(element);
      }
    }

    const absl::optional<Box> found = Intersect(a, b);

    ASSERT_EQ(found.has_value(), !common.empty()) << a.ToString() << " and " << b.ToString();
    if (found.has_value()) {
      ASSERT_EQ(Elements(shape, *found), common) << a.ToString() << " and " << b.ToString();
    }
  }
}

TEST(BoxTest, FlatRangesBecomeFewBoxesThatAreRuns) {
  RandomGeometry random(2);
  for (int i = 0; i < 3000; ++i) {
    const Dims shape = random.Shape(5, 5);
    const int64_t elements = NumElements(shape);
    const int64_t begin = random.Pick(0, elements);
    const int64_t end = random.Pick(begin, elements);
    SCOPED_TRACE(ShapeString(shape) + " from " + std::to_string(begin) + " to " + std::to_string(end));

    const std::vector<Box> boxes = FlatRangeToBoxes(shape, begin, end);

    int64_t next = begin;
    for (const Box& box : boxes) {
      ASSERT_TRUE(Contains(shape, box)) << box.ToString();
      ASSERT_FALSE(box.empty());
      ForEachIndex(box.sizes, [&](const Dims& index) { ASSERT_EQ(FlatIndex(shape, Shifted(box, index)), next++); });
    }
    ASSERT_EQ(next, end);
    ASSERT_LE(boxes.size(), std::max<size_t>(1, 2 * shape.size() - std::min<size_t>(shape.size(), 1)));
  }
}

TEST(BoxTest, RunsAreTheElementsInAscendingOrder) {
  RandomGeometry random(3);
  for (int i = 0; i < 4000; ++i) {
    const Dims shape = random.Shape(5, 4);
    const Box box = random.BoxIn(shape);
    std::vector<char> memory;
    const StridedSpan span = random.Span(&memory, 4, box.sizes);
    std::map<int64_t, char*> wanted;
    ForEachIndex(box.sizes,
                 [&](const Dims& index) { wanted[FlatIndex(shape, Shifted(box, index))] = ElementAt(span, index); });

    std::map<int64_t, char*> found;
    int64_t last = -1;
    ForEachRun(shape, box, span, [&](int64_t begin, int64_t elements, char* data, int64_t stride_bytes) {
      ASSERT_GT(begin, last);
      ASSERT_GT(elements, 0);
      for (int64_t e = 0; e < elements; ++e) {
        found[begin + e] = data + e * stride_bytes;
      }
      last = begin + elements - 1;
    });

    ASSERT_EQ(found, wanted) << ShapeString(shape) << " " << box.ToString();
  }
}

TEST(BoxTest, RowsOfAContiguousTensorAreOneRun) {
  const Dims shape = {6, 1, 4};
  Box box = Box::Whole(shape);
  box.offsets[0] = 2;
  box.sizes[0] = 3;
  std::vector<char> memory(3 * 4 * 2);
  int runs = 0;
  ForEachRun(shape, box, StridedSpan::Contiguous(memory.data(), 2, box.sizes),
             [&](int64_t begin, int64_t elements, char* data, int64_t stride_bytes) {
               ++runs;
               EXPECT_EQ(begin, 8);
               EXPECT_EQ(elements, 12);
               EXPECT_EQ(data, memory.data());
               EXPECT_EQ(stride_bytes, 2);
             });
  EXPECT_EQ(runs, 1);
}

TEST(BoxTest, CopyStridedMovesEveryElementAndNothingElse) {
  RandomGeometry random(4);
  for (int i = 0; i < 4000; ++i) {
    const int kBytes[] = {1, 2, 3, 4, 8, 16};
    const int bytes = kBytes[random.Pick(0, 5)];
    const Dims sizes = random.Shape(4, 5);
    std::vector<char> from_memory;
    std::vector<char> to_memory;
    const StridedSpan from = random.Span(&from_memory, bytes, sizes);
    const StridedSpan to = random.Span(&to_memory, bytes, sizes);
    for (char& byte : from_memory) {
      byte = static_cast<char>(random.Pick(0, 255));
    }
    std::vector<char> wanted = to_memory;
    ForEachIndex(sizes, [&](const Dims& index) {
      std::memcpy(wanted.data() + (ElementAt(to, index) - to.data), ElementAt(from, index), bytes);
    });

    CopyStrided(from, to);

    ASSERT_EQ(to_memory, wanted) << ShapeString(sizes) << " of " << bytes << " bytes";
  }
}

TEST(StridedSpanTest, IsContiguousIgnoresDimensionsOfOne) {
  std::vector<char> memory(64);
  StridedSpan span = StridedSpan::Contiguous(memory.data(), 4, {3, 1, 2});
  EXPECT_TRUE(span.IsContiguous());
  span.strides[1] = 1000;
  EXPECT_TRUE(span.IsContiguous());
  span.strides[0] = 12;
  EXPECT_FALSE(span.IsContiguous());
  EXPECT_TRUE(StridedSpan::Contiguous(memory.data(), 4, {}).IsContiguous());
}

TEST(StridedSpanTest, NarrowAndTransposeAddressTheSameElements) {
  RandomGeometry random(5);
  for (int i = 0; i < 1000; ++i) {
    const Dims sizes = random.Shape(4, 4);
    std::vector<char> memory;
    const StridedSpan span = random.Span(&memory, 2, sizes);
    const Box box = random.BoxIn(sizes);
    const std::vector<int> permutation = random.Permutation(box.rank());
    StridedSpan part = span;
    for (int d = 0; d < box.rank(); ++d) {
      part = part.Narrow(d, box.offsets[d], box.sizes[d]);
    }
    part = part.Transpose(permutation);

    ForEachIndex(part.sizes, [&](const Dims& index) {
      Dims inner(index.size());
      for (size_t d = 0; d < index.size(); ++d) {
        inner[permutation[d]] = index[d];
      }
      ASSERT_EQ(ElementAt(part, index), ElementAt(span, Shifted(box, inner)));
    });
  }
}

}  // namespace
}  // namespace waypoint
