#include "checkpoint/format/distributed/records.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/ranges.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/format/sealed_frame.h"

namespace waypoint {
namespace {

absl::StatusOr<TensorMeta> MetaOf(const std::string& name, int32_t dtype,
                                  const google::protobuf::RepeatedField<int64_t>& shape) {
  TensorMeta meta;
  meta.name = name;
  meta.dtype = static_cast<DType>(dtype);
  meta.shape.assign(shape.begin(), shape.end());
  if (dtype < 0 || dtype > 255 || DTypeBits(meta.dtype) == 0) {
    return MakeError(ErrorKind::kDType,
                     absl::StrCat("tensor \"", name.substr(0, 256), "\" has unknown element type ", dtype));
  }
  return meta;
}

absl::Status ReadManifest(absl::string_view body, const Limits& limits, SealedDistributedManifest* sealed) {
  DistributedManifest& manifest = sealed->manifest;
  if (!manifest.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return MakeError(ErrorKind::kSchema, "the body is no DistributedManifest message");
  }
  if (manifest.required_features_size() > 0) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat("feature \"", manifest.required_features(0),
                                                           "\" is not known to this version; use a newer one"));
  }
  if (manifest.metadata().training().step() < 0) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("step is ", manifest.metadata().training().step()));
  }
  if (manifest.ranks_size() == 0 || manifest.ranks_size() > limits.shard_files) {
    return MakeError(
        manifest.ranks_size() == 0 ? ErrorKind::kSchema : ErrorKind::kLimit,
        absl::StrCat("written by ", manifest.ranks_size(), " ranks, wanted 1 to shard_files = ", limits.shard_files));
  }
  for (const GlobalTensor& tensor : manifest.tensors()) {
    if (static_cast<int64_t>(tensor.name().size()) > limits.tensor_name_bytes ||
        tensor.shape_size() > limits.tensor_rank) {
      return MakeError(ErrorKind::kLimit, absl::StrCat("tensor \"", tensor.name().substr(0, 256), "\" has a name of ",
                                                       tensor.name().size(), " bytes and rank ", tensor.shape_size(),
                                                       ", limits are tensor_name_bytes ", limits.tensor_name_bytes,
                                                       " and tensor_rank ", limits.tensor_rank));
    }
    WAYPOINT_ASSIGN_OR_RETURN(TensorMeta meta, MetaOf(tensor.name(), tensor.dtype(), tensor.shape()));
    if (DTypeBytes(meta.dtype) == 0) {
      return MakeError(ErrorKind::kSchema, absl::StrCat("tensor \"", meta.name, "\" is ", DTypeName(meta.dtype),
                                                        ", whose elements are no whole bytes"));
    }
    WAYPOINT_RETURN_IF_ERROR(sealed->tensors.Add(std::move(meta)));
  }
  absl::flat_hash_set<absl::string_view> names;
  for (const FileRecord& asset : manifest.assets()) {
    WAYPOINT_RETURN_IF_ERROR(CheckFileRecord(asset));
    if (!names.insert(asset.name()).second) {
      return MakeError(ErrorKind::kDupKey, absl::StrCat("file \"", asset.name(), "\" is listed twice"));
    }
    if (asset.kind() != FileRecord::ASSET) {
      return MakeError(ErrorKind::kSchema, absl::StrCat("\"", asset.name(), "\" is no asset"));
    }
  }
  return CheckRanges(manifest, "DistributedManifest", ErrorKind::kSchema);
}

