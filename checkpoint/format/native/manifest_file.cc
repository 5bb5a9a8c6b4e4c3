#include "checkpoint/format/native/manifest_file.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/ranges.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/format/sealed_frame.h"

namespace waypoint {
namespace {

absl::Status CheckTensor(const TensorRecord& tensor, const NativeManifest& manifest, const Limits& limits) {
  const std::string what = absl::StrCat("tensor \"", tensor.name().substr(0, 256), "\"");
  if (static_cast<int64_t>(tensor.name().size()) > limits.tensor_name_bytes ||
      tensor.shape_size() > limits.tensor_rank) {
    return MakeError(ErrorKind::kLimit,
                     absl::StrCat(what, " has a name of ", tensor.name().size(), " bytes and rank ",
                                  tensor.shape_size(), ", limits are tensor_name_bytes ", limits.tensor_name_bytes,
                                  " and tensor_rank ", limits.tensor_rank));
  }
  if (tensor.file() < 0 || tensor.file() >= manifest.files_size() ||
      manifest.files(tensor.file()).kind() == FileRecord::ASSET) {
    return MakeError(ErrorKind::kSchema, absl::StrCat(what, " is in file ", tensor.file(), ", which holds no tensors"));
  }
  const auto dtype = static_cast<DType>(tensor.dtype());
  if (tensor.dtype() < 0 || tensor.dtype() > 255 || DTypeBits(dtype) == 0) {
    return MakeError(ErrorKind::kDType, absl::StrCat(what, " has unknown element type ", tensor.dtype()));
  }
  const auto bytes = TensorBytes(dtype, tensor.shape());
  if (!bytes.ok()) {
    return Annotate(bytes.status(), what);
  }
  const FileRecord& file = manifest.files(tensor.file());
  if (tensor.begin() < 0 || tensor.end() < tensor.begin() || tensor.end() > file.size_bytes()) {
    return MakeError(ErrorKind::kOffsets, absl::StrCat(what, " is at [", tensor.begin(), ", ", tensor.end(), ") of \"",
                                                       file.name(), "\", which has ", file.size_bytes(), " bytes"));
  }
  if (tensor.end() - tensor.begin() != *bytes) {
    return MakeError(ErrorKind::kSizeMismatch, absl::StrCat(what, " has ", tensor.end() - tensor.begin(),
                                                            " bytes, its shape and type make ", *bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckRecords(const NativeManifest& manifest, const Limits& limits) {
  if (manifest.required_features_size() > 0) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat("feature \"", manifest.required_features(0),
                                                           "\" is not known to this version; use a newer one"));
  }
  absl::flat_hash_set<absl::string_view> names;
  for (const FileRecord& file : manifest.files()) {
    WAYPOINT_RETURN_IF_ERROR(CheckFileRecord(file));
    if (file.kind() == FileRecord::RANK) {
      return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" is of one rank: not native"));
    }
    if (!names.insert(file.name()).second) {
      return MakeError(ErrorKind::kDupKey, absl::StrCat("file \"", file.name(), "\" is listed twice"));
    }
  }
  names.clear();
  for (const TensorRecord& tensor : manifest.tensors()) {
    WAYPOINT_RETURN_IF_ERROR(CheckTensor(tensor, manifest, limits));
    if (!names.insert(tensor.name()).second) {
      return MakeError(ErrorKind::kDupKey, absl::StrCat("tensor \"", tensor.name(), "\" is listed twice"));
    }
  }
  if (manifest.metadata().training().step() < 0) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("step is ", manifest.metadata().training().step()));
  }
  return absl::OkStatus();
}

}  // namespace

std::string SerializeManifest(const NativeManifest& manifest) {
  return SealMessage(manifest, kNativeFormatVersion);
}

absl::StatusOr<SealedManifest> ParseManifest(absl::string_view bytes, absl::string_view path, const Limits& limits) {
  WAYPOINT_ASSIGN_OR_RETURN(SealedBody body, OpenFrame(bytes, path, kNativeFormatVersion));
  SealedManifest sealed;
  sealed.sha256 = std::move(body.sha256);
  absl::Status status = sealed.manifest.ParseFromArray(body.body.data(), static_cast<int>(body.body.size()))
                            ? CheckRecords(sealed.manifest, limits)
                            : MakeError(ErrorKind::kSchema, "the body is no NativeManifest message");
  if (status.ok()) {
    status = CheckRanges(sealed.manifest, "NativeManifest", ErrorKind::kSchema);
  }
  WAYPOINT_RETURN_IF_ERROR(Annotate(status, absl::StrCat("\"", path, "\"")));
  return sealed;
}

}  // namespace waypoint
