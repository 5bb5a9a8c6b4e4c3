#ifndef TESTS_TESTING_RANDOM_GEOMETRY_H_
#define TESTS_TESTING_RANDOM_GEOMETRY_H_

// Random shapes, boxes and strided memory, the same in every run.  One thread.

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "checkpoint/tensor/box.h"

namespace waypoint {

class RandomGeometry {
 public:
  explicit RandomGeometry(uint64_t seed) : engine_(seed) {}

  // In [low, high].
  int64_t Pick(int64_t low, int64_t high) { return low + static_cast<int64_t>(engine_() % (high - low + 1)); }
  bool Coin() { return Pick(0, 1) == 1; }

  // Ones are frequent, zeros rare: both have their own branches.
  Dims Shape(int max_rank, int64_t max_dim) {
    Dims shape(Pick(0, max_rank));
    for (int64_t& dim : shape) {
      const int64_t kind = Pick(0, 19);
      dim = kind == 0 ? 0 : kind < 5 ? 1 : Pick(1, max_dim);
    }
    return shape;
  }

  Box BoxIn(absl::Span<const int64_t> shape) {
    Box box = Box::Whole(shape);
    for (size_t d = 0; d < shape.size(); ++d) {
      if (Coin() && Coin()) {
        continue;  // whole in this dimension
      }
      box.offsets[d] = Pick(0, shape[d]);
      box.sizes[d] =
          Pick(0, 9) == 0 ? 0 : Pick(std::min<int64_t>(1, shape[d] - box.offsets[d]), shape[d] - box.offsets[d]);
    }
    return box;
  }

  std::vector<int> Permutation(int rank) {
    std::vector<int> permutation(rank);
    std::iota(permutation.begin(), permutation.end(), 0);
    std::shuffle(permutation.begin(), permutation.end(), engine_);
    return permutation;
  }

  // Memory for elements in any order of dimensions, with gaps; no two elements share a byte.
  StridedSpan Span(std::vector<char>* memory, int element_bytes, absl::Span<const int64_t> sizes, bool gaps = true) {
    StridedSpan span;
    span.element_bytes = element_bytes;
    span.sizes.assign(sizes.begin(), sizes.end());
    span.strides.resize(sizes.size());
    int64_t stride = element_bytes * (gaps && Coin() ? Pick(1, 3) : 1);
    std::vector<int> order = Permutation(static_cast<int>(sizes.size()));
    if (Coin()) {
      std::sort(order.begin(), order.end(), std::greater<int>());  // row-major but for the gaps
    }
    for (const int d : order) {
      span.strides[d] = stride;
      stride = stride * std::max<int64_t>(1, sizes[d]) + (gaps && Coin() ? element_bytes * Pick(0, 2) : 0);
    }
    memory->assign(stride + element_bytes, '\x5a');
    span.data = memory->data();
    return span;
  }

  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

// Calls visit(index) for every element of the box, row-major; indices are relative to the box.
inline void ForEachIndex(absl::Span<const int64_t> sizes, const std::function<void(const Dims&)>& visit) {
  if (NumElements(sizes) == 0) {
    return;
  }
  Dims index(sizes.size(), 0);
  while (true) {
    visit(index);
    int d = static_cast<int>(sizes.size()) - 1;
    while (d >= 0 && ++index[d] == sizes[d]) {
      index[d--] = 0;
    }
    if (d < 0) {
      return;
    }
  }
}

inline int64_t FlatIndex(absl::Span<const int64_t> shape, absl::Span<const int64_t> index) {
  int64_t flat = 0;
  for (size_t d = 0; d < shape.size(); ++d) {
    flat = flat * shape[d] + index[d];
  }
  return flat;
}

inline char* ElementAt(const StridedSpan& span, absl::Span<const int64_t> index) {
  char* data = span.data;
  for (size_t d = 0; d < index.size(); ++d) {
    data += index[d] * span.strides[d];
  }
  return data;
}

// The global index of a box's element.
inline Dims Shifted(const Box& box, absl::Span<const int64_t> index) {
  Dims shifted(index.begin(), index.end());
  for (size_t d = 0; d < shifted.size(); ++d) {
    shifted[d] += box.offsets[d];
  }
  return shifted;
}

}  // namespace waypoint

#endif  // TESTS_TESTING_RANDOM_GEOMETRY_H_