absl::Status CheckBox(const StoredBox& stored, const FileRecord& file, const Manifest& tensors) {
  if (stored.tensor() < 0 || stored.tensor() >= tensors.size()) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat("a box is of tensor ", stored.tensor(), ", there are ", tensors.size()));
  }
  const TensorMeta& meta = tensors[stored.tensor()];
  const Box box = BoxOf(stored);
  if (!Contains(meta.shape, box)) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("tensor \"", meta.name, "\" has a box outside of its shape ",
                                                      ShapeString(meta.shape)));
  }
  if (stored.begin() < 0 || stored.end() < stored.begin() || stored.end() > file.size_bytes()) {
    return MakeError(ErrorKind::kOffsets,
                     absl::StrCat("\"", StoredBoxName(meta.name, box), "\" is at [", stored.begin(), ", ", stored.end(),
                                  ") of \"", file.name(), "\", which has ", file.size_bytes(), " bytes"));
  }
  const int64_t bytes = box.num_elements() * DTypeBytes(meta.dtype);  // fits, since the tensor's do
  if (stored.end() - stored.begin() != bytes) {
    return MakeError(ErrorKind::kSizeMismatch, absl::StrCat("\"", StoredBoxName(meta.name, box), "\" has ",
                                                            stored.end() - stored.begin(), " bytes, wanted ", bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckRecords(const RankRecords& records, const std::string& file_name, const Manifest& tensors) {
  WAYPOINT_RETURN_IF_ERROR(CheckFileRecord(records.file()));
  if (records.file().name() != file_name || records.file().kind() != FileRecord::RANK) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat("records of \"", records.file().name(), "\", wanted those of \"", file_name, "\""));
  }
  for (const StoredBox& stored : records.boxes()) {
    WAYPOINT_RETURN_IF_ERROR(CheckBox(stored, records.file(), tensors));
  }
  // One behind the other, as the file's header has them too: bytes that many boxes shared would be read for each.
  for (int i = 0; i + 1 < records.boxes_size(); ++i) {
    const StoredBox& stored = records.boxes(i);
    const int64_t next = records.boxes(i + 1).begin();
    if (stored.end() > next) {
      return MakeError(ErrorKind::kOffsets,
                       absl::StrCat("\"", StoredBoxName(tensors[stored.tensor()].name, BoxOf(stored)), "\" ends at ",
                                    stored.end(), " of \"", file_name, "\", what follows begins at ", next));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string RankFileName(int rank, int world_size, absl::string_view suffix) {
  return absl::StrFormat("rank-%05d-of-%05d%s", rank, world_size, suffix);
}

std::string StoredBoxName(absl::string_view tensor_name, const Box& box) {
  return absl::StrCat(tensor_name, box.ToString());
}

Box BoxOf(const StoredBox& stored) {
  Box box;
  box.offsets.assign(stored.offsets().begin(), stored.offsets().end());
  box.sizes.assign(stored.sizes().begin(), stored.sizes().end());
  return box;
}

absl::StatusOr<SealedDistributedManifest> ParseDistributedManifest(absl::string_view bytes, absl::string_view path,
                                                                   const Limits& limits) {
  WAYPOINT_ASSIGN_OR_RETURN(SealedBody frame, OpenFrame(bytes, path, kDistributedVersion));
  SealedDistributedManifest sealed;
  sealed.sha256 = std::move(frame.sha256);
  WAYPOINT_RETURN_IF_ERROR(Annotate(ReadManifest(frame.body, limits, &sealed), absl::StrCat("\"", path, "\"")));
  return sealed;
}

absl::StatusOr<RankRecords> ParseRankRecords(absl::string_view bytes, absl::string_view path,
                                             const SealedDistributedManifest& manifest, int rank) {
  WAYPOINT_ASSIGN_OR_RETURN(const SealedBody frame, OpenFrame(bytes, path, kDistributedVersion));
  const RankSeal& seal = manifest.manifest.ranks(rank);
  if (seal.records_sha256() != frame.sha256 || seal.records_bytes() != static_cast<int64_t>(bytes.size())) {
    return MakeError(ErrorKind::kChecksum,
                     absl::StrCat("\"", path, "\": SHA-256 is ", frame.sha256, " of ", bytes.size(), " bytes, \"",
                                  kDistributedManifestName, "\" says ", seal.records_sha256(), " of ",
                                  seal.records_bytes(), "; it is not of this checkpoint"));
  }
  RankRecords records;
  const std::string file_name = RankFileName(rank, manifest.manifest.ranks_size(), ".safetensors");
  absl::Status status = records.ParseFromArray(frame.body.data(), static_cast<int>(frame.body.size()))
                                  ? CheckRecords(records, file_name, manifest.tensors)
                                  : MakeError(ErrorKind::kSchema, "the body is no RankRecords message");
  if (status.ok()) {
    status = CheckRanges(records, "RankRecords", ErrorKind::kSchema);
  }
  WAYPOINT_RETURN_IF_ERROR(Annotate(status, absl::StrCat("\"", path, "\"")));
  return records;
}

}  // namespace waypoint
