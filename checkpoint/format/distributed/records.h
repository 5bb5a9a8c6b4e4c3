#ifndef CHECKPOINT_FORMAT_DISTRIBUTED_RECORDS_H_
#define CHECKPOINT_FORMAT_DISTRIBUTED_RECORDS_H_

// The manifests of the distributed format (FORMAT.md), checked before anything believes them.  Does not link libtorch.
// Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/format/distributed/records.pb.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

inline constexpr char kDistributedManifestName[] = "distributed.pb";
inline constexpr uint32_t kDistributedVersion = 1;

// "rank-00003-of-00008" + suffix.
std::string RankFileName(int rank, int world_size, absl::string_view suffix);

// The name of a stored box in its file: "decoder.0.weight[0:4, 2:3]".
std::string StoredBoxName(absl::string_view tensor_name, const Box& box);

struct SealedDistributedManifest {
  DistributedManifest manifest;
  Manifest tensors;  // whole
  std::string sha256;
};
// Errors: as OpenFrame; E_SCHEMA, E_UNSUPPORTED, E_DTYPE, E_OVERFLOW, E_DUP_KEY, E_LIMIT, E_PATH, E_SIZE_MISMATCH.
absl::StatusOr<SealedDistributedManifest> ParseDistributedManifest(absl::string_view bytes, absl::string_view path,
                                                                   const Limits& limits);

// Also checks the seal of `rank`, and that every box lies in its tensor and has the bytes that it needs, E_CHECKSUM,
// E_OFFSETS.
absl::StatusOr<RankRecords> ParseRankRecords(absl::string_view bytes, absl::string_view path,
                                             const SealedDistributedManifest& manifest, int rank);

Box BoxOf(const StoredBox& stored);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_DISTRIBUTED_RECORDS_H_
