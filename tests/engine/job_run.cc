#include "tests/engine/job_run.h"

#include <cstring>
#include <mutex>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "tests/engine/rank_threads.h"

namespace waypoint::engine {
namespace {

// Puts global tensors together.
class Assembly {
 public:
  void Add(const LiveState& state) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const LiveTensor& live : state) {
      const bool whole = live.global_shape.empty();
      const Dims local(live.tensor.sizes().begin(), live.tensor.sizes().end());
      const Dims& shape = whole ? local : live.global_shape;
      const at::IntArrayRef sizes(shape.data(), shape.size());
      const auto [found, first] = whole_.emplace(live.name, at::Tensor());
      if (first) {
        found->second = at::zeros(sizes, live.tensor.options());
        held_[live.name] = at::zeros(sizes, at::kBool);
      }
      const Box box = whole ? Box::Whole(shape) : live.box;
      at::Tensor part = found->second;
      at::Tensor held = held_[live.name];
      for (int d = 0; d < box.rank(); ++d) {
        part = part.narrow(d, box.offsets[d], box.sizes[d]);
        held = held.narrow(d, box.offsets[d], box.sizes[d]);
      }
      if (!at::equal(at::where(held, part, live.tensor), live.tensor)) {
        problem_ = absl::StrCat("ranks disagree about ", live.name, " ", box.ToString());
      }
      part.copy_(live.tensor);
      held.fill_(true);
    }
  }

  GlobalState Take(std::string* problem) {
    for (const auto& [name, held] : held_) {
      if (!held.all().item<bool>()) {
        problem_ = absl::StrCat("nobody holds all of ", name);
      }
    }
    if (!problem_.empty()) {
      *problem = problem_;
    }
    return whole_;
  }

 private:
  std::mutex mutex_;
  GlobalState whole_;
  std::map<std::string, at::Tensor> held_;
  std::string problem_;
};

}  // namespace

std::string JobConfig(const std::string& output, const std::string& data, int64_t steps) {
  return absl::StrCat(R"(
    model {
      hidden_size: 24
      vocab_size: 131
      embeddings { embedding_scale: 1 }
      decoder {
        num_blocks: 3
        fixed {
          mixer {
            attention {
              heads: 12
              head_groups: 12
              head_size: 4
              rotary { theta: 10000 standard {} }
              causal: true
              softmax_scale_power: 0.5
              add_linear_biases: true
            }
          }
          mlp { dense { intermediate_size: 36 gated: true activation: SILU } }
          normalization { kind: RMS_NORM epsilon: 1e-5 }
        }
      }
      head { normalization { kind: RMS_NORM epsilon: 1e-5 } logits_scale_factor: 1 prediction_heads: 1 }
    }
    data { path: ")",
                      data, R"(" kind: BYTES batch_size: 12 sequence_length: 8 }
    optimizer { lr: 0.005 clip_norm: 0.5 }
    schedule { warmup_steps: 2 }
    seed: 7
    threads: 1
    mesh { timeout_seconds: 60 }
    output: ")",
                      output, "\" steps: ", steps);
}

JobRun RunJob(int world_size, const std::vector<std::string>& layers, const JobOptions& options) {
  JobRun run;
  run.reports.resize(world_size);
  std::mutex lines_mutex;
  Assembly start;
  Assembly end;
  run.statuses = RunRanks(world_size, [&](TestRank mine) -> absl::Status {
    const int rank = mine.rendezvous.rank;
    ConfigLayers config;
    for (const std::string& layer : layers) {
      WAYPOINT_RETURN_IF_ERROR(config.AddText(layer, "config"));
    }
    if (options.config_of_rank) {
      WAYPOINT_RETURN_IF_ERROR(config.AddText(options.config_of_rank(rank), "config"));
    }
    TrainerOptions trainer_options;
    if (options.wrap_coordinator) {
      mine.coordinator = options.wrap_coordinator(rank, std::move(mine.coordinator));
    }
    trainer_options.fs = options.fs_of_rank ? options.fs_of_rank(rank) : options.fs;
    trainer_options.coordinator = mine.coordinator.get();
    trainer_options.exchange = mine.exchange.get();
    trainer_options.rendezvous = mine.rendezvous;
    trainer_options.print = [&](const std::string& line) {
      const std::lock_guard<std::mutex> lock(lines_mutex);
      run.lines.push_back(line);
    };
    int64_t steps = 0;
    trainer_options.stop = [&] {
      const bool stop = ++steps >= options.stop_after && options.stop_after > 0 && rank == options.stopping_rank;
      if (stop) {
        options.on_stop();
      }
      return stop;
    };
    trainer_options.on_step = [&](const StepMetrics& metrics) {
      if (rank == 0) {
        run.losses.push_back(metrics.loss);
        run.grad_norms.push_back(metrics.grad_norm);
      }
      options.on_step(rank, metrics.step);
    };
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(config, trainer_options));
    start.Add(trainer->state().Tensors());
    if (options.before_run) {
      WAYPOINT_RETURN_IF_ERROR(options.before_run(rank, *trainer));
    }
    WAYPOINT_ASSIGN_OR_RETURN(run.reports[rank], trainer->Run());
    end.Add(trainer->state().Tensors());
    return absl::OkStatus();
  });
  run.start = start.Take(&run.problem);
  run.end = end.Take(&run.problem);
  return run;
}

std::string DifferenceOf(const GlobalState& a, const GlobalState& b) {
  for (const auto& [name, tensor] : a) {
    const auto found = b.find(name);
    if (found == b.end() || found->second.sizes() != tensor.sizes() ||
        found->second.scalar_type() != tensor.scalar_type()) {
      return absl::StrCat(name, " is not the same tensor in both");
    }
    if (std::memcmp(tensor.data_ptr(), found->second.data_ptr(), tensor.nbytes()) != 0) {
      return absl::StrCat("values of ", name);
    }
  }
  return a.size() == b.size() ? "" : absl::StrCat(a.size(), " and ", b.size(), " tensors");
}

}  // namespace waypoint::engine
