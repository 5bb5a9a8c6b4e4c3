#include "tools/inspect_command.h"

#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/format/asset_copy.h"
#include "checkpoint/format/file_checks.h"
#include "checkpoint/format/format_options.h"
#include "tools/command_line.h"
#include "tools/compare_carried.h"
#include "tools/compare_checkpoints.h"
#include "tools/compare_configs.h"
#include "tools/digest_tensors.h"
#include "tools/format_flags.h"
#include "tools/inspect_report.h"
#include "tools/inspected_checkpoint.h"
#include "tools/parse_flags.h"
#include "tools/report_json.h"
#include "tools/standard_output.h"

namespace waypoint {
namespace {

void Append(ConfigDifferences from, DiffReport& report) {
  const auto append = [](std::vector<std::string> lines, std::vector<std::string>& to) {
    to.insert(to.end(), std::make_move_iterator(lines.begin()), std::make_move_iterator(lines.end()));
  };
  append(std::move(from.real), report.config_differences);
  append(std::move(from.written_out), report.written_out);
}

TransferOptions TransferWith(ProgressPrinter& progress) {
  TransferOptions transfer;
  transfer.cancelled = Interrupted;
  transfer.progress = [&progress](const TransferProgress& done) { progress.Update(done.bytes_done, done.bytes_total); };
  return transfer;
}

absl::Status Diff(const InspectRequest& request, const InspectEnvironment& environment, InspectedCheckpoint& first,
                  const LoadOptions& load, bool* equal) {
  LoadOptions second_load = load;
  second_load.format_options.clear();
  second_load.strip_prefixes.clear();
  if (const auto info = environment.fs.Stat(request.diff); info.ok() && info->type == FileType::kDirectory) {
    WAYPOINT_ASSIGN_OR_RETURN(const FoundCheckpoint found, FindCheckpoint(environment.fs, request.diff, "auto"));
    second_load.format_options = SelectFormatOptions(*found.format, request.format_options, FormatUse::kLoad);
  }
  WAYPOINT_ASSIGN_OR_RETURN(InspectedCheckpoint second,
                            OpenInspected(environment.fs, request.diff, "auto", second_load));
  if (first.is_file != second.is_file) {
    return MakeError(
        ErrorKind::kRequest,
        absl::StrCat("\"", first.is_file ? request.path : request.diff,
                     "\" is one file, with names as they are "
                     "stored, \"",
                     first.is_file ? request.diff : request.path,
                     "\" a directory, which is compared in native names; give two directories or two files"));
  }
  DiffReport report;
  report.first = first.path;
  report.second = second.path;
  // One file says nothing of the model.
  if (!first.is_file) {
    Append(CompareModelConfigs(first.opened.metadata, second.opened.metadata), report);
  }
  // Between formats, what is carried has other forms, or none.
  if (first.external && second.external && first.format == second.format) {
    WAYPOINT_ASSIGN_OR_RETURN(ConfigDifferences config, CompareConfigFiles(first.format, first.opened, second.opened));
    Append(std::move(config), report);
    WAYPOINT_ASSIGN_OR_RETURN(report.file_differences,
                              CompareCarriedFiles(environment.fs, first.opened, second.opened));
  }
  ProgressPrinter progress("comparing", environment.progress, environment.err);
  CompareOptions compare;
  compare.transfer = TransferWith(progress);
  if (request.ignore_optimizer) {
    compare.selected = [](const TensorMeta& tensor) { return !IsOptimizerState(tensor); };
  }
  WAYPOINT_ASSIGN_OR_RETURN(report.comparison, CompareSources(*first.opened.tensors, *second.opened.tensors, compare));
  progress.Clear();
  *equal = report.equal();
  environment.out << (request.json ? absl::StrCat(ReportJsonText(DiffJson(report)), "\n")
                                   : DiffText(report, request.diff_limit));
  return CheckWritten(environment.out);
}

// Reads everything and compares it with whatever says what it should be.
absl::Status Verify(const InspectEnvironment& environment, OpenedCheckpoint& opened, InspectReport* report) {
  FileSystem& fs = environment.fs;
  {
    ProgressPrinter progress("checking", environment.progress, environment.err);
    WAYPOINT_RETURN_IF_ERROR(CheckListed(fs, opened.listed, TransferWith(progress)));
  }
  for (const Asset& asset : opened.assets) {
    WAYPOINT_ASSIGN_OR_RETURN(const ChunkDigests digests, CheckAsset(fs, asset));
    report->asset_digests.push_back(FileDigest(digests.digests));
  }
  ProgressPrinter progress("verifying", environment.progress, environment.err);
  WAYPOINT_ASSIGN_OR_RETURN(report->digests, DigestTensors(*opened.tensors, TransferWith(progress)));
  WAYPOINT_ASSIGN_OR_RETURN(report->file_digests, DescribeFiles(fs, opened.files));
  report->unchecked = FilesWithoutDigests(opened);
  report->verified = true;
  return absl::OkStatus();
}

}  // namespace

absl::Status Inspect(const InspectRequest& request, const InspectEnvironment& environment, bool* equal) {
  *equal = true;
  LoadOptions load;
  load.carry_unknown = request.carry_unknown;
  load.format_options = request.format_options;
  load.strict = request.verify;
  load.strip_prefixes = request.strip_prefixes;
  load.record_digests = request.verify && request.diff.empty();
  WAYPOINT_ASSIGN_OR_RETURN(InspectedCheckpoint checkpoint,
                            OpenInspected(environment.fs, request.path, request.format, load));
  if (!request.diff.empty()) {
    return Diff(request, environment, checkpoint, load, equal);
  }
  InspectReport report;
  report.checkpoint = &checkpoint;
  if (request.verify) {
    WAYPOINT_RETURN_IF_ERROR(Verify(environment, checkpoint.opened, &report));
  }
  if (request.json) {
    WriteInspectJson(report, environment.out);
  } else {
    WriteInspectText(report, environment.out);
  }
  return CheckWritten(environment.out);
}

ExitCode InspectMain(int argc, const char* const* argv, const InspectEnvironment& environment) {
  InspectRequest request;
  std::string diff_limit = "10";
  CLI::App app("Shows what a checkpoint holds: files, config, tensors, digests.", "inspect");
  app.add_option("PATH", request.path,
                 "checkpoint directory of any format, or one around some, of which the newest is taken; or one file: "
                 ".safetensors, .pth, .pt, .bin")
      ->required();
  app.add_flag("--verify", request.verify,
               "read everything back, files that travel along too; compare it with digests and with checksums that a "
               "list beside it has (checklist.chk), say what has none, show digests, and check what is optional");
  app.add_option("--diff", request.diff,
                 "compare with this checkpoint tensor by tensor, in native names, and of one external format also all "
                 "config keys and the files that travel along; exit code 4 when they differ; defaults that one side "
                 "writes out are shown and are no difference");
  app.add_option("--diff-limit", diff_limit, "differing tensors to spell out: a number (10), or all; JSON has all");
  app.add_flag("--ignore-optimizer", request.ignore_optimizer, "compare weights only");
  app.add_option("--from", request.format, "format of PATH; auto looks at the directory");
  app.add_flag("--carry-unknown", request.carry_unknown, "accept config keys that the format does not declare");
  app.add_flag("--json", request.json, "report on stdout as JSON");
  AddStripPrefixFlag(app, &request.strip_prefixes);
  AddFormatFlags(LinkedFormats(), FormatFlags::kLoad, app, &request.format_options);
  app.footer(std::string(ExitCodesHelp()));
  if (const auto end = ParseFlags(app, argc, argv, environment.out, environment.err); end.has_value()) {
    return *end;
  }
  request.path = ResolvePath(request.path);
  if (!request.diff.empty()) {
    request.diff = ResolvePath(request.diff);
  }
  if (diff_limit == "all") {
    request.diff_limit = std::numeric_limits<size_t>::max();
  } else if (!absl::SimpleAtoi(diff_limit, &request.diff_limit)) {
    return ReportError(MakeError(ErrorKind::kRequest,
                                 absl::StrCat("--diff-limit: \"", diff_limit, "\" is no number; write one, or all")),
                       request.json, environment.out, environment.err);
  }
  bool equal = true;
  const absl::Status status = Inspect(request, environment, &equal);
  if (!status.ok()) {
    return ReportError(status, request.json, environment.out, environment.err);
  }
  return equal ? kExitOk : kExitVerify;
}

}  // namespace waypoint
