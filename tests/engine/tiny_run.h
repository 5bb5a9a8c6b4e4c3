#ifndef TESTS_ENGINE_TINY_RUN_H_
#define TESTS_ENGINE_TINY_RUN_H_

// Training runs of a model with 16 channels, for tests of the engine.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/trainer.h"

namespace waypoint::engine {

// A fresh directory below the test's own.
std::string FreshDirectory(const std::string& name);

// Writes 4,096 bytes of repeating text there and returns the path.
std::string TextFile(const std::string& directory);

// A whole config: 256-token vocabulary, 2 layers, float32, one thread, constant data.  Runs into `output`.
std::string TinyConfig(const std::string& output, const std::string& data, int64_t steps);
// The part of it that says `model { ... }`.
std::string TinyModel();

// Options that print nothing, and stop after `stop_after` completed steps (0: never).
TrainerOptions Quiet(int64_t stop_after = 0);

struct FinishedRun {
  std::unique_ptr<Trainer> trainer;
  TrainReport report;
};
absl::StatusOr<FinishedRun> RunTraining(const std::vector<std::string>& layers, const TrainerOptions& options);

// Names of the directories below `path`, sorted; empty when it does not exist.
std::vector<std::string> DirectoriesIn(const std::string& path);

// "" when both hold the same tensors, bit for bit; else what differs first.
std::string DifferenceOf(const LiveState& a, const LiveState& b);

}  // namespace waypoint::engine

#endif  // TESTS_ENGINE_TINY_RUN_H_
