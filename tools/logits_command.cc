#include "tools/logits_command.h"

#include <torch/csrc/api/include/torch/version.h>

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "ATen/ATen.h"
#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/dtype_words.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/base/visible_text.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/container/safetensors/header.h"
#include "nlohmann/json.hpp"
#include "tools/command_line.h"
#include "tools/format_flags.h"
#include "tools/parse_flags.h"
#include "tools/report_json.h"
#include "tools/run_decoder.h"
#include "tools/standard_output.h"

namespace waypoint {
namespace {

bool LooksLikeIds(const std::string& tokens) {
  return !tokens.empty() && tokens.find_first_not_of("0123456789, ") == std::string::npos;
}

absl::StatusOr<at::Tensor> ParseIds(const std::string& tokens) {
  std::vector<int64_t> ids;
  for (const absl::string_view text : absl::StrSplit(tokens, ',')) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(text, &id)) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("--tokens: \"", text, "\" is no token id"));
    }
    ids.push_back(id);
  }
  return at::tensor(ids, at::kLong).unsqueeze(0);
}

}  // namespace

absl::StatusOr<at::Tensor> ReadTokens(FileSystem& fs, const std::string& tokens) {
  if (LooksLikeIds(tokens)) {
    return ParseIds(tokens);
  }
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, tokens));
  if (!exists) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("--tokens: \"", tokens, "\" is neither ids separated by commas nor a file"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(tokens, {}));
  WAYPOINT_ASSIGN_OR_RETURN(const SafetensorsHeader header, ReadSafetensorsHeader(*file, {}));
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.name != "input_ids") {
      continue;
    }
    if (entry.dtype != DType::kI64) {
      return MakeError(ErrorKind::kDType, absl::StrCat("\"", tokens, "\": tensor \"input_ids\" is ",
                                                       DTypeName(entry.dtype), ", wanted I64"));
    }
    if (entry.shape.size() != 2) {
      return MakeError(ErrorKind::kShape, absl::StrCat("\"", tokens, "\": tensor \"input_ids\" has shape ",
                                                       ShapeString(entry.shape), ", wanted [batch, length]"));
    }
    at::Tensor ids = at::empty({entry.shape[0], entry.shape[1]}, at::kLong);
    WAYPOINT_RETURN_IF_ERROR(
        file->Read(entry.begin, absl::MakeSpan(static_cast<char*>(ids.data_ptr()), entry.end - entry.begin)));
    return ids;
  }
  return MakeError(ErrorKind::kMissing, absl::StrCat("\"", tokens, "\": no tensor \"input_ids\""));
}

absl::Status WriteLogits(const OutputFile& output, const at::Tensor& logits) {
  std::vector<SafetensorsEntry> entries(1);
  entries[0].name = "logits";
  entries[0].dtype = DType::kF32;
  entries[0].shape.assign(logits.sizes().begin(), logits.sizes().end());
  const std::string header = BuildSafetensorsHeader(&entries, {{"format", "pt"}});
  return output.Write({header, absl::string_view(static_cast<const char*>(logits.data_ptr()), logits.nbytes())});
}

