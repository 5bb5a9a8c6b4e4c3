#include "checkpoint/format/sealed_frame.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace waypoint {
namespace {

constexpr char kMagic[] = "WAYPOINT";
constexpr size_t kFrameBytes = 24;
constexpr size_t kDigestBytes = 64;

template <typename T>
T ReadLittle(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

}  // namespace

std::string SealFrame(absl::string_view body, uint32_t version) {
  std::string bytes(kMagic, 8);
  const uint32_t zero = 0;
  const uint64_t body_bytes = body.size();
  bytes.append(reinterpret_cast<const char*>(&version), sizeof(version));
  bytes.append(reinterpret_cast<const char*>(&zero), sizeof(zero));
  bytes.append(reinterpret_cast<const char*>(&body_bytes), sizeof(body_bytes));
  bytes.append(body.data(), body.size());
  Sha256 sha;
  sha.Update(bytes);
  return bytes + sha.Hex();
}

std::string SealMessage(const google::protobuf::MessageLite& message, uint32_t version) {
  std::string body;
  {
    google::protobuf::io::StringOutputStream stream(&body);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return SealFrame(body, version);
}

absl::StatusOr<SealedBody> OpenFrame(absl::string_view bytes, absl::string_view path, uint32_t expected_version) {
  const auto error = [path](ErrorKind kind, absl::string_view message) {
    return MakeError(kind, absl::StrCat("\"", path, "\": ", message));
  };
  if (bytes.size() < 8 || bytes.substr(0, 8) != kMagic) {
    const bool cut = bytes.size() < 8 && absl::string_view(kMagic).substr(0, bytes.size()) == bytes;
    return error(cut ? ErrorKind::kTruncated : ErrorKind::kHeader,
                 cut ? absl::StrCat("only ", bytes.size(), " bytes; the writer did not finish")
                     : "does not begin with \"WAYPOINT\": no manifest of this program");
  }
  if (bytes.size() < kFrameBytes + kDigestBytes) {
    return error(ErrorKind::kTruncated,
                 absl::StrCat("only ", bytes.size(), " bytes, the frame alone has ", kFrameBytes + kDigestBytes));
  }
  const auto version = ReadLittle<uint32_t>(bytes, 8);
  if (version != expected_version) {
    // With the version that is read here the digest is right: then it is the version that is wrong.
    Sha256 sha;
    sha.Update(bytes.substr(0, 8));
    sha.Update(absl::string_view(reinterpret_cast<const char*>(&expected_version), sizeof(expected_version)));
    sha.Update(bytes.substr(12, bytes.size() - 12 - kDigestBytes));
    if (sha.Hex() == bytes.substr(bytes.size() - kDigestBytes)) {
      return error(ErrorKind::kChecksum,
                   absl::StrCat("the format version is ", version, ", the SHA-256 is one of version ", expected_version,
                                "; it was damaged"));
    }
    return error(ErrorKind::kUnsupported, absl::StrCat("format version ", version, ", this program reads version ",
                                                       expected_version, "; use the program that wrote it"));
  }
  const auto body_bytes = ReadLittle<uint64_t>(bytes, 16);
  const size_t room = bytes.size() - kFrameBytes - kDigestBytes;
  if (body_bytes != room) {
    return error(body_bytes > room ? ErrorKind::kTruncated : ErrorKind::kTrailing,
                 absl::StrCat("body of ", body_bytes, " bytes declared, ", room, " are there"));
  }
  const absl::string_view frame = bytes.substr(0, kFrameBytes + body_bytes);
  Sha256 sha;
  sha.Update(frame);
  SealedBody sealed;
  sealed.sha256 = sha.Hex();
  if (bytes.substr(frame.size()) != sealed.sha256 || ReadLittle<uint32_t>(bytes, 12) != 0) {
    return error(ErrorKind::kChecksum,
                 absl::StrCat("SHA-256 is ", sealed.sha256, ", the file says otherwise; it was damaged"));
  }
  sealed.body = frame.substr(kFrameBytes);
  return sealed;
}

absl::StatusOr<bool> ProbeFrame(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, path));
  if (!exists) {
    return false;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenForRead(path, OpenOptions()));
  const auto file_bytes = static_cast<uint64_t>(file->size_bytes());
  std::string head(std::min<uint64_t>(file_bytes, kFrameBytes), '\0');
  WAYPOINT_RETURN_IF_ERROR(file->Read(0, absl::MakeSpan(&head[0], head.size())));
  const absl::string_view magic = absl::string_view(kMagic).substr(0, head.size());
  if (head.substr(0, magic.size()) != magic) {
    return true;  // whatever it is, it was not cut short
  }
  constexpr uint64_t kAroundBody = kFrameBytes + kDigestBytes;
  if (file_bytes < kAroundBody || ReadLittle<uint64_t>(head, 16) > file_bytes - kAroundBody) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat("\"", path, "\" has only ", file_bytes, " bytes; the writer did not finish"));
  }
  return true;
}

}  // namespace waypoint
