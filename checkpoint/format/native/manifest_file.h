#ifndef CHECKPOINT_FORMAT_NATIVE_MANIFEST_FILE_H_
#define CHECKPOINT_FORMAT_NATIVE_MANIFEST_FILE_H_

// manifest.pb: the frame around the NativeManifest message, drawn in FORMAT.md.  Does not link libtorch.  Thread-safe.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/format/native/manifest.pb.h"

namespace waypoint {

inline constexpr char kManifestFileName[] = "manifest.pb";
// Of the files that hold tensors: "model.safetensors", "optimizer-00001-of-00002.safetensors".
inline constexpr char kWeightsStem[] = "model";
inline constexpr char kOptimizerStem[] = "optimizer";
inline constexpr uint32_t kNativeFormatVersion = 1;

struct SealedManifest {
  NativeManifest manifest;
  // SHA-256 of the frame, lower-case hexadecimal: the identity of the checkpoint.
  std::string sha256;
};

std::string SerializeManifest(const NativeManifest& manifest);

// Checks the frame, the digest and every record: names, sizes, ranges, dtypes, digest tables.
// Errors: E_HEADER, E_UNSUPPORTED (version or feature), E_TRUNCATED, E_TRAILING, E_CHECKSUM, E_SCHEMA, E_OFFSETS, E_PATH, E_DUP_KEY,
// E_DTYPE, E_OVERFLOW, E_SIZE_MISMATCH, E_LIMIT.
absl::StatusOr<SealedManifest> ParseManifest(absl::string_view bytes, absl::string_view path, const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_NATIVE_MANIFEST_FILE_H_
