#ifndef ENGINE_CONFIG_H_
#define ENGINE_CONFIG_H_

// A training config as layers of text: a file, then overrides from the command line.
//
//   ConfigLayers layers;
//   WAYPOINT_RETURN_IF_ERROR(layers.AddFile(fs, "run.textproto"));
//   WAYPOINT_RETURN_IF_ERROR(layers.AddOverride("optimizer.lr=1e-4"));
//   TrainConfig config = layers.Merged(base);                 // base: what a checkpoint says, or nothing
//   WAYPOINT_RETURN_IF_ERROR(FillAndCheck(config));
//
// What a layer sets explicitly, zeros and false included, replaces what is below it: scalars and lists as a whole,
// messages field by field, maps entry by entry.  What it does not mention stays.
//
// Errors: E_REQUEST, with file, line and the fields there are where a name is unknown.  Thread-compatible.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "checkpoint/storage/file_system.h"
#include "engine/config.pb.h"
#include "google/protobuf/text_format.h"

namespace waypoint::engine {

class ConfigLayers {
 public:
  absl::Status AddFile(FileSystem& fs, const std::string& path);
  // `what` names the text in messages.
  absl::Status AddText(absl::string_view text, absl::string_view what);
  // "key.sub=value".  A key may go through maps ("model.decoder.pattern.blocks.NAME.mlp...").  A value is written as
  // in text format, [a, b] for lists and {...} for messages; quotes around strings may be left out.
  absl::Status AddOverride(absl::string_view assignment);

  TrainConfig Merged(const TrainConfig& base) const;

 private:
  struct Layer {
    // By pointer: moving a message may reorder its maps, which `mentioned` knows by position.
    std::unique_ptr<TrainConfig> config;
    // Says which fields the text mentioned, which the message alone cannot tell for zeros.
    std::unique_ptr<google::protobuf::TextFormat::ParseInfoTree> mentioned;
  };
  std::vector<Layer> layers_;
};

// Fills in the documented defaults (but for `threads`, which depends on the machine) of a job of so many ranks, then
// checks every value.  All problems come in one E_REQUEST error.  The model is not looked at: models::ValidateConfig
// and CheckPart do that.
absl::Status FillAndCheck(TrainConfig& config, int world_size = 1);

// The metric of a checkpoint that is the loss of its step.  In checkpoints, never rename.
constexpr char kLossMetric[] = "loss";

// checkpoint.timeout_seconds or what it is by default; of any config, complete or not, since ranks must also agree that
// one is wrong.
absl::Duration CheckpointTimeout(const TrainConfig& config);

std::string PrintConfig(const google::protobuf::Message& config);
// The other direction; E_SCHEMA.  Unknown fields are errors.
absl::StatusOr<TrainConfig> ParsePrintedConfig(absl::string_view text, absl::string_view what);

// Takes out what a user says for one start only: resume, start_over, data.allow_changed.  A saved config does not
// consent for later ones.
void ClearConsents(TrainConfig& config);

// "optimizer.lr: 0.0003 -> 0.0001", one per difference of two configs; models and consents are left out.
std::vector<std::string> CompareConfigs(const TrainConfig& before, const TrainConfig& now);

}  // namespace waypoint::engine

#endif  // ENGINE_CONFIG_H_
