#include "tests/engine/tiny_run.h"

#include <cstring>
#include <fstream>

#include "ATen/Functions.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "gtest/gtest.h"

namespace waypoint::engine {

std::string FreshDirectory(const std::string& name) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = JoinPath(::testing::TempDir(), name);
  EXPECT_TRUE(RemoveTree(fs, path).ok());
  EXPECT_TRUE(MakeDirectories(fs, path).ok());
  return path;
}

std::string TextFile(const std::string& directory) {
  const std::string path = JoinPath(directory, "text.txt");
  std::ofstream file(path, std::ios::binary);
  for (int i = 0; i < 4096; ++i) {
    file.put(static_cast<char>('a' + i * i % 23));
  }
  return path;
}

std::string TinyModel() {
  return R"(
    model {
      hidden_size: 16
      vocab_size: 256
      embeddings { embedding_scale: 1 }
      decoder {
        num_blocks: 2
        fixed {
          mixer {
            attention {
              heads: 4
              head_groups: 2
              head_size: 4
              rotary { theta: 10000 standard {} }
              causal: true
              softmax_scale_power: 0.5
            }
          }
          mlp { dense { intermediate_size: 24 gated: true activation: SILU } }
          normalization { kind: RMS_NORM epsilon: 1e-5 }
        }
      }
      head { normalization { kind: RMS_NORM epsilon: 1e-5 } logits_scale_factor: 1 prediction_heads: 1 }
    })";
}

std::string TinyConfig(const std::string& output, const std::string& data, int64_t steps) {
  return absl::StrCat(TinyModel(), R"(
    data { path: ")",
                      data, R"(" kind: BYTES batch_size: 2 sequence_length: 12 }
    optimizer { lr: 0.01 }
    schedule { warmup_steps: 2 }
    seed: 7
    threads: 1
    output: ")",
                      output, "\" steps: ", steps);
}

TrainerOptions Quiet(int64_t stop_after) {
  TrainerOptions options;
  options.print = [](const std::string&) {};
  if (stop_after > 0) {
    const auto steps = std::make_shared<int64_t>(0);
    options.stop = [steps, stop_after] { return ++*steps >= stop_after; };
  }
  return options;
}

absl::StatusOr<FinishedRun> RunTraining(const std::vector<std::string>& layers, const TrainerOptions& options) {
  ConfigLayers config;
  for (const std::string& layer : layers) {
    WAYPOINT_RETURN_IF_ERROR(config.AddText(layer, "config"));
  }
  FinishedRun run;
  WAYPOINT_ASSIGN_OR_RETURN(run.trainer, Trainer::Create(config, options));
  WAYPOINT_ASSIGN_OR_RETURN(run.report, run.trainer->Run());
  return run;
}

std::vector<std::string> DirectoriesIn(const std::string& path) {
  std::vector<std::string> names;
  const auto entries = PosixFileSystem().List(path);
  if (entries.ok()) {
    for (const DirectoryEntry& entry : *entries) {
      if (entry.type == FileType::kDirectory) {
        names.push_back(entry.name);
      }
    }
  }
  return names;
}

std::string DifferenceOf(const LiveState& a, const LiveState& b) {
  if (a.size() != b.size()) {
    return absl::StrCat(a.size(), " and ", b.size(), " tensors");
  }
  for (size_t i = 0; i < a.size(); ++i) {
    const at::Tensor x = a[i].tensor.contiguous();
    const at::Tensor y = b[i].tensor.contiguous();
    if (a[i].name != b[i].name || x.scalar_type() != y.scalar_type() || x.sizes() != y.sizes()) {
      return absl::StrCat(a[i].name, " and ", b[i].name);
    }
    // Bits, not values: 0 and -0 are not the same state.
    if (std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) != 0) {
      return absl::StrCat("values of ", a[i].name);
    }
  }
  return "";
}

}  // namespace waypoint::engine
