#include "tools/compare_carried.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr char kOnlyInFirst[] = "only in the first";
constexpr char kOnlyInSecond[] = "only in the second";

// The offset of the first byte that differs, of files of one size; -1 when none does.
absl::StatusOr<int64_t> FirstDifference(FileSystem& fs, const Asset& a, const Asset& b) {
  constexpr int64_t kPieceBytes = int64_t{64} << 10;
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> first, fs.OpenForRead(a.path, OpenOptions()));
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> second, fs.OpenForRead(b.path, OpenOptions()));
  std::string left(kPieceBytes, '\0');
  std::string right(kPieceBytes, '\0');
  for (int64_t offset = 0; offset < a.size_bytes; offset += kPieceBytes) {
    const int64_t bytes = std::min(kPieceBytes, a.size_bytes - offset);
    WAYPOINT_RETURN_IF_ERROR(first->Read(offset, absl::MakeSpan(&left[0], bytes)));
    WAYPOINT_RETURN_IF_ERROR(second->Read(offset, absl::MakeSpan(&right[0], bytes)));
    const auto differing = std::mismatch(left.begin(), left.begin() + bytes, right.begin());
    if (differing.first != left.begin() + bytes) {
      return offset + (differing.first - left.begin());
    }
  }
  return -1;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> CompareCarriedFiles(FileSystem& fs, const OpenedCheckpoint& a,
                                                             const OpenedCheckpoint& b) {
  std::vector<std::string> differences;
  std::map<std::string, std::pair<const Asset*, const Asset*>> files;
  for (const Asset& asset : a.assets) {
    files[asset.name].first = &asset;
  }
  for (const Asset& asset : b.assets) {
    files[asset.name].second = &asset;
  }
  for (const auto& [name, pair] : files) {
    const auto& [first, second] = pair;
    const std::string where = absl::StrCat(QuotedPath(name), ": ");
    if (first == nullptr || second == nullptr) {
      differences.push_back(absl::StrCat(where, second == nullptr ? kOnlyInFirst : kOnlyInSecond));
    } else if (first->size_bytes != second->size_bytes) {
      differences.push_back(absl::StrCat(where, first->size_bytes, " bytes != ", second->size_bytes, " bytes"));
    } else {
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t offset, FirstDifference(fs, *first, *second));
      if (offset >= 0) {
        differences.push_back(absl::StrCat(where, "differs from byte ", offset, " on"));
      }
    }
  }
  return differences;
}

}  // namespace waypoint
