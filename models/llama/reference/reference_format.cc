#include "models/llama/reference/reference_format.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/format/format_options.h"
#include "checkpoint/format/own_files.h"
#include "checkpoint/format/shared/shared_write.h"
#include "checkpoint/format/strip_prefix.h"
#include "models/llama/reference/directory.h"
#include "models/llama/reference/export_plan.h"
#include "models/llama/reference/import_shards.h"
#include "models/llama/reference/options.h"
#include "models/llama/reference/shard_writer.h"
#include "models/llama/reference/weights.h"

namespace waypoint::models {
namespace {

// Names of a set's files begin with their prefixes here.
bool SharesOutput(const std::vector<TorchContents>& files) {
  for (size_t file = 0; file < files.size(); ++file) {
    const std::string prefix = ReferencePrefix(static_cast<int64_t>(file));
    if (!ShareStorage(files[file], absl::StrCat(prefix, kReferenceNames.output),
                      absl::StrCat(prefix, kReferenceNames.embedding))) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<OpenedCheckpoint> OpenDirectory(FileSystem& fs, ReferenceDirectory directory, const LoadOptions& options,
                                               const ReferenceOptions& reference) {
  ShardedCheckpoint checkpoint;
  if (directory.sidecars.params.has_value() && !reference.ignore_params) {
    auto params = ReadReferenceParams(*directory.sidecars.params, options.carry_unknown);
    if (!params.ok()) {
      return Annotate(params.status(), kParamsName);
    }
    directory.notes.insert(directory.notes.end(), params->notes.begin(), params->notes.end());
    checkpoint.params = *std::move(params);
  } else if (reference.hints.architecture == nullptr) {
    return MakeError(ErrorKind::kMissing,
                     absl::StrCat(reference.ignore_params ? "params.json is not read" : "there is no params.json",
                                  ", so that --model must say which released model this is"));
  } else {
    directory.notes.push_back(
        absl::StrCat("took what params.json would say from --model ", reference.hints.architecture->name));
  }
  checkpoint.set = ReferenceShards(static_cast<int64_t>(directory.files.size()));
  checkpoint.shared_output = SharesOutput(directory.files);
  TorchSourceOptions source_options;
  source_options.reader.window_bytes = options.window_bytes;
  source_options.reader.gap_bytes = options.gap_bytes;
  source_options.reader.max_over_read = options.max_over_read;
  source_options.verify = options.verify_digests;
  source_options.verify_whole = options.verify_whole_records;
  source_options.limits = options.limits;
  for (const CheckpointFile& file : directory.described) {
    source_options.recorders.push_back(file.recorder);
  }
  const std::string remedy = UnwrapRemedy(directory.files[0], kReferenceNames, ReferencePrefix(0));
  WAYPOINT_ASSIGN_OR_RETURN(checkpoint.files, TorchSource::Create(fs, std::move(directory.files), source_options));

  const bool believed = checkpoint.params.has_value();
  auto imported = ImportShards(std::move(checkpoint), reference);
  if (!imported.ok()) {
    return WithRemedy(imported.status(), remedy);
  }
  OpenedCheckpoint opened = *std::move(imported);
  opened.metadata.set_external_format("reference");
  if (believed) {
    (*opened.metadata.mutable_external_configs())[kParamsName] = std::move(directory.sidecars.params_text);
  }
  opened.assets = std::move(directory.sidecars.assets);
  opened.listed = std::move(directory.sidecars.listed);
  opened.files = std::move(directory.sidecars.files);
  std::move(directory.described.begin(), directory.described.end(), std::back_inserter(opened.files));
  opened.notes.insert(opened.notes.begin(), directory.notes.begin(), directory.notes.end());
  return opened;
}

class ReferenceFormat : public CheckpointFormat {
 public:
  std::string name() const override { return "reference"; }
  std::string description() const override {
    return "Meta's reference code: params.json and consolidated.NN.pth (Llama 1 to 3.x)";
  }
  bool external() const override { return true; }
  bool supports_optimizer_state() const override { return false; }
  bool written_by_many_ranks() const override { return true; }
  std::vector<FormatOption> options() const override { return ReferenceFormatOptions(); }

  absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) override {
    return LooksLikeReference(fs, directory);
  }

  absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem& fs, const std::string& directory) const override {
    return FilesNamedLike(fs, directory,
                          [](absl::string_view name) { return name == kParamsName || IsReferenceFile(name); });
  }

  absl::StatusOr<std::map<std::string, std::vector<CarriedKey>>> FindCarriedKeys(
      const CheckpointMetadata& metadata) const override {
    return FindCarriedParams(metadata);
  }

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, const std::string& directory,
                                        const LoadOptions& options) override {
    return CatchAllocation("what a checkpoint says of itself", "free memory, or allow more (ulimit -v)",
                           [&] { return OpenThrowing(fs, directory, options); });
  }

  absl::StatusOr<OpenedCheckpoint> OpenThrowing(FileSystem& fs, const std::string& directory,
                                                const LoadOptions& options) {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kLoad));
    WAYPOINT_ASSIGN_OR_RETURN(const ReferenceOptions reference, ParseReferenceOptions(options.format_options));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceDirectory files, ReadReferenceDirectory(fs, directory, options));
    auto opened = OpenDirectory(fs, std::move(files), options, reference);
    if (!opened.ok()) {
      return Annotate(opened.status(), QuotedPath(directory));
    }
    return opened;
  }

  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                           const CheckpointMetadata& metadata, TensorSource& rank_state,
                                                           const std::vector<Asset>& assets,
                                                           const SaveOptions& options) override {
    // First, so that ranks do not miss each other over what is wrong on one of them alone.
    WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<SharedWrite> together, NewSharedWrite(rank_state, options));
    TensorSource& state = together == nullptr ? rank_state : together->state();
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kSave));
    WAYPOINT_ASSIGN_OR_RETURN(const ReferenceOptions reference, ParseReferenceOptions(options.format_options));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceExport plan, PlanReferenceExport(metadata, reference));
    ShardStyle style;
    style.set = ReferenceShards(plan.layout.files);
    style.emit_rope_freqs = reference.emit_rope_freqs;
    return ShardWriter::Create(fs, directory, std::move(plan), std::move(style), std::move(together), state, assets,
                               options);
  }
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewReferenceFormat() { return std::make_unique<ReferenceFormat>(); }

}  // namespace waypoint::models
