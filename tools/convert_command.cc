#include "tools/convert_command.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/base/visible_text.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/checkpointer/replaced_directory.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/format/file_checks.h"
#include "checkpoint/format/format_options.h"
#include "tools/command_line.h"
#include "tools/convert_ranks.h"
#include "tools/convert_report.h"
#include "tools/convert_target.h"
#include "tools/format_flags.h"
#include "tools/resident_memory.h"
#include "tools/speak_once.h"
#include "tools/standard_output.h"
#include "tools/verify_output.h"

namespace waypoint {
namespace {

// The plan without a directory: what would be written, and everything that can be wrong about it.
struct Plan {
  std::vector<std::string> lines;
  std::vector<std::string> notes;
  int64_t tensors = 0;
  int64_t bytes = 0;
  bool optimizer_state = false;
  FormatOptionValues read_back;
};

absl::StatusOr<Plan> PlanOutput(FileSystem& fs, CheckpointFormat& format, OpenedCheckpoint& source,
                                const SaveOptions& save) {
  Plan plan;
  WAYPOINT_ASSIGN_OR_RETURN(const auto writer, CreateWriter(format, fs, "", source.metadata, *source.tensors,
                                                            source.assets, save, &plan.notes));
  plan.lines = writer->PlanLines();
  plan.tensors = writer->source().manifest().size();
  plan.bytes = writer->source().manifest().total_bytes();
  for (const Asset& asset : source.assets) {
    plan.bytes += asset.size_bytes;
  }
  plan.optimizer_state = save.optimizer_state && format.supports_optimizer_state();
  plan.read_back = writer->ReadBackOptions();
  return plan;
}

class ConvertRun {
 public:
  ConvertRun(const ConvertRequest& request, const ConvertEnvironment& environment)
      : request_(request), environment_(environment) {}

  absl::Status Run() {
    const int64_t memory_at_start = ReadResidentMemory().current_bytes;
    SaveOptions save;
    save.coordinator = environment_.ranks;
    save.coordination_timeout = request_.rank_timeout;
    bool optimizer_state = false;
    WAYPOINT_RETURN_IF_ERROR(FindSource());
    absl::Status prepared = Prepare(&save, &optimizer_state);
    if (environment_.ranks != nullptr) {
      prepared = environment_.ranks->Agree("source and plan", prepared, request_.rank_timeout);
    }
    WAYPOINT_RETURN_IF_ERROR(prepared);
    if (!request_.dry_run) {
      WAYPOINT_RETURN_IF_ERROR(Write(save, optimizer_state));
      report_.peak_memory_growth_bytes = std::max<int64_t>(0, ReadResidentMemory().peak_bytes - memory_at_start);
    }
    if (rank() != 0) {
      return absl::OkStatus();
    }
    environment_.out << (request_.json ? ReportJson(report_) : ReportText(report_));
    const absl::Status told = CheckWritten(environment_.out);
    return request_.dry_run ? told
                            : Annotate(told, absl::StrCat(QuotedPath(request_.target), " is published and whole"));
  }

 private:
  int rank() const { return environment_.ranks == nullptr ? 0 : environment_.ranks->rank(); }
  int world_size() const { return environment_.ranks == nullptr ? 1 : environment_.ranks->world_size(); }
  bool shows_progress() const { return environment_.progress && rank() == 0; }

  // The same on all ranks: a run that goes on publishes new checkpoints at any time.
  absl::Status FindSource() {
    auto found = FindCheckpoint(environment_.fs, request_.source, request_.from);
    if (environment_.ranks != nullptr) {
      const absl::StatusOr<std::string> path = found.ok() ? found->path : absl::StatusOr<std::string>(found.status());
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                                environment_.ranks->AllGatherIfOk("source", path, request_.rank_timeout));
      found->path = paths[0];
    }
    WAYPOINT_RETURN_IF_ERROR(found.status());
    source_path_ = std::move(found->path);
    report_.notes = std::move(found->notes);
    return absl::OkStatus();
  }

  // Does the target have a place for what it was converted from, and the source no identity of its own?
  bool RecordsDigests(const CheckpointFormat& from) const {
    if (request_.dry_run || !from.external()) {
      return false;
    }
    if (request_.to.empty() || request_.to == "auto") {
      return true;
    }
    const CheckpointFormat* const to = Registry<CheckpointFormat>::Global().Find(request_.to);
    return to != nullptr && !to->external();
  }

