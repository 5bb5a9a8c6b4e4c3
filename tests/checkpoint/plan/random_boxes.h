#ifndef TESTS_CHECKPOINT_PLAN_RANDOM_BOXES_H_
#define TESTS_CHECKPOINT_PLAN_RANDOM_BOXES_H_

// Random shapes, boxes and tilings for property tests.

#include <random>
#include <vector>

#include "checkpoint/tensor/box.h"

namespace waypoint {

using Random = std::mt19937_64;

inline int64_t Uniform(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

inline Dims RandomShape(Random& random, int max_rank, int64_t max_size) {
  Dims shape(Uniform(random, 0, max_rank));
  for (int64_t& size : shape) {
    size = Uniform(random, 1, max_size);
  }
  return shape;
}

// May be empty.
inline Box RandomBox(Random& random, const Dims& shape) {
  Box box;
  for (const int64_t size : shape) {
    const int64_t begin = Uniform(random, 0, size);
    box.offsets.push_back(begin);
    box.sizes.push_back(Uniform(random, 0, size - begin));
  }
  return box;
}

// Disjoint boxes that make up the shape.
inline std::vector<Box> RandomTiling(Random& random, const Dims& shape, int cuts) {
  std::vector<Box> tiles = {Box::Whole(shape)};
  for (int i = 0; i < cuts && !shape.empty(); ++i) {
    Box& tile = tiles[Uniform(random, 0, static_cast<int64_t>(tiles.size()) - 1)];
    const auto dim = static_cast<int>(Uniform(random, 0, static_cast<int64_t>(shape.size()) - 1));
    if (tile.sizes[dim] < 2) {
      continue;
    }
    const int64_t first = Uniform(random, 1, tile.sizes[dim] - 1);
    Box rest = tile;
    rest.offsets[dim] += first;
    rest.sizes[dim] -= first;
    tile.sizes[dim] = first;
    tiles.push_back(rest);
  }
  return tiles;
}

// How often each element of the shape, row-major, lies in a box.
inline std::vector<int> CountElements(const Dims& shape, const std::vector<Box>& boxes) {
  std::vector<int> counts(NumElements(shape), 0);
  Dims index(shape.size(), 0);
  for (int& count : counts) {
    for (const Box& box : boxes) {
      bool inside = true;
      for (size_t d = 0; d < shape.size(); ++d) {
        inside = inside && index[d] >= box.offsets[d] && index[d] < box.offsets[d] + box.sizes[d];
      }
      count += inside;
    }
    for (int d = static_cast<int>(shape.size()) - 1; d >= 0 && ++index[d] == shape[d]; --d) {
      index[d] = 0;
    }
  }
  return counts;
}

}  // namespace waypoint

#endif  // TESTS_CHECKPOINT_PLAN_RANDOM_BOXES_H_
