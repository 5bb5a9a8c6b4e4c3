// Trains a decoder from a config file; engine/README.md describes what a run does.

#include <torch/csrc/api/include/torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/base/visible_text.h"
#include "checkpoint/coordination/c10d/c10d_coordinator.h"
#include "checkpoint/coordination/c10d/c10d_exchange.h"
#include "checkpoint/coordination/coordinator.h"
#include "engine/run_saver.h"
#include "engine/shutdown_signal.h"
#include "engine/trainer.h"
#include "nlohmann/json.hpp"
#include "tools/command_line.h"
#include "tools/exit_codes.h"
#include "tools/memory_at_start.h"
#include "tools/parse_flags.h"
#include "tools/report_json.h"
#include "tools/speak_once.h"
#include "tools/standard_output.h"

namespace waypoint {
namespace {

constexpr char kHelp[] = R"(Trains a decoder on one file, saving, exporting and resuming on the way.

  train CONFIG.textproto [key.sub=value ...]

CONFIG is a waypoint.engine.TrainConfig in text format (engine/config.proto lists every field and default).  Continuing
a Hugging Face Llama on a text file, byte by byte, with an export every 100 steps:

  steps: 1000
  output: "runs/first"
  pretrained { path: "Llama-3.2-1B" }
  data { path: "book.txt"  kind: BYTES  batch_size: 4  sequence_length: 256 }
  optimizer { lr: 1e-4 }
  schedule { warmup_steps: 50 }
  dtype: "bfloat16"
  checkpoint { interval: 100  keep: 3 }
  export { format: "llama"  interval: 100 }

Values on the command line win over the file, and the file over what a pretrained checkpoint says:

  train run.textproto optimizer.lr=3e-5 output=runs/second data.kind=TOKENS_U16

The run writes <output>/checkpoint, <output>/export/<format> and <output>/metrics.jsonl.  Started again, it continues
from its newest checkpoint.  Ctrl-C or SIGTERM saves after the running step and stops; a second one, a second later or
more, stops at once.  A newest checkpoint that is damaged is renamed and the one before taken (resume.on_damage=STOP:
an error); other data are refused (data.allow_changed=true: a note), and so is an output that holds a run's history but
no checkpoint of it (start_over=true: the history is kept under another name).  export.format=none: no exports.

Many ranks: started by //tools:launch, torchrun or srun (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which rank
this is), they divide the work by `mesh { tensor: 2 pipeline: 2 zero: OPTIMIZER }`; what is left are data ranks.)";

constexpr char kFooter[] = R"(
Exit codes: 0 done, 1 a gradient that is not finite (or a bug), 2 wrong request, 3 bad input, 4 failed verification,
5 I/O or no memory, 130 stopped by a signal (and saved).)";

// A save of which others do more than this rank is no news.
constexpr absl::Duration kPatience = absl::Seconds(10);

struct TrainRequest {
  std::string config_path;
  std::vector<std::string> overrides;
  bool dry_run = false;
  bool json = false;
};

// Of those that share its cores.  Launchers set it; without it all may be here or none.
int RanksOnThisHost(const C10dOptions& rendezvous) {
  const char* const text = std::getenv("LOCAL_WORLD_SIZE");
  int ranks = 1;
  return text != nullptr && absl::SimpleAtoi(text, &ranks) ? std::clamp(ranks, 1, rendezvous.world_size) : 1;
}

bool IsFirstRank() {
  const auto options = C10dOptionsFromEnvironment();
  return !options.ok() || options->rank == 0;
}

nlohmann::ordered_json Summary(const engine::TrainReport& report) {
  nlohmann::ordered_json json;
  json["start"] = std::string(engine::StartKindName(report.start));
  json["start_path"] = report.start_path;
  json["first_step"] = report.first_step;
  json["last_step"] = report.last_step;
  json["last_loss"] = report.last_loss;
  json["stopped"] = report.stopped;
  json["checkpoints"] = report.checkpoints;
  json["exports"] = report.exports;
  return json;
}

