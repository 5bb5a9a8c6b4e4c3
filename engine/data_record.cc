#include "engine/data_record.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint::engine {
namespace {

// What a digest of its own covers.  On disk: never change.
constexpr int64_t kPieceBytes = int64_t{16} << 20;
// What is read at a time: a whole number of tokens of every kind.
constexpr int64_t kReadBytes = int64_t{1} << 20;

struct Share {
  int64_t first = 0;  // piece
  int64_t stride = 1;
};

int64_t BytesOfPiece(const TokenFile& file, int64_t piece) {
  return std::min(kPieceBytes, file.size_bytes() - piece * kPieceBytes);
}

// The digests of a share of the pieces, 8 bytes each.
absl::StatusOr<std::string> ExaminePieces(const TokenFile& file, Share share, const DataProgress& progress) {
  const int64_t pieces = (file.size_bytes() + kPieceBytes - 1) / kPieceBytes;
  int64_t total = 0;
  for (int64_t piece = share.first; piece < pieces; piece += share.stride) {
    total += BytesOfPiece(file, piece);
  }
  std::string digests;
  std::vector<char> buffer(static_cast<size_t>(std::min(kReadBytes, file.size_bytes())));
  int64_t done = 0;
  for (int64_t piece = share.first; piece < pieces; piece += share.stride) {
    Xxh3Stream digest;
    for (int64_t at = 0; at < BytesOfPiece(file, piece); at += kReadBytes) {
      const int64_t offset = piece * kPieceBytes + at;
      const auto bytes =
          absl::MakeSpan(buffer).subspan(0, static_cast<size_t>(std::min(kReadBytes, BytesOfPiece(file, piece) - at)));
      WAYPOINT_RETURN_IF_ERROR(file.Read(offset, bytes));
      WAYPOINT_RETURN_IF_ERROR(file.CheckTokens(offset, bytes));
      digest.Update(bytes);
      done += static_cast<int64_t>(bytes.size());
      WAYPOINT_RETURN_IF_ERROR(progress ? progress(done, total) : absl::OkStatus());
    }
    const uint64_t value = digest.Digest();
    digests.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return digests;
}

}  // namespace

absl::StatusOr<DataRecord> ExamineData(const TokenFile& file, Coordinator& ranks, absl::Duration timeout,
                                       const DataProgress& progress) {
  const std::string name = absl::StrCat("data file \"", file.config().path(), "\"");
  // Before reading, which may take long: where sizes differ, so do shares.
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> sizes,
                            ranks.AllGatherIfOk("size of the data", absl::StrCat(file.size_bytes()), timeout));
  for (size_t rank = 0; rank < sizes.size(); ++rank) {
    if (sizes[rank] != sizes[0]) {
      return MakeError(ErrorKind::kRequest, absl::StrCat(name, " has ", sizes[0], " bytes for rank 0 and ", sizes[rank],
                                                         " for rank ", rank, "; all must see the same file"));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(
      const std::vector<std::string> shares,
      ranks.AllGatherIfOk("digests of the data", ExaminePieces(file, {ranks.rank(), ranks.world_size()}, progress),
                          timeout));
  std::string all;
  constexpr size_t kBytes = sizeof(uint64_t);
  for (size_t round = 0; round * kBytes < shares[0].size(); ++round) {
    for (const std::string& share : shares) {
      all.append(share, std::min(round * kBytes, share.size()), kBytes);
    }
  }
  DataRecord record;
  record.set_size_bytes(file.size_bytes());
  record.set_tokens(file.tokens());
  record.set_xxh3(DigestHex(Xxh3(all)));
  return record;
}

std::string DataRecordText(const DataRecord& record) {
  return absl::StrCat(record.size_bytes(), " bytes (", record.tokens(), " tokens, XXH3 ", record.xxh3(), ")");
}

absl::StatusOr<std::vector<std::string>> CompareData(const TrainingState& training, const Dataset& before,
                                                     const DataRecord& now, const Dataset& config) {
  std::vector<std::string> notes;
  std::vector<std::string> changed;
  if (!training.has_data()) {
    notes.push_back(
        "the checkpoint does not say which data it was trained on: whether they are still the same is not known; the "
        "next one will say");
  } else if (const DataRecord& saved = training.data();
             saved.size_bytes() != now.size_bytes() || saved.xxh3() != now.xxh3()) {
    const std::string what = absl::StrCat("data file \"", config.path(), "\" has ", DataRecordText(now),
                                          ", that of the run so far had ", DataRecordText(saved));
    if (!config.allow_changed()) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat(what,
                                    ": the batches to come would be others than the run's; bring that file back, "
                                    "or set data.allow_changed: true to go on with this one"));
    }
    notes.push_back(absl::StrCat(what, "; data.allow_changed: the run goes on with it"));
    changed.push_back("the contents of the file");
  }
  if (before.kind() != config.kind()) {
    changed.push_back("data.kind");
  }
  if (before.seed() != config.seed()) {
    changed.push_back("data.seed");
  }
  if (before.sequence_length() != config.sequence_length()) {
    changed.push_back("data.sequence_length");
  }
  if (before.batch_size() != config.batch_size()) {
    changed.push_back("data.batch_size");
  }
  if (!changed.empty()) {
    notes.push_back(absl::StrCat("changed: ", absl::StrJoin(changed, ", "), "; the batches from data position ",
                                 training.data_position(), " on are others than the run's would have been"));
  }
  return notes;
}

}  // namespace waypoint::engine
