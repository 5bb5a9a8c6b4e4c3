#include "checkpoint/format/native/manifest_file.h"

#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace waypoint {
namespace {

constexpr char kMagic[] = "WAYPOINT";
constexpr size_t kFrameBytes = 24;
constexpr size_t kDigestBytes = 64;
constexpr int64_t kMaxChunkBytes = int64_t{64} << 20;

// Letters, digits, '.', '_', '-', not beginning with '.' or '-'; at most one folder, "assets/".
bool IsPlainName(absl::string_view name) {
  if (name.empty() || name.size() > 255 || name[0] == '.' || name[0] == '-') {
    return false;
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '/' || c == '\\' || c == 0x7f) {
      return false;
    }
  }
  return true;
}

absl::Status CheckFile(const FileRecord& file) {
  absl::string_view name = file.name();
  if (file.kind() == FileRecord::ASSET && absl::StartsWith(name, "assets/")) {
    name.remove_prefix(strlen("assets/"));
  }
  if (!IsPlainName(name)) {
    return MakeError(ErrorKind::kPath, absl::StrCat("file \"", file.name(), "\" is no plain name"));
  }
  if (file.kind() != FileRecord::WEIGHTS && file.kind() != FileRecord::OPTIMIZER_STATE &&
      file.kind() != FileRecord::ASSET) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" has unknown kind ", file.kind()));
  }
  if (file.size_bytes() < 0) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" has ", file.size_bytes(), " bytes"));
  }
  if (file.chunk_bytes() < 4096 || file.chunk_bytes() > kMaxChunkBytes || file.chunk_bytes() % 4096 != 0) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" has chunks of ", file.chunk_bytes(),
                                                      " bytes, wanted a multiple of 4096 up to ", kMaxChunkBytes));
  }
  const int64_t chunks = file.size_bytes() / file.chunk_bytes() + (file.size_bytes() % file.chunk_bytes() != 0);
  const auto digest_bytes = static_cast<int64_t>(file.chunk_digests().size());
  if (digest_bytes % 8 != 0 || digest_bytes / 8 != chunks) {
    return MakeError(ErrorKind::kSizeMismatch, absl::StrCat("file \"", file.name(), "\" has ", digest_bytes,
                                                            " bytes of digests, wanted 8 for each of ", chunks, " chunks"));
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const TensorRecord& tensor, const NativeManifest& manifest, const Limits& limits) {
  const std::string what = absl::StrCat("tensor \"", tensor.name().substr(0, 256), "\"");
  if (static_cast<int64_t>(tensor.name().size()) > limits.tensor_name_bytes ||
      tensor.shape_size() > limits.tensor_rank) {
    return MakeError(ErrorKind::kLimit, absl::StrCat(what, " has a name of ", tensor.name().size(), " bytes and rank ",
                                                     tensor.shape_size(), ", limits are tensor_name_bytes ",
                                                     limits.tensor_name_bytes, " and tensor_rank ", limits.tensor_rank));
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
    WAYPOINT_RETURN_IF_ERROR(CheckFile(file));
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

template <typename T>
T ReadLittle(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

}  // namespace

std::string SerializeManifest(const NativeManifest& manifest) {
  // Maps in the order of their keys: equal checkpoints are equal bytes.
  std::string body;
  {
    google::protobuf::io::StringOutputStream stream(&body);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    manifest.SerializeToCodedStream(&coded);
  }
  std::string bytes(kMagic, 8);
  const uint32_t version = kNativeFormatVersion;
  const uint32_t zero = 0;
  const uint64_t body_bytes = body.size();
  bytes.append(reinterpret_cast<const char*>(&version), sizeof(version));
  bytes.append(reinterpret_cast<const char*>(&zero), sizeof(zero));
  bytes.append(reinterpret_cast<const char*>(&body_bytes), sizeof(body_bytes));
  bytes.append(body);
  Sha256 sha;
  sha.Update(bytes);
  return bytes + sha.Hex();
}

absl::StatusOr<SealedManifest> ParseManifest(absl::string_view bytes, absl::string_view path, const Limits& limits) {
  const auto annotate = [path](const absl::Status& status) { return Annotate(status, absl::StrCat("\"", path, "\"")); };
  if (bytes.size() < 8 || bytes.substr(0, 8) != kMagic) {
    const bool cut = bytes.size() < 8 && absl::string_view(kMagic).substr(0, bytes.size()) == bytes;
    return annotate(MakeError(cut ? ErrorKind::kTruncated : ErrorKind::kHeader,
                              cut ? absl::StrCat("only ", bytes.size(), " bytes; the writer did not finish")
                                  : "does not begin with \"WAYPOINT\": no manifest of this program"));
  }
  if (bytes.size() < kFrameBytes + kDigestBytes) {
    return annotate(MakeError(ErrorKind::kTruncated, absl::StrCat("only ", bytes.size(), " bytes, the frame alone has ",
                                                                  kFrameBytes + kDigestBytes)));
  }
  const auto version = ReadLittle<uint32_t>(bytes, 8);
  if (version != kNativeFormatVersion) {
    return annotate(MakeError(ErrorKind::kUnsupported,
                              absl::StrCat("format version ", version, ", this program reads version ",
                                           kNativeFormatVersion, "; use the program that wrote it")));
  }
  const auto body_bytes = ReadLittle<uint64_t>(bytes, 16);
  const size_t room = bytes.size() - kFrameBytes - kDigestBytes;
  if (body_bytes != room) {
    return annotate(MakeError(body_bytes > room ? ErrorKind::kTruncated : ErrorKind::kTrailing,
                              absl::StrCat("body of ", body_bytes, " bytes declared, ", room, " are there")));
  }
  const absl::string_view frame = bytes.substr(0, kFrameBytes + body_bytes);
  const absl::string_view stored = bytes.substr(frame.size());
  Sha256 sha;
  sha.Update(frame);
  SealedManifest sealed;
  sealed.sha256 = sha.Hex();
  if (stored != sealed.sha256 || ReadLittle<uint32_t>(bytes, 12) != 0) {
    return annotate(MakeError(ErrorKind::kChecksum, absl::StrCat("SHA-256 is ", sealed.sha256,
                                                                 ", the file says otherwise; it was damaged")));
  }
  if (!sealed.manifest.ParseFromArray(frame.data() + kFrameBytes, static_cast<int>(body_bytes))) {
    return annotate(MakeError(ErrorKind::kSchema, "the body is no NativeManifest message"));
  }
  WAYPOINT_RETURN_IF_ERROR(annotate(CheckRecords(sealed.manifest, limits)));
  return sealed;
}

}  // namespace waypoint
