#ifndef TESTS_ENGINE_JOB_RUN_H_
#define TESTS_ENGINE_JOB_RUN_H_

// Training runs of many ranks, as threads of the test.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "engine/trainer.h"

namespace waypoint::engine {

// Whole tensors by name, put together from what all ranks hold.
using GlobalState = std::map<std::string, at::Tensor>;

struct JobOptions {
  // 0: never.
  int64_t stop_after = 0;
  // Which rank is told to stop.
  int stopping_rank = 0;
  // Called by that rank when it is.
  std::function<void()> on_stop = [] {};
  FileSystem* fs = &PosixFileSystem();
  // Instead of `fs`.
  std::function<FileSystem*(int rank)> fs_of_rank;
  // What that rank speaks through instead of `base`.
  std::function<std::unique_ptr<Coordinator>(int rank, std::unique_ptr<Coordinator> base)> wrap_coordinator;
  // One more layer of config, for that rank only.
  std::function<std::string(int rank)> config_of_rank;
  // Called by every rank after each step, before anything is made of it.
  std::function<void(int rank, int64_t step)> on_step = [](int, int64_t) {};
  // Called by every rank when its trainer is there, before it runs.  An error ends that rank only.
  std::function<absl::Status(int rank, Trainer& trainer)> before_run;
};

struct JobRun {
  std::vector<absl::Status> statuses;  // by rank
  std::vector<TrainReport> reports;    // by rank
  std::vector<double> losses;          // of each step, as rank 0 has it
  std::vector<double> grad_norms;
  std::vector<std::string> lines;  // that any rank printed
  GlobalState start;               // before the first step
  GlobalState end;
  // Elements that ranks disagree about or that nobody holds; empty when all is well.
  std::string problem;
};

// Heads, channels and batches that 1, 2, 3, 4 and 6 ranks divide, a vocabulary that none does, 3 layers.
std::string JobConfig(const std::string& output, const std::string& data, int64_t steps);

JobRun RunJob(int world_size, const std::vector<std::string>& layers, const JobOptions& options = {});

// "" when both hold the same tensors, bit for bit; else what differs first.
std::string DifferenceOf(const GlobalState& a, const GlobalState& b);

}  // namespace waypoint::engine

#endif  // TESTS_ENGINE_JOB_RUN_H_
