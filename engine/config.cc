#include "engine/config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/dtype_words.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/ranges.h"
#include "engine/mesh.h"
#include "google/protobuf/util/message_differencer.h"

namespace waypoint::engine {
namespace {

constexpr double kDefaultTimeoutSeconds = 600;

// Collects what is wrong, so that a user sees all of it at once.
class Problems {
 public:
  template <typename Value>
  void Check(bool fine, absl::string_view field, Value value, absl::string_view wanted) {
    if (!fine) {
      problems_.push_back(absl::StrCat(field, ": got ", value, ", wanted ", wanted));
    }
  }
  void Required(bool set, absl::string_view field) {
    if (!set) {
      problems_.push_back(absl::StrCat(field, ": must be set"));
    }
  }

  // What the fields themselves state, where nothing is said of one yet.
  void CheckRangesOf(const google::protobuf::Message& message) {
    for (const OutOfRange& wrong : FindOutOfRange(message)) {
      const std::string said = absl::StrCat(wrong.path.substr(0, wrong.path.find('[')), ": got ");
      const bool known = std::any_of(problems_.begin(), problems_.end(),
                                     [&said](const std::string& problem) { return absl::StartsWith(problem, said); });
      if (!known) {
        problems_.push_back(absl::StrCat(wrong.path, ": got ", wrong.value, ", wanted ", wrong.wanted));
      }
    }
  }

  absl::Status status() const {
    if (problems_.empty()) {
      return absl::OkStatus();
    }
    return MakeListError(
        ErrorKind::kRequest,
        absl::StrCat("config has ", problems_.size(), " problem", problems_.size() == 1 ? "" : "s", ":"), problems_);
  }

