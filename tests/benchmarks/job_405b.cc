#include "tests/benchmarks/job_405b.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/decoder/sharding.h"

namespace waypoint {
namespace {

constexpr int64_t kLayers = 126;
constexpr int64_t kHidden = 16384;
constexpr int64_t kIntermediate = 53248;
constexpr int64_t kVocabulary = 128256;
constexpr int64_t kKeyValue = 1024;
constexpr int kTensorParallel = 8;
constexpr int kPipelineParallel = 16;

struct Parameter {
  std::string name;
  Dims shape;
  int cut = -1;  // dimension that tensor parallelism cuts
};

std::vector<Parameter> StageParameters(int stage) {
  std::vector<Parameter> parameters;
  if (stage == 0) {
    parameters.push_back({"embedding.weight", {kVocabulary, kHidden}, 0});
  }
  models::DecoderConfig config;
  config.mutable_decoder()->set_num_blocks(kLayers);
  models::DecoderPart part;
  part.stage = stage;
  part.stages = kPipelineParallel;
  const models::IndexRange layers = models::LayersOf(config, part);
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    const std::string prefix = absl::StrCat("decoder.", layer, ".");
    parameters.push_back({prefix + "norm_1.weight", {kHidden}});
    parameters.push_back({prefix + "mixer.query.weight", {kHidden, kHidden}, 0});
    parameters.push_back({prefix + "mixer.key.weight", {kKeyValue, kHidden}, 0});
    parameters.push_back({prefix + "mixer.value.weight", {kKeyValue, kHidden}, 0});
    parameters.push_back({prefix + "mixer.dense.weight", {kHidden, kHidden}, 1});
    parameters.push_back({prefix + "norm_2.weight", {kHidden}});
    parameters.push_back({prefix + "mlp.gate.weight", {kIntermediate, kHidden}, 0});
    parameters.push_back({prefix + "mlp.up.weight", {kIntermediate, kHidden}, 0});
    parameters.push_back({prefix + "mlp.down.weight", {kHidden, kIntermediate}, 1});
  }
  if (stage == kPipelineParallel - 1) {
    parameters.push_back({"head.norm.weight", {kHidden}});
    parameters.push_back({"head.weight", {kVocabulary, kHidden}, 0});
  }
  return parameters;
}

}  // namespace

int RanksOf405b(int data_parallel) { return kTensorParallel * kPipelineParallel * data_parallel; }

Box TensorParallelBox(const Dims& shape, int cut, int rank, int size) {
  Box box = Box::Whole(shape);
  if (cut >= 0) {
    box.sizes[cut] /= size;
    box.offsets[cut] = box.sizes[cut] * rank;
  }
  return box;
}

Manifest ManifestOf405b(int rank, int data_parallel) {
  const int tp = rank % kTensorParallel;
  const int dp = rank / kTensorParallel % data_parallel;
  const int stage = rank / kTensorParallel / data_parallel;
  Manifest manifest;
  for (const Parameter& parameter : StageParameters(stage)) {
    const Box held = TensorParallelBox(parameter.shape, parameter.cut, tp, kTensorParallel);
    TensorMeta meta;
    meta.name = parameter.name;
    meta.dtype = DType::kBF16;
    meta.shape = parameter.shape;
    meta.boxes = {held};
    if (!manifest.Add(meta).ok()) {
      std::abort();
    }
    const int64_t elements = held.num_elements();
    meta.dtype = DType::kF32;
    meta.boxes = FlatRangeToBoxes(held.sizes, elements * dp / data_parallel, elements * (dp + 1) / data_parallel);
    for (Box& box : meta.boxes) {
      for (int d = 0; d < box.rank(); ++d) {
        box.offsets[d] += held.offsets[d];
      }
    }
    for (const char* state : {"/master", "/exp_avg", "/exp_avg_sq"}) {
      meta.name = absl::StrCat(parameter.name, state);
      if (!manifest.Add(meta).ok()) {
        std::abort();
      }
    }
  }
  return manifest;
}

}  // namespace waypoint
