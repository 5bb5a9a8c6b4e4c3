// How a trainer that is not this project's links the library: its own tensors, its own loop, our files.
// Compiled and run as a test, and quoted by the README.

#include <cstdio>
#include <cstdlib>
#include <string>

#include "ATen/Functions.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "models/decoder/parameters.h"

using namespace waypoint;  // NOLINT: an example

// [START own_trainer]
// Trains `state` up to step `last`, saving after every step, and continues where an earlier call stopped.
absl::Status Train(const std::string& run, const models::DecoderConfig& config, LiveState& state, int64_t last) {
  FileSystem& fs = PosixFileSystem();
  CheckpointRoot root(fs, run + "/checkpoint");
  CheckpointMetadata metadata;
  metadata.mutable_model_config()->PackFrom(config);

  // Resume: the newest complete checkpoint fills the tensors in place.
  WAYPOINT_ASSIGN_OR_RETURN(const absl::optional<CheckpointRef> latest, root.Latest());
  if (latest.has_value()) {
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, FindFormat(fs, latest->path, "auto"));
    WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint saved, format->Open(fs, latest->path, {}));
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSink> sink, NewLiveSink(state));
    WAYPOINT_RETURN_IF_ERROR(Restore(saved, *sink, {}).status());
    *metadata.mutable_training() = saved.metadata.training();
  }

  // Train and save: atomic, checked, the newest three stay.
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, NewLiveSource(state));
  CheckpointerOptions options;
  options.retention.keep = 3;
  for (int64_t step = metadata.training().step() + 1; step <= last; ++step) {
    for (LiveTensor& parameter : state) {
      parameter.tensor.mul_(0.5);  // your training step
    }
    metadata.mutable_training()->set_step(step);
    WAYPOINT_RETURN_IF_ERROR(root.Save(options, metadata, *source).status());
  }

  // Export: a directory that Hugging Face's transformers loads.
  WriteOptions export_options;
  export_options.format = "llama";
  export_options.overwrite = true;
  return WriteCheckpoint(fs, run + "/export", export_options, metadata, *source, {}).status();
}
// [END own_trainer]

namespace {

models::DecoderConfig SmallModel() {
  models::DecoderConfig config;
  config.set_hidden_size(16);
  config.set_vocab_size(32);
  config.mutable_embeddings()->set_embedding_scale(1);
  config.mutable_decoder()->set_num_blocks(2);
  models::Block& block = *config.mutable_decoder()->mutable_fixed();
  block.mutable_normalization()->set_kind(models::Normalization::RMS_NORM);
  block.mutable_normalization()->set_epsilon(1e-5);
  *config.mutable_head()->mutable_normalization() = block.normalization();
  config.mutable_head()->set_logits_scale_factor(1);
  config.mutable_head()->set_prediction_heads(1);
  models::Attention& attention = *block.mutable_mixer()->mutable_attention();
  attention.set_heads(4);
  attention.set_head_groups(2);
  attention.set_head_size(4);
  attention.set_causal(true);
  attention.set_softmax_scale_power(0.5);
  attention.mutable_rotary()->set_theta(10000);
  attention.mutable_rotary()->mutable_standard();
  models::DenseMlp& mlp = *block.mutable_mlp()->mutable_dense();
  mlp.set_intermediate_size(24);
  mlp.set_gated(true);
  mlp.set_activation(models::SILU);
  return config;
}

absl::StatusOr<LiveState> Filled(const models::DecoderConfig& config, double value) {
  WAYPOINT_ASSIGN_OR_RETURN(const Manifest manifest, models::ParameterManifest(config, DType::kF32));
  LiveState state;
  for (const TensorMeta& parameter : manifest.tensors()) {
    const std::vector<int64_t> shape(parameter.shape.begin(), parameter.shape.end());
    state.push_back({parameter.name, at::full(shape, value)});
  }
  return state;
}

absl::Status Expect(const LiveState& state, float value, const std::string& what) {
  for (const LiveTensor& parameter : state) {
    if (!at::equal(parameter.tensor, at::full_like(parameter.tensor, value))) {
      return absl::InternalError(what + ": \"" + parameter.name + "\" is not " + std::to_string(value));
    }
  }
  return absl::OkStatus();
}

absl::Status RunExample(const std::string& run) {
  const models::DecoderConfig config = SmallModel();
  WAYPOINT_ASSIGN_OR_RETURN(LiveState first, Filled(config, 64));
  WAYPOINT_RETURN_IF_ERROR(Train(run, config, first, 2));
  WAYPOINT_RETURN_IF_ERROR(Expect(first, 16, "two steps"));

  // As another process would: nothing but the files is left of the first call.
  WAYPOINT_ASSIGN_OR_RETURN(LiveState second, Filled(config, -1));
  WAYPOINT_RETURN_IF_ERROR(Train(run, config, second, 5));
  WAYPOINT_RETURN_IF_ERROR(Expect(second, 2, "three more after a resume"));

  FileSystem& fs = PosixFileSystem();
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<CheckpointRef> kept, CheckpointRoot(fs, run + "/checkpoint").List());
  if (kept.size() != 3 || kept.front().step != 3) {
    return absl::InternalError("the newest three checkpoints should have stayed");
  }
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, FindFormat(fs, run + "/export", "auto"));
  WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint exported, format->Open(fs, run + "/export", {}));
  WAYPOINT_ASSIGN_OR_RETURN(LiveState loaded, Filled(config, -1));
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSink> sink, NewLiveSink(loaded));
  WAYPOINT_RETURN_IF_ERROR(Restore(exported, *sink, {}).status());
  return Expect(loaded, 2, "the export");
}

}  // namespace

int main() {
  const char* const directory = std::getenv("TEST_TMPDIR");
  const absl::Status status = RunExample(std::string(directory == nullptr ? "/tmp" : directory) + "/own_trainer");
  std::printf("%s\n", status.ok() ? "OK" : status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
