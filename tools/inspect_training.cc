#include "tools/inspect_training.h"

#include <cmath>
#include <map>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/types/optional.h"
#include "checkpoint/base/visible_text.h"
#include "engine/config.h"
#include "engine/learning_rate.h"

namespace waypoint {
namespace {

absl::StatusOr<engine::TrainConfig> ConfigOf(const TrainingState& training) {
  return engine::ParsePrintedConfig(training.trainer_config(), "trainer_config");
}

// Of the last step.
absl::optional<double> LearningRateIn(const TrainingState& training) {
  const absl::StatusOr<engine::TrainConfig> config = ConfigOf(training);
  if (training.trainer_config().empty() || !config.ok() || training.step() < 1) {
    return absl::nullopt;
  }
  // The file may say anything.
  const engine::ScheduleConfig& schedule = config->schedule();
  if (schedule.warmup_steps() < 0 || schedule.decay_steps() < schedule.warmup_steps()) {
    return absl::nullopt;
  }
  const double rate = engine::LearningRateOf(*config, training.step() - 1);
  return std::isfinite(rate) ? absl::optional<double>(rate) : absl::nullopt;
}

}  // namespace

std::string TrainingText(const TrainingState& training) {
  std::string text = absl::StrFormat("  step %d, loss %.6g", training.step(), training.last_loss());
  if (const absl::optional<double> rate = LearningRateIn(training); rate.has_value()) {
    absl::StrAppend(&text, absl::StrFormat(", learning rate %.6g (of the last step)", *rate));
  }
  absl::StrAppend(&text, ", ", training.data_position(), " tokens of data read");
  if (training.has_scheduled()) {
    absl::StrAppend(&text, training.scheduled() ? ", saved on schedule" : ", saved out of schedule");
  }
  absl::StrAppend(&text, "\n");
  if (training.has_data()) {
    absl::StrAppend(&text, "  data: ", training.data().size_bytes(), " bytes, ", training.data().tokens(),
                    " tokens, xxh3 ", VisibleText(training.data().xxh3()), "\n");
  }
  return text;
}

std::vector<std::string> TrainerConfigLines(const TrainingState& training) {
  absl::StatusOr<engine::TrainConfig> config = ConfigOf(training);
  std::string text = training.trainer_config();
  if (config.ok()) {
    config->clear_model();
    text = engine::PrintConfig(*config);
  }
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

nlohmann::ordered_json TrainingJson(const TrainingState& training) {
  const auto number = [](double value) {
    // JSON has no infinity.
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json;
  json["step"] = training.step();
  json["loss"] = number(training.last_loss());
  const absl::optional<double> rate = LearningRateIn(training);
  json["learning_rate"] = rate.has_value() ? number(*rate) : nlohmann::ordered_json(nullptr);
  json["data_position"] = training.data_position();
  if (training.has_data()) {
    json["data"] = {{"bytes", training.data().size_bytes()},
                    {"tokens", training.data().tokens()},
                    {"xxh3", training.data().xxh3()}};
  }
  if (training.has_scheduled()) {
    json["scheduled"] = training.scheduled();
  }
  json["metrics"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] :
       std::map<std::string, double>(training.metrics().begin(), training.metrics().end())) {
    json["metrics"][name] = number(value);
  }
  json["trainer_config"] = training.trainer_config();
  return json;
}

}  // namespace waypoint
