#ifndef TESTS_ENGINE_LAYOUTS_H_
#define TESTS_ENGINE_LAYOUTS_H_

// Meshes that tests train on.

#include <string>

namespace waypoint::engine {

struct Layout {
  const char* name;
  int ranks;
  const char* config;
};

constexpr Layout kLayouts[] = {
    {"one", 1, ""},
    {"one_accumulating", 1, "mesh { micro_batches: 3 }"},
    {"tp2", 2, "mesh { tensor: 2 }"},
    {"pp2", 2, "mesh { pipeline: 2 }"},
    {"dp2", 2, ""},
    {"dp2_optimizer", 2, "mesh { zero: OPTIMIZER }"},
    {"dp2_weights", 2, "mesh { zero: WEIGHTS }"},
    {"tp3", 3, "mesh { tensor: 3 }"},
    {"pp3_four_pieces", 3, "mesh { pipeline: 3 micro_batches: 4 }"},
    {"dp3", 3, ""},
    {"dp3_weights", 3, "mesh { zero: WEIGHTS }"},
    {"tp4", 4, "mesh { tensor: 4 }"},
    {"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"},
    {"dp2_tp2_optimizer", 4, "mesh { tensor: 2 zero: OPTIMIZER }"},
    {"pp2_dp2", 4, "mesh { pipeline: 2 }"},
    {"dp4_weights", 4, "mesh { zero: WEIGHTS }"},
    {"tp6", 6, "mesh { tensor: 6 }"},
    {"pp2_tp3", 6, "mesh { pipeline: 2 tensor: 3 }"},
    {"pp2_dp3_optimizer", 6, "mesh { pipeline: 2 zero: OPTIMIZER }"},
    {"dp2_tp3_weights", 6, "mesh { tensor: 3 zero: WEIGHTS }"},
    {"dp6", 6, ""},
    {"dp6_weights", 6, "mesh { zero: WEIGHTS }"},
};

// One of each kind, for tests that do not need all.
constexpr Layout kSomeLayouts[] = {
    {"one", 1, ""},
    {"dp2_weights", 2, "mesh { zero: WEIGHTS }"},
    {"tp3", 3, "mesh { tensor: 3 }"},
    {"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"},
    {"tp4", 4, "mesh { tensor: 4 }"},
    {"pp3_dp2_optimizer", 6, "mesh { pipeline: 3 zero: OPTIMIZER }"},
    {"dp2_tp3_weights", 6, "mesh { tensor: 3 zero: WEIGHTS }"},
};

}  // namespace waypoint::engine

#endif  // TESTS_ENGINE_LAYOUTS_H_
