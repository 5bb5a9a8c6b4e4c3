#ifndef ENGINE_DATA_RECORD_H_
#define ENGINE_DATA_RECORD_H_

// What a checkpoint says of the file that its run reads, and what a resume makes of another one.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const DataRecord record, ExamineData(*file, ranks, timeout, {}));
//   WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> notes, CompareData(training, record, config, {}));
//
// Thread-compatible.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/format/metadata.pb.h"
#include "engine/config.pb.h"
#include "engine/data.h"

namespace waypoint::engine {

// Called with this rank's share: bytes done, and in all.  An error ends the reading.
using DataProgress = std::function<absl::Status(int64_t done, int64_t total)>;

// Reads the whole file once, each rank every so many-th piece of it: its digest, and no token outside the vocabulary.
// The same answer on all ranks, whatever their number.
// Errors: those of TokenFile and of `progress`; E_REQUEST when ranks see files of different sizes; E_RANK for those of
// other ranks.
absl::StatusOr<DataRecord> ExamineData(const TokenFile& file, Coordinator& ranks, absl::Duration timeout,
                                       const DataProgress& progress);

// "20000 bytes (20000 tokens, XXH3 0123456789abcdef)".
std::string DataRecordText(const DataRecord& record);

// What a user must know who resumes a run of config `before` that saved `training` with the data `now`, read as
// `config` says.  E_REQUEST for other contents without config.allow_changed.
absl::StatusOr<std::vector<std::string>> CompareData(const TrainingState& training, const Dataset& before,
                                                     const DataRecord& now, const Dataset& config);

}  // namespace waypoint::engine

#endif  // ENGINE_DATA_RECORD_H_
