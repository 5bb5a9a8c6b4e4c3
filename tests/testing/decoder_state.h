#ifndef TESTS_TESTING_DECODER_STATE_H_
#define TESTS_TESTING_DECODER_STATE_H_

// A small decoder as a trainer holds it: config, weights, optimizer state.  Values are exact in every castable type.

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/format/metadata.pb.h"
#include "models/decoder/parameters.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/exact_elements.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/random_geometry.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {

struct DecoderState {
  CheckpointMetadata metadata;
  std::unique_ptr<MemorySource> tensors;
};

inline DecoderState NewDecoderState(const models::DecoderConfig& config, uint64_t seed, DType dtype = DType::kBF16,
                                    bool optimizer_state = true) {
  DecoderState state;
  state.metadata.mutable_model_config()->PackFrom(config);
  state.metadata.mutable_training()->set_step(static_cast<int64_t>(seed));
  state.metadata.mutable_training()->set_scheduled(false);
  state.metadata.mutable_training()->mutable_loss_scaler()->set_scale(65536);
  state.metadata.mutable_training()->mutable_loss_scaler()->set_good_steps(static_cast<int64_t>(seed) + 1);
  for (const char* name : {"loss", "grad_norm", "tokens"}) {
    (*state.metadata.mutable_training()->mutable_metrics())[name] = static_cast<double>(seed);
  }
  state.tensors = std::make_unique<MemorySource>();
  RandomGeometry random(seed);
  const auto manifest = models::ParameterManifest(config, dtype);
  EXPECT_OK(manifest);
  for (const TensorMeta& meta : manifest->tensors()) {
    for (const std::string& suffix : {std::string(), std::string("/exp_avg")}) {
      if (!suffix.empty() && !optimizer_state) {
        continue;
      }
      std::vector<int> values(meta.num_elements());
      for (int& value : values) {
        value = static_cast<int>(random.Pick(-256, 256));
      }
      const DType type = suffix.empty() ? dtype : DType::kF32;
      state.tensors->Add(meta.name + suffix, type, meta.shape, ExactBytes(type, values));
    }
  }
  return state;
}

}  // namespace waypoint

#endif  // TESTS_TESTING_DECODER_STATE_H_
