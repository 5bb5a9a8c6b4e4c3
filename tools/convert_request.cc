#include "tools/convert_request.h"

#include <map>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/dtype_words.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "tools/command_line.h"
#include "tools/exit_codes.h"
#include "tools/parse_flags.h"

namespace waypoint {
namespace {

const std::map<std::string, VerifyMode> kVerifyModes = {
    {"none", VerifyMode::kNone}, {"digest", VerifyMode::kDigest}, {"logits", VerifyMode::kLogits}};

std::string Footer(const std::vector<FormatChoice>& formats) {
  std::string footer = "Formats:\n";
  for (const FormatChoice& format : formats) {
    absl::StrAppend(&footer, "  ", format.name, std::string(format.name.size() < 12 ? 12 - format.name.size() : 1, ' '),
                    format.description, "\n");
  }
  absl::StrAppend(
      &footer, "Without --to, an external checkpoint becomes native, and a native one goes back to the ",
      "format that it came from.\n\n",
      "With --ranks env several processes share the work, as RANK and WORLD_SIZE say, which torchrun, srun\n"
      "and scripts set, on one host or on many that see the same files: each is started with the same arguments, and\n"
      "--max-memory and --threads hold for each.  They meet in a directory beside DST, which is told from\n"
      "that of other jobs by the arguments, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_RUN_ID and SLURM_JOB_ID,\n"
      "as far as they are set.  Rank 0 reports; when one fails, all do, one says why, and DST stays as it was.\n\n",
      ExitCodesHelp());
  return footer;
}

absl::Status Named(absl::string_view flag, const absl::Status& status) {
  return MakeError(ErrorKind::kRequest, absl::StrCat(flag, ": ", status.message()));
}

}  // namespace

absl::StatusOr<absl::optional<ConvertRequest>> ParseConvertRequest(int argc, const char* const* argv,
                                                                   const std::vector<FormatChoice>& formats,
                                                                   std::string* help) {
  ConvertRequest request;
  std::string dtype = "keep";
  std::string verify = "digest";
  std::string optimizer = "keep";
  std::string max_shard_size = "5GB";
  std::string max_memory = "256MiB";
  std::string ranks = "one";
  std::string rank_timeout = "30m";

  CLI::App app("Converts a checkpoint from one format to another.  The output appears whole or not at all.", "convert");
  app.add_option("SRC", request.source,
                 "checkpoint directory to read, or a directory around some, of which the newest is taken: a training "
                 "run's output, its checkpoint folder, an export folder, a model in the cache of the Hub")
      ->required();
  app.add_option("DST", request.target, "directory to make")->required();
  app.add_option("--from", request.from, "format of SRC; auto looks at the directory");
  app.add_option("--to", request.to, "format of DST; auto: see below");
  app.add_option("--dtype", dtype,
                 absl::StrCat("of the weights: keep, ", DTypeWords(), "; optimizer state keeps its own"));
  app.add_option("--max-shard-size", max_shard_size, "split into files of at most this, with its unit (5GB, 500MiB)");
  app.add_option("--max-memory", max_memory, "growth of resident memory, in all; 64MiB at least (256MiB)");
  app.add_option("--threads", request.threads, "that read, convert and write; 0 chooses (4)");
  app.add_flag("--dry-run", request.dry_run, "check and plan everything, write nothing");
  app.add_flag("--print-plan", request.print_plan, "print each target tensor with its expression over source tensors");
  app.add_option(
         "--verify", verify,
         "digest (default) compares checksums that a list beside the source has (checklist.chk), and before the "
         "output is published reads it back and compares every tensor and file with the source; logits also runs both "
         "models in float32, which loads them whole")
      ->check(CLI::IsMember({"none", "digest", "logits"}));
  app.add_option("--optimizer", optimizer, "optimizer state, where both formats can hold it")
      ->check(CLI::IsMember({"keep", "drop"}));
  app.add_flag("--overwrite", request.overwrite,
               "replace DST, in one step at the end, if it is empty or holds a checkpoint and nothing else");
  app.add_flag(
      "--carry-unknown", request.carry_unknown,
      "carry config keys that the format of SRC does not declare, where the format of DST has a place for them");
  app.add_flag("--drop-unknown", request.drop_unknown,
               "leave such keys out where it has none, with a note, in place of "
               "refusing");
  AddStripPrefixFlag(app, &request.strip_prefixes);
  app.add_option("--ranks", ranks,
                 "one (default): this process works alone; env: it is one of several that share the work, as RANK and "
                 "WORLD_SIZE say")
      ->check(CLI::IsMember({"one", "env"}));
  app.add_option("--rank-timeout", rank_timeout, "for the slowest of several ranks (30m; 90s, 2h)");
  app.add_flag("--json", request.json, "report on stdout as JSON");
  AddFormatFlags(formats, FormatFlags::kLoadAndSave, app, &request.format_options);
  app.footer(Footer(formats));
  WAYPOINT_ASSIGN_OR_RETURN(const bool parsed, ParseFlags(app, argc, argv, /*libtorch=*/"", help));
  if (!parsed) {
    return absl::optional<ConvertRequest>();
  }

  request.source = ResolvePath(request.source);
  request.target = ResolvePath(request.target);
  if (dtype != "keep") {
    const absl::StatusOr<DType> parsed_dtype = ParseWeightsDType(dtype);
    if (!parsed_dtype.ok()) {
      return Named("--dtype", parsed_dtype.status());
    }
    request.dtype = *parsed_dtype;
  }
  request.verify = kVerifyModes.at(verify);
  request.shares_work = ranks == "env";
  request.keep_optimizer = optimizer == "keep";
  absl::StatusOr<int64_t> bytes = ParseBytes(max_shard_size);
  if (!bytes.ok()) {
    return Named("--max-shard-size", bytes.status());
  }
  request.max_shard_bytes = *bytes;
  request.wants_shard_size = app.count("--max-shard-size") > 0;
  bytes = ParseBytes(max_memory);
  if (!bytes.ok()) {
    return Named("--max-memory", bytes.status());
  }
  request.max_memory_bytes = *bytes;
  if (!absl::ParseDuration(rank_timeout, &request.rank_timeout) || request.rank_timeout <= absl::ZeroDuration()) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("--rank-timeout: \"", rank_timeout, "\" is no time; write 90s, 30m or 2h"));
  }
  WAYPOINT_RETURN_IF_ERROR(SplitMemory(request.max_memory_bytes, request.threads).status());
  return absl::optional<ConvertRequest>(std::move(request));
}

}  // namespace waypoint