absl::Status DryRun(const engine::ConfigLayers& layers, const TrainRequest& request,
                    const engine::TrainerOptions& options) {
  const engine::JobRanks ranks = {options.coordinator, options.ranks_on_this_host};
  WAYPOINT_ASSIGN_OR_RETURN(engine::Start start, engine::ResolveStart(PosixFileSystem(), layers, ranks));
  LocalCoordinator alone;
  Coordinator& all = options.coordinator == nullptr ? alone : *options.coordinator;
  const absl::Duration timeout = engine::CheckpointTimeout(start.config);
  const auto data = engine::TokenFile::Open(start.config.data(), start.config.model().vocab_size());
  WAYPOINT_RETURN_IF_ERROR(all.Agree("data", data.status(), timeout));
  WAYPOINT_ASSIGN_OR_RETURN(start.data, engine::ExamineData(**data, all, timeout, options.on_data_read));
  WAYPOINT_RETURN_IF_ERROR(engine::CheckData(start.data, start));
  if (options.rendezvous.rank != 0) {
    return absl::OkStatus();
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> export_notes,
                            engine::RunSaver(PosixFileSystem(), start, alone, nullptr).CheckExport());
  for (const engine::DamagedCheckpoint& damaged : start.damaged) {
    std::cerr << "warning: " << VisibleText(engine::DamageText(damaged)) << "; a run would rename it" << std::endl;
  }
  for (const std::vector<std::string>& notes : {start.notes, export_notes}) {
    for (const std::string& note : notes) {
      std::cerr << "note: " << VisibleText(note) << std::endl;
    }
  }
  std::cerr << "would start from " << engine::StartKindName(start.kind)
            << (start.path.empty() ? "" : absl::StrCat(" ", QuotedPath(start.path)))
            << "; the config is complete:" << std::endl;
  const std::string config = engine::PrintConfig(start.config);
  if (request.json) {
    nlohmann::ordered_json json;
    json["start"] = std::string(engine::StartKindName(start.kind));
    json["start_path"] = start.path;
    json["config"] = config;
    std::cout << ReportJsonText(json) << std::endl;
  } else {
    std::cout << config;
  }
  return absl::OkStatus();
}

absl::StatusOr<engine::ConfigLayers> ReadConfig(const TrainRequest& request) {
  engine::ConfigLayers layers;
  WAYPOINT_RETURN_IF_ERROR(layers.AddFile(PosixFileSystem(), request.config_path));
  for (const std::string& assignment : request.overrides) {
    WAYPOINT_RETURN_IF_ERROR(layers.AddOverride(assignment));
  }
  return layers;
}

// As one of the ranks that `coordinator` holds together; null: alone.  While `may_give_up` waits for other ranks end
// with the first signal.
absl::Status TrainAsRank(const TrainRequest& request, const engine::ConfigLayers& layers,
                         engine::TrainerOptions& options, C10dCoordinator* coordinator,
                         absl::optional<engine::ShutdownSignal>& shutdown, std::atomic<bool>& may_give_up) {
  options.coordinator = coordinator;
  const bool speaks = options.rendezvous.rank == 0;
  ProgressPrinter progress("reading the data", speaks && StderrIsTerminal(), std::cerr);
  options.on_data_read = [&progress, &shutdown](int64_t done, int64_t total) -> absl::Status {
    progress.Update(done, total);
    const bool stop = shutdown.has_value() && shutdown->received() != 0;
    if (done == total || stop) {
      progress.Clear();
    }
    return stop ? absl::CancelledError("stopped by a signal") : absl::OkStatus();
  };
  if (request.dry_run) {
    return DryRun(layers, request, options);
  }
  std::unique_ptr<C10dExchange> exchange;
  if (coordinator != nullptr) {
    WAYPOINT_ASSIGN_OR_RETURN(exchange, C10dExchange::Create(*coordinator, options.rendezvous.connect_timeout));
    options.exchange = exchange.get();
  }
  if (!shutdown.has_value()) {
    shutdown.emplace();
  }
  options.stop = [&shutdown] { return shutdown->received() != 0; };
  const auto created = engine::Trainer::Create(layers, options);
  if (shutdown->received() != 0 && (absl::IsCancelled(created.status()) || absl::IsAborted(created.status()))) {
    // Also where another rank was told first.
    return absl::CancelledError(
        absl::StrCat("stopped by signal ", shutdown->received(), " before the first step; there is nothing to save"));
  }
  WAYPOINT_RETURN_IF_ERROR(created.status());
  engine::Trainer* const trainer = created->get();
  // From here on there is something to save, and a signal waits for it.
  may_give_up = false;
  WAYPOINT_ASSIGN_OR_RETURN(const engine::TrainReport report, trainer->Run());
  if (request.json && speaks) {
    std::cout << ReportJsonText(Summary(report)) << std::endl;
  }
  if (report.stopped) {
    const std::string cause =
        shutdown->received() == 0 ? "by another rank" : absl::StrCat("by signal ", shutdown->received());
    return absl::CancelledError(absl::StrCat("stopped ", cause, " after step ", report.last_step, ", saved as \"",
                                             report.checkpoints.back(), "\"; the same command continues"));
  }
  if (speaks) {
    std::cerr << "finished at step " << report.last_step << std::endl;
  }
  return absl::OkStatus();
}

