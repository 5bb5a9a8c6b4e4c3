#ifndef CHECKPOINT_FORMAT_SEALED_FRAME_H_
#define CHECKPOINT_FORMAT_SEALED_FRAME_H_

// The frame around a manifest that makes a cut or damaged one no manifest at all.
//
//   offset  bytes  what
//   0       8      "WAYPOINT"
//   8       4      format version, little-endian
//   12      4      zero
//   16      8      n, length of the body, little-endian
//   24      n      body
//   24 + n  64     SHA-256 of bytes [0, 24 + n), lower-case hexadecimal; the file ends there
//
// Thread-safe.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"
#include "google/protobuf/message_lite.h"

namespace waypoint {

std::string SealFrame(absl::string_view body, uint32_t version);

// Maps in the order of their keys: equal messages are equal bytes.
std::string SealMessage(const google::protobuf::MessageLite& message, uint32_t version);

struct SealedBody {
  absl::string_view body;  // part of what was opened
  std::string sha256;      // the one at the end
};

// Errors: E_HEADER, E_UNSUPPORTED (another version), E_TRUNCATED, E_TRAILING, E_CHECKSUM; messages name `path`.
absl::StatusOr<SealedBody> OpenFrame(absl::string_view bytes, absl::string_view path, uint32_t version);

// For CheckpointFormat::Probe: is there a manifest at `path`?  Reads the frame's first bytes only; a body that was
// damaged is there.
// Errors: E_TRUNCATED for a file that is shorter than its frame says, whose writer did not finish; those of the file
// system.
absl::StatusOr<bool> ProbeFrame(FileSystem& fs, const std::string& path);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_SEALED_FRAME_H_