  // Everything that can be wrong before a byte is written.
  absl::Status Prepare(SaveOptions* save, bool* optimizer_state) {
    FileSystem& fs = environment_.fs;
    WAYPOINT_ASSIGN_OR_RETURN(split_, SplitMemory(request_.max_memory_bytes, request_.threads));
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * from, FindFormat(fs, source_path_, request_.from));
    load_.carry_unknown = request_.carry_unknown;
    load_.joined_dtype = request_.dtype;
    load_.window_bytes = split_.block_bytes;
    load_.max_over_read = std::numeric_limits<double>::infinity();
    load_.format_options = SelectFormatOptions(*from, request_.format_options, FormatUse::kLoad);
    load_.strip_prefixes = request_.strip_prefixes;
    load_.record_digests = RecordsDigests(*from);
    WAYPOINT_ASSIGN_OR_RETURN(source_, from->Open(fs, source_path_, load_));
    WAYPOINT_ASSIGN_OR_RETURN(to_, FindTargetFormat(*from, source_.metadata, request_.to));
    WAYPOINT_RETURN_IF_ERROR(LoadFormatOptions(*from, to_, request_.format_options).status());
    if (request_.wants_shard_size && !to_->split_by_bytes()) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("--max-shard-size is no option here: how many files a \"", to_->name(),
                                    "\" checkpoint has is not a matter of their size; leave it out"));
    }
    WAYPOINT_RETURN_IF_ERROR(CheckTargetPath(fs, source_path_, request_.target, request_.overwrite));
    WAYPOINT_RETURN_IF_ERROR(ReplacedDirectory::Look(fs, request_.target, source_.assets).status());

    save->weights_dtype = request_.dtype;
    save->max_shard_bytes = request_.max_shard_bytes;
    save->optimizer_state = request_.keep_optimizer;
    save->drop_unknown = request_.drop_unknown;
    save->block_bytes = split_.block_bytes;
    save->format_options = SelectFormatOptions(*to_, request_.format_options, FormatUse::kSave);
    SaveOptions alone = *save;
    alone.coordinator = nullptr;
    WAYPOINT_ASSIGN_OR_RETURN(Plan plan, PlanOutput(fs, *to_, source_, alone));
    *optimizer_state = plan.optimizer_state;
    read_back_ = std::move(plan.read_back);
    FillReport(*from, plan);
    if (rank() != 0) {
      return absl::OkStatus();
    }
    if (request_.print_plan && !request_.json) {
      for (const std::string& line : plan.lines) {
        environment_.out << VisibleText(line) << "\n";
      }
      WAYPOINT_RETURN_IF_ERROR(CheckWritten(environment_.out));
    }
    return CheckSpace(fs, request_.target, plan.bytes);
  }

  void FillReport(const CheckpointFormat& from, Plan& plan) {
    report_.source = source_path_;
    report_.target = request_.target;
    report_.from = from.name();
    report_.to = to_->name();
    report_.tensors = plan.tensors;
    report_.bytes = plan.bytes;
    report_.dry_run = request_.dry_run;
    report_.verify = request_.dry_run ? VerifyMode::kNone : request_.verify;
    report_.notes.insert(report_.notes.end(), source_.notes.begin(), source_.notes.end());
    report_.notes.insert(report_.notes.end(), plan.notes.begin(), plan.notes.end());
    report_.has_plan = request_.print_plan;
    report_.plan = plan.lines;
  }

  TransferOptions TransferWith(ProgressPrinter& progress) const {
    TransferOptions transfer;
    transfer.max_bytes_in_flight = split_.bytes_in_flight;
    transfer.threads = split_.threads;
    transfer.cancelled = environment_.interrupted;
    transfer.progress = [&progress](const TransferProgress& done) {
      progress.Update(done.bytes_done, done.bytes_total);
    };
    return transfer;
  }

  // Before the work: of files that changed places nothing else tells.
  absl::Status CheckSourceFiles() {
    if (request_.verify == VerifyMode::kNone || source_.listed.empty()) {
      return absl::OkStatus();
    }
    const absl::Time start = absl::Now();
    ProgressPrinter progress("checking", shows_progress(), environment_.err);
    absl::Status status = CheckListed(environment_.fs, source_.listed, TransferWith(progress), rank(), world_size());
    if (environment_.ranks != nullptr) {
      status = environment_.ranks->Agree("files of the source", status, request_.rank_timeout);
    }
    WAYPOINT_RETURN_IF_ERROR(status);
    report_.notes.push_back(absl::StrCat("compared the MD5 of ", source_.listed.size(), " files with ",
                                         QuotedPath(BaseName(source_.listed[0].list_path))));
    report_.verify_duration += absl::Now() - start;
    return absl::OkStatus();
  }

  // On every rank, when all of them have read what they need.
  absl::StatusOr<Conversion> Converted() {
    Conversion conversion;
    conversion.set_format(report_.from);
    conversion.set_sha256(source_.sha256);
    for (const CheckpointFile& file : source_.files) {
      if (environment_.ranks != nullptr && file.recorder != nullptr) {
        WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> seen,
                                  environment_.ranks->AllGatherIfOk(absl::StrCat("digests of ", file.name),
                                                                    file.recorder->Seen(), request_.rank_timeout));
        for (const std::string& by_rank : seen) {
          WAYPOINT_RETURN_IF_ERROR(Annotate(file.recorder->Merge(by_rank), QuotedPath(file.path)));
        }
      }
    }
    if (rank() == 0 && conversion.sha256().empty()) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<ConvertedFile> files, DescribeFiles(environment_.fs, source_.files));
      *conversion.mutable_files() = {files.begin(), files.end()};
    }
    return conversion;
  }

  absl::Status Write(const SaveOptions& save, bool optimizer_state) {
    WAYPOINT_RETURN_IF_ERROR(CheckSourceFiles());
    ProgressPrinter progress("converting", shows_progress(), environment_.err);
    WriteOptions write;
    write.format = to_->name();
    write.overwrite = request_.overwrite;
    write.save = save;
    write.transfer = TransferWith(progress);
    std::vector<std::string> notes;
    write.notes = &notes;
    const absl::Time start = absl::Now();
    const absl::Duration checked = report_.verify_duration;
    write.converted = [this] { return Converted(); };
    write.before_publish = [&](const std::string& staged_path) {
      progress.Clear();
      return Verify(staged_path, optimizer_state);
    };
    WAYPOINT_ASSIGN_OR_RETURN(
        const TransferStats stats,
        WriteCheckpoint(environment_.fs, request_.target, write, source_.metadata, *source_.tensors, source_.assets));
    // Those of the plan are in the report.
    for (const std::string& note : notes) {
      if (std::find(report_.notes.begin(), report_.notes.end(), note) == report_.notes.end()) {
        report_.notes.push_back(note);
      }
    }
    report_.duration = absl::Now() - start - (report_.verify_duration - checked);
    report_.peak_bytes_in_flight = stats.peak_bytes_in_flight;
    return absl::OkStatus();
  }

  absl::Status Verify(const std::string& staged_path, bool optimizer_state) {
    const absl::Time start = absl::Now();
    ProgressPrinter progress("verifying", shows_progress(), environment_.err);
    VerifyOptions options;
    options.weights_dtype = request_.dtype;
    options.optimizer_state = optimizer_state;
    options.load = load_;
    options.load.strip_prefixes.clear();
    options.load.record_digests = false;
    options.source_format_options = load_.format_options;
    options.source_strip_prefixes = load_.strip_prefixes;
    // What is in the output's config was in the source's, which was accepted: now, or when it became native.
    options.load.carry_unknown = true;
    // What the target was written with and takes when it is read too, and what its writer knows.
    options.load.format_options = SelectFormatOptions(
        *to_, SelectFormatOptions(*to_, request_.format_options, FormatUse::kSave), FormatUse::kLoad);
    for (const auto& [name, value] : read_back_) {
      options.load.format_options[name] = value;
    }
    options.transfer = TransferWith(progress);
    options.block_bytes = split_.block_bytes;
    options.share = rank();
    options.shares = world_size();
    absl::Status status;
    if (request_.verify == VerifyMode::kDigest) {
      status = VerifyDigests(environment_.fs, *to_, staged_path, source_, options);
    } else if (request_.verify == VerifyMode::kLogits) {
      options.logits_program = environment_.logits_program;
      status = VerifyLogits(environment_.fs, *to_, staged_path, source_path_, report_.from, source_, options);
    }
    report_.verify_duration += absl::Now() - start;
    if (status.ok() && environment_.interrupted()) {
      return absl::CancelledError("interrupted before the output was published");
    }
    return status;
  }

  const ConvertRequest& request_;
  const ConvertEnvironment& environment_;
  std::string source_path_;
  MemorySplit split_;
  LoadOptions load_;
  OpenedCheckpoint source_;
  CheckpointFormat* to_ = nullptr;
  FormatOptionValues read_back_;
  ConvertReport report_;
};

}  // namespace

