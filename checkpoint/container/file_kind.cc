#include "checkpoint/container/file_kind.h"

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// POSIX, pax: offset of "ustar" in the first header of an archive.
constexpr size_t kTarMagicOffset = 257;

}  // namespace

absl::string_view PointerKind(absl::string_view start) {
  using absl::StartsWith;
  // The specification puts "version" first, always; hawser was the project's name before its first release.
  if (StartsWith(start, "version https://git-lfs") || StartsWith(start, "version https://hawser") ||
      StartsWith(start, "version http://git-media")) {
    return "a git-lfs pointer; fetch the real file with \"git lfs pull\"";
  }
  if (StartsWith(start, "# xet version")) {
    return "a git-xet pointer; fetch the real file with \"git xet checkout\", or download it again";
  }
  // What an unlocked file holds, and a link where the file system has none.
  if (StartsWith(start, "/annex/objects/") || StartsWith(start, ".git/annex/objects/") ||
      StartsWith(start, "../.git/annex/objects/")) {
    return "a git-annex pointer; fetch the real file with \"git annex get\"";
  }
  return "";
}

absl::Status CheckNoPointer(absl::string_view start, absl::string_view path) {
  const absl::string_view kind = PointerKind(start);
  return kind.empty() ? absl::OkStatus() : MakeError(ErrorKind::kHeader, absl::StrCat(QuotedPath(path), ": is ", kind));
}

absl::Status CheckNoPointer(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenForRead(path, OpenOptions()));
  std::string start(std::min(file->size_bytes(), kFileKindBytes), '\0');
  WAYPOINT_RETURN_IF_ERROR(file->Read(0, absl::MakeSpan(&start[0], start.size())));
  return CheckNoPointer(start, path);
}

absl::StatusOr<std::string> ReadSmallRealFile(FileSystem& fs, const std::string& path, int64_t max_bytes,
                                              absl::string_view limit_name) {
  WAYPOINT_ASSIGN_OR_RETURN(std::string contents, ReadSmallFile(fs, path, max_bytes, limit_name));
  WAYPOINT_RETURN_IF_ERROR(CheckNoPointer(contents, path));
  return contents;
}

absl::string_view FileKind(absl::string_view start) {
  using absl::StartsWith;
  if (const absl::string_view pointer = PointerKind(start); !pointer.empty()) {
    return pointer;
  }
  if (absl::StartsWithIgnoreCase(start, "<!doctype") || absl::StartsWithIgnoreCase(start, "<html") ||
      StartsWith(start, "<?xml")) {
    return "a web page, probably an error page saved by a download; download the file again";
  }
  if (StartsWith(start, "PK\x03\x04") || StartsWith(start, "PK\x05\x06")) {
    return "a zip archive, probably a PyTorch .pth or .bin file under a wrong name";
  }
  if (start.size() > 1 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5) {
    return "a Python pickle, which is never loaded";
  }
  if (StartsWith(start, "GGUF")) {
    return "a GGUF file";
  }
  if (StartsWith(start,
                 "\x7F"
                 "ELF")) {
    return "an ELF executable";
  }
  if (StartsWith(start, "\x1F\x8B")) {
    return "gzip-compressed; decompress it first";
  }
  if (StartsWith(start, "\x28\xB5\x2F\xFD")) {
    return "zstd-compressed; decompress it first";
  }
  if (StartsWith(start, "7z\xBC\xAF\x27\x1C")) {
    return "a 7z archive; unpack it first";
  }
  if (start.size() > kTarMagicOffset && StartsWith(start.substr(kTarMagicOffset), "ustar")) {
    return "a tar archive; unpack it first, or save the file again where it is PyTorch's oldest format";
  }
  if (StartsWith(start, "\x89HDF")) {
    return "an HDF5 file";
  }
  if (StartsWith(start, "\x93NUMPY")) {
    return "a NumPy array";
  }
  if (StartsWith(start, "{")) {
    return "JSON text";
  }
  return "";
}

}  // namespace waypoint
