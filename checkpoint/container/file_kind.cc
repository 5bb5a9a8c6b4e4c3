#include "checkpoint/container/file_kind.h"

#include "absl/strings/match.h"

namespace waypoint {
namespace {

// POSIX, pax: offset of "ustar" in the first header of an archive.
constexpr size_t kTarMagicOffset = 257;

}  // namespace

absl::string_view FileKind(absl::string_view start) {
  using absl::StartsWith;
  if (StartsWith(start, "version https://git-lfs")) {
    return "a git-lfs pointer; fetch the real file with \"git lfs pull\"";
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
