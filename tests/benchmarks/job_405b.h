#ifndef TESTS_BENCHMARKS_JOB_405B_H_
#define TESTS_BENCHMARKS_JOB_405B_H_

// What the ranks of a large job hold: Llama 3.1 405B (126 layers, hidden 16384, intermediate 53248, 8 key-value heads
// of 128, vocabulary 128256) on 8 tensor ranks x 16 stages x n data ranks.  bf16 weights, the same on all data ranks;
// fp32 master weights and two moments, cut into flat ranges over data ranks.

#include "checkpoint/tensor/box.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

int RanksOf405b(int data_parallel);
Manifest ManifestOf405b(int rank, int data_parallel);

// Part `rank` of `size` along dimension `cut`; all of it where that is negative.
Box TensorParallelBox(const Dims& shape, int cut, int rank, int size);

}  // namespace waypoint

#endif  // TESTS_BENCHMARKS_JOB_405B_H_