 private:
  std::vector<std::string> problems_;
};

template <typename Message>
void FillSchedule(Message& schedule, int64_t keep) {
  if (!schedule.has_interval()) {
    schedule.set_interval(0);
  }
  if (!schedule.has_keep()) {
    schedule.set_keep(keep);
  }
  if (!schedule.has_keep_every()) {
    schedule.set_keep_every(0);
  }
}

void FillPretrained(Pretrained& pretrained) {
  if (!pretrained.has_format()) {
    pretrained.set_format("auto");
  }
  if (!pretrained.has_load_config()) {
    pretrained.set_load_config(Pretrained::MODEL);
  }
  if (!pretrained.has_model_weights()) {
    pretrained.set_model_weights(true);
  }
  if (!pretrained.has_optimizer_state()) {
    pretrained.set_optimizer_state(false);
  }
  if (!pretrained.has_carry_unknown()) {
    pretrained.set_carry_unknown(false);
  }
}

void FillData(Dataset& data, uint64_t seed) {
  if (!data.has_batch_size()) {
    data.set_batch_size(8);
  }
  if (!data.has_sequence_length()) {
    data.set_sequence_length(128);
  }
  if (!data.has_seed()) {
    data.set_seed(seed);
  }
  if (!data.has_allow_changed()) {
    data.set_allow_changed(false);
  }
}

void FillOptimizer(AdamWConfig& optimizer) {
  if (!optimizer.has_lr()) {
    optimizer.set_lr(3e-4);
  }
  if (optimizer.betas().empty()) {
    optimizer.add_betas(0.9);
    optimizer.add_betas(0.95);
  }
  if (!optimizer.has_eps()) {
    optimizer.set_eps(1e-8);
  }
  if (!optimizer.has_weight_decay()) {
    optimizer.set_weight_decay(0.1);
  }
  if (!optimizer.has_clip_norm()) {
    optimizer.set_clip_norm(1.0);
  }
}

void FillMesh(MeshConfig& mesh) {
  if (!mesh.has_tensor()) {
    mesh.set_tensor(1);
  }
  if (!mesh.has_pipeline()) {
    mesh.set_pipeline(1);
  }
  if (!mesh.has_zero()) {
    mesh.set_zero(MeshConfig::NONE);
  }
  if (!mesh.has_micro_batches()) {
    mesh.set_micro_batches(mesh.pipeline());
  }
  if (!mesh.has_timeout_seconds()) {
    mesh.set_timeout_seconds(kDefaultTimeoutSeconds);
  }
}

void FillCheckpoint(const MeshConfig& mesh, int world_size, CheckpointSchedule& checkpoint) {
  FillSchedule(checkpoint, 5);
  if (!checkpoint.has_keep_best()) {
    checkpoint.set_keep_best(0);
  }
  if (!checkpoint.has_best_metric()) {
    checkpoint.set_best_metric(kLossMetric);
  }
  if (!checkpoint.has_when_busy()) {
    checkpoint.set_when_busy(CheckpointSchedule::WAIT);
  }
  if (!checkpoint.has_max_snapshot_bytes()) {
    checkpoint.set_max_snapshot_bytes(0);
  }
  if (!checkpoint.has_async()) {
    checkpoint.set_async(CheckpointSchedule::NONE);
  }
  if (!checkpoint.has_format()) {
    checkpoint.set_format(world_size == 1 ? "native" : "distributed");
  }
  if (!checkpoint.has_timeout_seconds()) {
    checkpoint.set_timeout_seconds(mesh.timeout_seconds());
  }
  if (!checkpoint.has_keep_signal_saves()) {
    checkpoint.set_keep_signal_saves(false);
  }
}

// A message of the config file cannot be taken back on the command line: its format is what switches it.
bool IsSwitchedOff(const ExportSchedule& schedule) {
  return schedule.has_format() && (schedule.format().empty() || schedule.format() == "none");
}

// "bf16" is "bfloat16" from here on, so that a run which says the other when it goes on is the same.  What is no type
// stays, to be refused.
std::string DTypeSpelledOut(const std::string& word) {
  const DType dtype = DTypeFromWord(word);
  return dtype == DType::kInvalid ? word : std::string(DTypeTorchName(dtype));
}

void FillDefaults(TrainConfig& config, int world_size) {
  if (!config.has_dtype()) {
    config.set_dtype("float32");
  }
  config.set_dtype(DTypeSpelledOut(config.dtype()));
  if (!config.has_device()) {
    config.set_device("cpu");
  }
  if (!config.has_seed()) {
    config.set_seed(0);
  }
  if (!config.has_log_interval()) {
    config.set_log_interval(1);
  }
  if (!config.has_threads()) {
    config.set_threads(0);
  }
  if (config.has_pretrained()) {
    FillPretrained(*config.mutable_pretrained());
  }
  FillData(*config.mutable_data(), config.seed());
  FillOptimizer(*config.mutable_optimizer());
  ScheduleConfig& schedule = *config.mutable_schedule();
  if (!schedule.has_warmup_steps()) {
    schedule.set_warmup_steps(0);
  }
  if (!schedule.has_decay_steps()) {
    schedule.set_decay_steps(std::max({int64_t{1}, config.steps(), schedule.warmup_steps()}));
  }
  if (!schedule.has_min_ratio()) {
    schedule.set_min_ratio(0.1);
  }
  FillMesh(*config.mutable_mesh());
  FillCheckpoint(config.mesh(), world_size, *config.mutable_checkpoint());
  if (!config.resume().has_on_damage()) {
    config.mutable_resume()->set_on_damage(ResumePolicy::FALL_BACK);
  }
  if (!config.has_start_over()) {
    config.set_start_over(false);
  }
  if (config.has_export_() && IsSwitchedOff(config.export_())) {
    config.clear_export_();
  }
  if (config.has_export_()) {
    FillSchedule(*config.mutable_export_(), 0);
    if (!config.export_().has_dtype()) {
      config.mutable_export_()->set_dtype("keep");
    }
    config.mutable_export_()->set_dtype(DTypeSpelledOut(config.export_().dtype()));
    if (!config.export_().has_drop_unknown()) {
      config.mutable_export_()->set_drop_unknown(false);
    }
  }
}

template <typename Message>
void CheckSchedule(const Message& schedule, const std::string& name, Problems& problems) {
  problems.Check(schedule.interval() >= 0, name + ".interval", schedule.interval(), "0 or more");
  problems.Check(schedule.keep() >= 0, name + ".keep", schedule.keep(), "0 (all) or more");
  problems.Check(schedule.keep_every() >= 0, name + ".keep_every", schedule.keep_every(), "0 (none) or more");
}

bool IsDuration(double seconds) { return std::isfinite(seconds) && seconds > 0; }

bool InRange(double value, double low, double high) { return value >= low && value < high; }

void CheckOptimizer(const TrainConfig& config, Problems& problems) {
  const AdamWConfig& optimizer = config.optimizer();
  const auto finite_positive = [](double value) { return std::isfinite(value) && value > 0; };
  const auto finite_not_negative = [](double value) { return std::isfinite(value) && value >= 0; };
  problems.Check(finite_positive(optimizer.lr()), "optimizer.lr", optimizer.lr(), "a positive number");
  problems.Check(optimizer.betas_size() == 2 && InRange(optimizer.betas(0), 0, 1) && InRange(optimizer.betas(1), 0, 1),
                 "optimizer.betas", absl::StrCat("[", absl::StrJoin(optimizer.betas(), ", "), "]"),
                 "two numbers of at least 0 and below 1");
  problems.Check(finite_positive(optimizer.eps()), "optimizer.eps", optimizer.eps(), "a positive number");
  problems.Check(finite_not_negative(optimizer.weight_decay()), "optimizer.weight_decay", optimizer.weight_decay(),
                 "0 or more");
  problems.Check(finite_not_negative(optimizer.clip_norm()), "optimizer.clip_norm", optimizer.clip_norm(),
                 "0 (never) or more");
  const ScheduleConfig& schedule = config.schedule();
  problems.Check(schedule.warmup_steps() >= 0, "schedule.warmup_steps", schedule.warmup_steps(), "0 or more");
  problems.Check(schedule.decay_steps() >= 1 && schedule.decay_steps() >= schedule.warmup_steps(),
                 "schedule.decay_steps", schedule.decay_steps(),
                 absl::StrCat("1 or more, and at least schedule.warmup_steps, ", schedule.warmup_steps()));
  problems.Check(schedule.min_ratio() >= 0 && schedule.min_ratio() <= 1, "schedule.min_ratio", schedule.min_ratio(),
                 "0 to 1");
}

void CheckData(const Dataset& data, Problems& problems) {
  problems.Required(!data.path().empty(), "data.path");
  problems.Required(data.kind() != Dataset::KIND_UNSPECIFIED, "data.kind (TOKENS_U16, TOKENS_I32 or BYTES)");
  // Bounds that keep batch_size * sequence_length far from overflow.
  constexpr int64_t kLargest = int64_t{1} << 24;
  problems.Check(data.batch_size() >= 1 && data.batch_size() <= kLargest, "data.batch_size", data.batch_size(),
                 absl::StrCat("1 to ", kLargest));
  problems.Check(data.sequence_length() >= 1 && data.sequence_length() <= kLargest, "data.sequence_length",
                 data.sequence_length(), absl::StrCat("1 to ", kLargest));
}

void CheckMesh(const TrainConfig& config, int world_size, Problems& problems) {
  const MeshConfig& mesh = config.mesh();
  problems.Check(MeshConfig::Zero_IsValid(mesh.zero()) && mesh.zero() != MeshConfig::ZERO_UNSPECIFIED, "mesh.zero",
                 static_cast<int>(mesh.zero()), "NONE, OPTIMIZER or WEIGHTS");
  problems.Check(IsDuration(mesh.timeout_seconds()), "mesh.timeout_seconds", mesh.timeout_seconds(),
                 "a positive number");
  const auto shape = MakeMeshShape(world_size, mesh.pipeline(), mesh.tensor());
  problems.Check(shape.ok(), "mesh", absl::StrCat("pipeline ", mesh.pipeline(), " and tensor ", mesh.tensor()),
                 absl::StrCat("numbers whose product divides the ", world_size, " ranks of this job"));
  problems.Check(mesh.micro_batches() >= 1, "mesh.micro_batches", mesh.micro_batches(), "1 or more");
  if (shape.ok() && mesh.micro_batches() >= 1) {
    const int64_t pieces = int64_t{shape->data} * mesh.micro_batches();
    problems.Check(config.data().batch_size() % pieces == 0, "data.batch_size", config.data().batch_size(),
                   absl::StrCat("a multiple of ", pieces, ": ", shape->data, " data ranks of ", mesh.micro_batches(),
                                " micro-batches"));
  }
}

void CheckDescription(const TrainConfig& config, Problems& problems) {
  const ModelFacts& said = config.describe();
  const int64_t trained = config.data().sequence_length();
  problems.Check(said.max_position_embeddings() == 0 || said.max_position_embeddings() >= trained,
                 "describe.max_position_embeddings", said.max_position_embeddings(),
                 absl::StrCat("at least data.sequence_length, ", trained));
  problems.Check(said.trained_positions() == 0, "describe.trained_positions", said.trained_positions(),
                 "nothing: the run says it");
  const int64_t vocabulary = config.model().vocab_size();
  const auto check_token = [&](const char* field, int64_t id) {
    problems.Check(id >= 0 && (vocabulary == 0 || id < vocabulary), absl::StrCat("describe.", field), id,
                   absl::StrCat("a token of the vocabulary of ", vocabulary));
  };
  if (said.has_bos_token_id()) {
    check_token("bos_token_id", said.bos_token_id());
  }
  for (const int64_t id : said.eos_token_id()) {
    check_token("eos_token_id", id);
  }
  if (said.has_pad_token_id()) {
    check_token("pad_token_id", said.pad_token_id());
  }
}

}  // namespace

absl::Status FillAndCheck(TrainConfig& config, int world_size) {
  FillDefaults(config, world_size);

  Problems problems;
  problems.Required(config.has_steps(), "steps");
  problems.Check(config.steps() >= 0, "steps", config.steps(), "0 or more");
  problems.Required(!config.output().empty(), "output");
  problems.Check(config.dtype() == "float32" || config.dtype() == "bfloat16", "dtype", config.dtype(),
                 "float32 (fp32) or bfloat16 (bf16)");
  problems.Check(config.device() == "cpu" || config.device() == "cuda", "device", config.device(), "cpu or cuda");
  problems.Check(config.log_interval() >= 1, "log_interval", config.log_interval(), "1 or more");
  problems.Check(config.threads() >= 0, "threads", config.threads(), "0 (all cores) or more");
  CheckData(config.data(), problems);
  CheckOptimizer(config, problems);
  CheckSchedule(config.checkpoint(), "checkpoint", problems);
  problems.Check(config.checkpoint().keep_best() >= 0, "checkpoint.keep_best", config.checkpoint().keep_best(),
                 "0 (none) or more");
  problems.Check(config.checkpoint().best_metric() == kLossMetric, "checkpoint.best_metric",
                 config.checkpoint().best_metric(), kLossMetric);
  problems.Check(config.checkpoint().when_busy() != CheckpointSchedule::WHEN_BUSY_UNSPECIFIED &&
                     CheckpointSchedule::WhenBusy_IsValid(config.checkpoint().when_busy()),
                 "checkpoint.when_busy", static_cast<int>(config.checkpoint().when_busy()), "WAIT or REFUSE");
  problems.Check(config.checkpoint().max_snapshot_bytes() >= 0, "checkpoint.max_snapshot_bytes",
                 config.checkpoint().max_snapshot_bytes(), "0 (no limit) or more");
  problems.Check(config.checkpoint().async() != CheckpointSchedule::ASYNC_UNSPECIFIED &&
                     CheckpointSchedule::Async_IsValid(config.checkpoint().async()),
                 "checkpoint.async", static_cast<int>(config.checkpoint().async()),
                 "NONE, COPY, LAZY or WRITE_PROTECT");
  problems.Check(IsDuration(config.checkpoint().timeout_seconds()), "checkpoint.timeout_seconds",
                 config.checkpoint().timeout_seconds(), "a positive number");
  problems.Check(config.resume().on_damage() != ResumePolicy::ON_DAMAGE_UNSPECIFIED &&
                     ResumePolicy::OnDamage_IsValid(config.resume().on_damage()),
                 "resume.on_damage", static_cast<int>(config.resume().on_damage()), "STOP or FALL_BACK");
  CheckMesh(config, world_size, problems);
  CheckDescription(config, problems);
  if (config.has_export_()) {
    CheckSchedule(config.export_(), "export", problems);
    problems.Required(!config.export_().format().empty(), "export.format (none: no exports)");
    const std::string& dtype = config.export_().dtype();
    problems.Check(dtype == "keep" || dtype == "float32" || dtype == "bfloat16" || dtype == "float16", "export.dtype",
                   dtype, absl::StrCat("keep, ", DTypeWords()));
  }
  if (config.has_pretrained()) {
    problems.Required(!config.pretrained().path().empty(), "pretrained.path");
    problems.Required(config.pretrained().load_config() != Pretrained::LOAD_CONFIG_UNSPECIFIED,
                      "pretrained.load_config (NONE, MODEL or FULL)");
    problems.Check(config.pretrained().model_weights() || !config.pretrained().optimizer_state(),
                   "pretrained.optimizer_state", "true", "model_weights as well");
  }
  problems.CheckRangesOf(config);
  return problems.status();
}

absl::Duration CheckpointTimeout(const TrainConfig& config) {
  TrainConfig filled = config;
  FillDefaults(filled, 1);
  const double seconds = filled.checkpoint().timeout_seconds();
  return absl::Seconds(IsDuration(seconds) ? seconds : kDefaultTimeoutSeconds);
}

void ClearConsents(TrainConfig& config) {
  config.clear_resume();
  config.clear_start_over();
  config.mutable_data()->clear_allow_changed();
}

std::vector<std::string> CompareConfigs(const TrainConfig& before, const TrainConfig& now) {
  TrainConfig a = before;
  TrainConfig b = now;
  if (a.has_checkpoint()) {
    // What the version that saved it had no field for was as it is by default.
    FillMesh(*a.mutable_mesh());
    FillCheckpoint(a.mesh(), 1, *a.mutable_checkpoint());
  }
  a.clear_model();
  b.clear_model();
  ClearConsents(a);
  ClearConsents(b);
  std::string report;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  differencer.Compare(a, b);
  std::vector<std::string> lines = absl::StrSplit(report, '\n', absl::SkipEmpty());
  for (std::string& line : lines) {
    line = absl::StrReplaceAll(line, {{"modified: ", ""}, {"added: ", "new "}, {"deleted: ", "no longer "}});
  }
  return lines;
}

}  // namespace waypoint::engine
