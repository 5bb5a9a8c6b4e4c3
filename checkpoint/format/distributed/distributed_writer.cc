#include "checkpoint/format/distributed/distributed_writer.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/distributed/records.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/format/saved_state.h"
#include "checkpoint/format/sealed_frame.h"
#include "checkpoint/plan/save_plan.h"

namespace waypoint {
namespace {

// What is saved of `state`, with the boxes that this rank holds.
absl::StatusOr<Manifest> HeldOf(const ConvertedSource& saved, const TensorSource& state) {
  Manifest held;
  for (const TensorMeta& tensor : saved.manifest().tensors()) {
    TensorMeta meta = tensor;
    meta.boxes = state.manifest()[state.manifest().Find(tensor.name)].boxes;
    WAYPOINT_RETURN_IF_ERROR(held.Add(std::move(meta)));
  }
  return held;
}

absl::StatusOr<SavePlan> PlanSave(const std::vector<std::string>& held_by_rank) {
  SavePlanner planner({});
  for (const std::string& bytes : held_by_rank) {
    WAYPOINT_ASSIGN_OR_RETURN(const Manifest held, ParseHeld(bytes));
    WAYPOINT_RETURN_IF_ERROR(planner.AddRank(held));
  }
  return std::move(planner).Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> DistributedWriter::Create(
    FileSystem& fs, const std::string& directory, const CheckpointMetadata& metadata, TensorSource& state,
    const std::vector<Asset>& assets, const SaveOptions& options) {
  auto writer = std::unique_ptr<DistributedWriter>(new DistributedWriter(fs, directory, metadata, assets, options));
  Coordinator& coordinator = *writer->coordinator_;
  const auto select = [&]() -> absl::StatusOr<Manifest> {
    WAYPOINT_ASSIGN_OR_RETURN(SavedState saved, SelectState(state, options));
    writer->source_ = std::move(saved.source);
    writer->notes_ = std::move(saved.notes);
    return HeldOf(*writer->source_, state);
  };
  // Equal input on all ranks: equal plans, or the same error.
  WAYPOINT_ASSIGN_OR_RETURN(writer->plan_, PlanTogether<SavePlan>("distributed", coordinator, writer->timeout_,
                                                                  options.plan_cache, select(), PlanSave));
  WAYPOINT_ASSIGN_OR_RETURN(
      writer->sink_,
      BoxSink::Create(fs, directory, RankFileName(coordinator.rank(), coordinator.world_size(), ".safetensors"),
                      writer->plan_->tensors, writer->plan_->writes[coordinator.rank()], options.block_bytes));
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

std::vector<std::string> DistributedWriter::PlanLines() const { return StatePlanLines(*source_); }

absl::StatusOr<std::string> DistributedWriter::WriteRecords() {
  const WrittenFile written = sink_->written_file();
  RankRecords records;
  FileRecord* file = records.mutable_file();
  file->set_name(written.name);
  file->set_kind(FileRecord::RANK);
  file->set_size_bytes(written.size_bytes);
  SetDigests(written.digests, file);
  for (const SafetensorsEntry& entry : written.header.entries) {
    const PlannedBox planned = sink_->entry_box(entry.name);
    StoredBox* box = records.add_boxes();
    box->set_tensor(static_cast<int32_t>(planned.tensor));
    box->mutable_offsets()->Add(planned.box.offsets.begin(), planned.box.offsets.end());
    box->mutable_sizes()->Add(planned.box.sizes.begin(), planned.box.sizes.end());
    box->set_begin(entry.begin);
    box->set_end(entry.end);
  }
  *records.mutable_rng_states() = metadata_.training().rng_states();
  const std::string bytes = SealMessage(records, kDistributedVersion);
  const std::string name = RankFileName(coordinator_->rank(), coordinator_->world_size(), ".pb");
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, name), bytes));
  // Both names are durable before rank 0 hears of them.
  WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  RankSeal seal;
  WAYPOINT_ASSIGN_OR_RETURN(const SealedBody frame, OpenFrame(bytes, name, kDistributedVersion));
  seal.set_records_sha256(frame.sha256);
  seal.set_records_bytes(static_cast<int64_t>(bytes.size()));
  return seal.SerializeAsString();
}

absl::Status DistributedWriter::Seal(const std::vector<std::string>& rank_seals,
                                     const std::vector<FileRecord>& assets) {
  DistributedManifest manifest;
  *manifest.mutable_metadata() = metadata_;
  for (const TensorMeta& meta : plan_->tensors.tensors()) {
    GlobalTensor* tensor = manifest.add_tensors();
    tensor->set_name(meta.name);
    tensor->set_dtype(static_cast<int32_t>(meta.dtype));
    tensor->mutable_shape()->Add(meta.shape.begin(), meta.shape.end());
  }
  for (const std::string& seal : rank_seals) {
    if (!manifest.add_ranks()->ParseFromString(seal)) {
      return MakeError(ErrorKind::kSchema, "a rank's seal is no RankSeal message");
    }
  }
  for (const FileRecord& asset : assets) {
    *manifest.add_assets() = asset;
  }
  if (conversion_.has_value()) {
    AddConversion(*conversion_, assets, manifest.mutable_metadata());
  }
  WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  WAYPOINT_RETURN_IF_ERROR(
      WriteSmallFile(fs_, JoinPath(directory_, kDistributedManifestName), SealMessage(manifest, kDistributedVersion)));
  return fs_.SyncDirectory(directory_);
}

absl::Status DistributedWriter::Finish() {
  std::vector<FileRecord> assets;
  const auto write = [&]() -> absl::StatusOr<std::string> {
    if (coordinator_->rank() == 0) {
      WAYPOINT_ASSIGN_OR_RETURN(assets, CopyAssets(fs_, assets_, directory_));
    }
    return WriteRecords();
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> seals,
                            coordinator_->AllGatherIfOk("files of ranks", write(), timeout_));
  return coordinator_->rank() == 0 ? Seal(seals, assets) : absl::OkStatus();
}

}  // namespace waypoint