absl::Status Logits(const LogitsRequest& request, const LogitsEnvironment& environment) {
  FileSystem& fs = environment.fs;
  WAYPOINT_ASSIGN_OR_RETURN(const OutputFile output, OutputFile::Check("--output", request.output, request.overwrite));
  WAYPOINT_ASSIGN_OR_RETURN(const FoundCheckpoint found, FindCheckpoint(fs, request.directory, request.format));
  if (output.replaces()) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string real_output, fs.RealPath(request.output));
    WAYPOINT_ASSIGN_OR_RETURN(const std::string real_directory, fs.RealPath(found.path));
    if (DirName(real_output) == real_directory) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("--output: ", QuotedPath(request.output),
                                                         " is a file of the checkpoint; choose another place"));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor tokens, ReadTokens(fs, request.tokens));
  CheckpointFormat* const format = found.format;
  LoadOptions load;
  load.carry_unknown = request.carry_unknown;
  load.max_over_read = std::numeric_limits<double>::infinity();
  WAYPOINT_ASSIGN_OR_RETURN(load.format_options, LoadFormatOptions(*format, nullptr, request.format_options));
  load.strip_prefixes = request.strip_prefixes;
  WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint opened, format->Open(fs, found.path, load));
  TransferOptions transfer;
  transfer.cancelled = Interrupted;
  WAYPOINT_ASSIGN_OR_RETURN(const auto model, LoadFloat32Decoder(opened, transfer, request.round_to));
  WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor logits, ComputeLogits(*model, tokens));
  WAYPOINT_RETURN_IF_ERROR(WriteLogits(output, logits));

  const std::vector<int64_t> shape(logits.sizes().begin(), logits.sizes().end());
  // What the model would say next, for the eye.
  std::vector<int64_t> next;
  if (logits.numel() > 0) {
    const at::Tensor best = logits.select(1, logits.size(1) - 1).argmax(-1).contiguous();
    next.assign(best.data_ptr<int64_t>(), best.data_ptr<int64_t>() + best.numel());
  }
  std::ostream& out = output.is_standard_output() ? environment.err : environment.out;
  if (request.json) {
    nlohmann::ordered_json report;
    report["directory"] = found.path;
    report["format"] = format->name();
    report["output"] = request.output;
    report["shape"] = shape;
    report["next_tokens"] = next;
    report["notes"] = found.notes;
    out << ReportJsonText(report) << std::endl;
  } else {
    out << "logits " << ShapeString(shape) << " of " << QuotedPath(found.path) << " (" << format->name() << ") are in "
        << QuotedPath(request.output) << "\n";
    if (logits.numel() > 0) {
      out << absl::StrFormat("  from %g to %g; likeliest next token of each row: %s\n", logits.min().item<double>(),
                             logits.max().item<double>(), absl::StrJoin(next, ", "));
    }
    for (const std::string& note : found.notes) {
      out << "  note: " << VisibleText(note) << "\n";
    }
  }
  return CheckWritten(out);
}

ExitCode LogitsMain(int argc, const char* const* argv, const LogitsEnvironment& environment) {
  LogitsRequest request;
  std::string round_to;
  CLI::App app("Computes float32 logits of a checkpoint.", "logits");
  app.add_option("DIR", request.directory,
                 "checkpoint directory of any format, or one around some, of which the newest is taken")
      ->required();
  app.add_option("--tokens", request.tokens,
                 "ids separated by commas, or a safetensors file with input_ids, int64 [batch, length]")
      ->required();
  app.add_option(
         "--output", request.output,
         "safetensors file to write: logits, float32 [batch, length, vocabulary]; a device or a pipe is written "
         "into, and where that is standard output the report goes to stderr")
      ->required();
  app.add_flag("--overwrite", request.overwrite, "replace FILE if it is there");
  app.add_option("--from", request.format, "format of DIR; auto looks at the directory");
  app.add_option("--round-to", round_to,
                 absl::StrCat("round the weights to this type before they are used in float32: ", DTypeWords()));
  app.add_flag("--carry-unknown", request.carry_unknown, "accept config keys that the format does not declare");
  app.add_flag("--json", request.json, "report on stdout as JSON");
  AddStripPrefixFlag(app, &request.strip_prefixes);
  AddFormatFlags(LinkedFormats(), FormatFlags::kLoad, app, &request.format_options);
  app.footer(std::string(ExitCodesHelp()));
  if (const auto end = ParseFlags(app, argc, argv, environment.out, environment.err, TORCH_VERSION); end.has_value()) {
    return *end;
  }
  if (!round_to.empty()) {
    const absl::StatusOr<DType> dtype = ParseWeightsDType(round_to);
    if (!dtype.ok()) {
      return ReportError(Annotate(dtype.status(), "--round-to"), request.json, environment.out, environment.err);
    }
    request.round_to = *dtype;
  }
  request.directory = ResolvePath(request.directory);
  request.output = ResolvePath(request.output);
  if (!LooksLikeIds(request.tokens)) {
    request.tokens = ResolvePath(request.tokens);
  }
  const absl::Status status = Logits(request, environment);
  return status.ok() ? kExitOk : ReportError(status, request.json, environment.out, environment.err);
}

}  // namespace waypoint
