#include "tools/verify_output.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/asset_copy.h"
#include "google/protobuf/util/message_differencer.h"
#include "models/decoder/config.pb.h"
#include "tools/compare_checkpoints.h"
#include "tools/run_logits.h"

namespace waypoint {
namespace {

constexpr size_t kSpelledOut = 10;
constexpr double kLogitsTolerance = 1e-4;

absl::Status CheckDtypes(const Manifest& written, DType weights_dtype) {
  for (const TensorMeta& tensor : written.tensors()) {
    if (!IsOptimizerState(tensor) && IsCastable(tensor.dtype) && tensor.dtype != weights_dtype) {
      return MakeError(ErrorKind::kVerify,
                       absl::StrCat("tensor \"", tensor.name, "\" was written as ", DTypeName(tensor.dtype),
                                    ", wanted ", DTypeName(weights_dtype)));
    }
  }
  return absl::OkStatus();
}

// What travels along, against the source's and against the digests of the output's own manifest.
absl::Status CompareAssets(FileSystem& fs, const std::string& path, const std::vector<Asset>& written,
                           const std::vector<Asset>& source) {
  std::map<std::string, std::pair<const Asset*, const Asset*>> files;
  for (const Asset& asset : source) {
    files[asset.name].first = &asset;
  }
  for (const Asset& asset : written) {
    files[asset.name].second = &asset;
  }
  std::vector<std::string> lines;
  for (const auto& [name, pair] : files) {
    const Asset* const before = pair.first;
    const Asset* after = pair.second;
    // A format carries what it would not take for an asset itself.
    Asset unlisted = {name, JoinPath(path, name), 0, {}};
    if (const absl::StatusOr<FileInfo> info = fs.Stat(unlisted.path); after == nullptr && info.ok()) {
      unlisted.size_bytes = info->size_bytes;
      after = &unlisted;
    }
    std::string difference;
    if (before == nullptr || after == nullptr) {
      difference = after == nullptr ? "is missing" : "is not of the source";
    } else if (before->size_bytes != after->size_bytes) {
      difference = absl::StrCat("has ", after->size_bytes, " bytes, the source's has ", before->size_bytes);
    } else {
      WAYPOINT_RETURN_IF_ERROR(CheckAsset(fs, *after).status());
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t offset, FirstDifference(fs, *before, *after));
      difference = offset < 0 ? "" : absl::StrCat("differs from the source's from byte ", offset, " on");
    }
    if (!difference.empty() && lines.size() < kSpelledOut) {
      lines.push_back(absl::StrCat(QuotedPath(name), " ", difference));
    }
  }
  return lines.empty() ? absl::OkStatus()
                       : MakeError(ErrorKind::kVerify,
                                   absl::StrCat("files that travel along were not written as they are in the source: ",
                                                absl::StrJoin(lines, "; ")));
}

absl::Status CompareWith(OpenedCheckpoint& written, OpenedCheckpoint& source, const VerifyOptions& options) {
  std::string report;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  if (!differencer.Compare(source.metadata.model_config(), written.metadata.model_config())) {
    return MakeError(ErrorKind::kVerify, absl::StrCat("the written config reads back differently: ", report));
  }
  CompareOptions compare;
  compare.transfer = options.transfer;
  compare.block_bytes = options.block_bytes;
  compare.share = options.share;
  compare.shares = options.shares;
  if (!options.optimizer_state) {
    compare.selected = [](const TensorMeta& tensor) { return !IsOptimizerState(tensor); };
  }
  if (options.weights_dtype != DType::kInvalid) {
    WAYPOINT_RETURN_IF_ERROR(CheckDtypes(written.tensors->manifest(), options.weights_dtype));
    compare.round_to_b = true;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const Comparison comparison, CompareSources(*source.tensors, *written.tensors, compare));
  if (comparison.equal()) {
    return absl::OkStatus();
  }
  std::vector<std::string> lines;
  for (const TensorDifference& difference : comparison.differences) {
    if (lines.size() < kSpelledOut) {
      lines.push_back(absl::StrCat("tensor \"", difference.name, "\": ", difference.what));
    }
  }
  return MakeError(ErrorKind::kVerify,
                   absl::StrCat("what was written differs from the source (first) in ", comparison.differences.size(),
                                " of its tensors: ", absl::StrJoin(lines, "; "),
                                comparison.differences.size() > kSpelledOut ? "; ..." : ""));
}

}  // namespace

absl::Status VerifyDigests(FileSystem& fs, CheckpointFormat& format, const std::string& path, OpenedCheckpoint& source,
                           const VerifyOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint written, format.Open(fs, path, options.load));
  if (options.share == 0) {
    WAYPOINT_RETURN_IF_ERROR(CompareAssets(fs, path, written.assets, source.assets));
  }
  return CompareWith(written, source, options);
}

absl::Status VerifyLogits(FileSystem& fs, CheckpointFormat& format, const std::string& path,
                          const std::string& source_path, const std::string& source_format, OpenedCheckpoint& source,
                          const VerifyOptions& options) {
  WAYPOINT_RETURN_IF_ERROR(VerifyDigests(fs, format, path, source, options));
  if (options.share != 0) {
    return absl::OkStatus();
  }
  LogitsRun run;
  run.interrupted = options.transfer.cancelled;
  run.carry_unknown = options.load.carry_unknown;
  // Small ids, which all but toy vocabularies have.
  run.tokens = {1, 2, 3, 5, 8, 13, 21, 30, 7, 11, 17, 29, 4, 16, 25, 9};
  models::DecoderConfig config;
  if (source.metadata.model_config().UnpackTo(&config) && config.vocab_size() > 0) {
    for (int64_t& token : run.tokens) {
      token %= config.vocab_size();
    }
  }
  run.directory = source_path;
  run.format = source_format;
  run.format_options = options.source_format_options;
  run.strip_prefixes = options.source_strip_prefixes;
  run.round_to = options.weights_dtype;
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<float> wanted, RunLogits(options.logits_program, run));
  run.directory = path;
  run.format = format.name();
  run.format_options = options.load.format_options;
  run.strip_prefixes.clear();
  run.round_to = DType::kInvalid;
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<float> found, RunLogits(options.logits_program, run));
  if (wanted.size() != found.size()) {
    return MakeError(ErrorKind::kVerify,
                     absl::StrCat(found.size(), " logits of the output, ", wanted.size(), " of the source"));
  }
  double distance = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(wanted[i]) - static_cast<double>(found[i]));
    // A NaN on one side only is no success; max() would lose it.
    const bool both_nan = std::isnan(wanted[i]) && std::isnan(found[i]);
    distance = both_nan ? distance : std::isnan(difference) ? INFINITY : std::max(distance, difference);
  }
  if (distance > kLogitsTolerance) {
    return MakeError(
        ErrorKind::kVerify,
        absl::StrFormat("logits of the output are %g away from the source's, %g allowed", distance, kLogitsTolerance));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