absl::Status Convert(const ConvertRequest& request, const ConvertEnvironment& environment) {
  return ConvertRun(request, environment).Run();
}

ExitCode ConvertMain(int argc, const char* const* argv, const ConvertEnvironment& environment) {
  std::string help;
  const auto request = ParseConvertRequest(argc, argv, LinkedFormats(), &help);
  if (!request.ok()) {
    const bool json = std::find(argv, argv + argc, absl::string_view("--json")) != argv + argc;
    return ReportError(request.status(), json, environment.out, environment.err);
  }
  if (!request->has_value()) {
    environment.out << help;
    return kExitOk;
  }
  if (IsIdleInDryRun(**request)) {
    return kExitOk;
  }
  if (const std::string note = UnheededRanks(**request); !note.empty()) {
    environment.err << "note: " << VisibleText(note) << std::endl;
  }
  WaitHooks hooks;
  hooks.cancelled = environment.interrupted;
  hooks.waiting = [&environment](const std::string& text) {
    environment.err << (environment.progress ? "\r\033[K" : "") << VisibleText(text) << std::endl;
  };
  ConvertEnvironment shared = environment;
  absl::Status status;
  Speech speech;
  {
    const auto ranks = JoinRanks(environment.fs, **request, hooks);
    shared.ranks = ranks.ok() ? ranks->get() : nullptr;
    status = ranks.ok() ? Convert(**request, shared) : ranks.status();
    if (shared.ranks != nullptr) {
      speech = WhoSpeaks(*shared.ranks, status);
    }
  }
  if (status.ok() || !speech.error) {
    return ExitCodeFor(status);
  }
  return ReportError(status, (*request)->json && speech.json, environment.out, environment.err);
}

}  // namespace waypoint