// `speech`: what this rank is to print of an error.
absl::Status Train(const TrainRequest& request, Speech* speech) {
  const absl::StatusOr<engine::ConfigLayers> layers = ReadConfig(request);
  engine::TrainerOptions options;
  WAYPOINT_ASSIGN_OR_RETURN(options.rendezvous, C10dOptionsFromEnvironment());
  options.ranks_on_this_host = RanksOnThisHost(options.rendezvous);
  speech->json = options.rendezvous.rank == 0;
  if (options.rendezvous.world_size == 1) {
    WAYPOINT_RETURN_IF_ERROR(layers.status());
    absl::optional<engine::ShutdownSignal> shutdown;
    std::atomic<bool> may_give_up{false};
    return TrainAsRank(request, *layers, options, nullptr, shutdown, may_give_up);
  }
  // Processes take a while to come up.
  options.rendezvous.connect_timeout =
      std::max(layers.ok() ? engine::CheckpointTimeout(layers->Merged({})) : absl::ZeroDuration(), absl::Seconds(30));
  std::atomic<bool> may_give_up{true};
  // Outlives the coordinator, which waits for other ranks when it goes: an error is yet to be reported then.
  absl::optional<engine::ShutdownSignal> shutdown;
  options.rendezvous.hooks.cancelled = [&] { return may_give_up && shutdown.has_value() && shutdown->received() != 0; };
  options.rendezvous.hooks.waiting = [](const std::string& text) { std::cerr << VisibleText(text) << std::endl; };
  options.rendezvous.hooks.patience = kPatience;
  WAYPOINT_ASSIGN_OR_RETURN(const auto coordinator, C10dCoordinator::Create(options.rendezvous));
  // Before, a signal ends the process at once.
  shutdown.emplace();
  // What one rank cannot read is said before anybody waits for its connections; who does not come is named here.
  absl::Status status = coordinator->Agree("start of the ranks", layers.status(), options.rendezvous.connect_timeout);
  if (status.ok()) {
    status = TrainAsRank(request, *layers, options, coordinator.get(), shutdown, may_give_up);
  }
  *speech = WhoSpeaks(*coordinator, status);
  return status;
}

int Main(int argc, char** argv) {
  TrainRequest request;
  CLI::App app(kHelp, "train");
  app.footer(kFooter);
  app.add_option("CONFIG", request.config_path, "config file in text format")->required();
  app.add_option("OVERRIDES", request.overrides, "key.sub=value, applied in order");
  app.add_flag("--dry-run", request.dry_run, "check config, checkpoint and data, print the merged config, and stop");
  app.add_flag("--json", request.json, "print a summary as JSON to stdout");
  if (const auto end = ParseFlags(app, argc, argv, std::cout, std::cerr, TORCH_VERSION); end.has_value()) {
    return *end;
  }
  // `bazel run` starts in its own tree; paths in the config are meant from where the user is.
  const char* const directory = std::getenv("BUILD_WORKING_DIRECTORY");
  if (directory != nullptr && chdir(directory) != 0) {
    return ReportError(ErrnoError(errno, absl::StrCat("chdir to \"", directory, "\"")), request.json, std::cout,
                       std::cerr);
  }
  Speech speech;
  const absl::Status status = Train(request, &speech);
  if (absl::IsCancelled(status)) {
    // The summary is printed already, and once is enough.
    if (IsFirstRank()) {
      std::cerr << VisibleText(status.message()) << std::endl;
    }
    return kExitInterrupted;
  }
  if (status.ok() || !speech.error) {
    return ExitCodeFor(status);
  }
  return ReportError(status, request.json && speech.json, std::cout, std::cerr);
}

}  // namespace
}  // namespace waypoint

const size_t waypoint::kBytesToStart = size_t{40} << 20;

int main(int argc, char** argv) {
  return waypoint::RunTool([&] { return waypoint::Main(argc, argv); });
}
