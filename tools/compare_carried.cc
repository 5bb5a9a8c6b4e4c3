#include "tools/compare_carried.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/asset_copy.h"

namespace waypoint {
namespace {

constexpr char kOnlyInFirst[] = "only in the first";
constexpr char kOnlyInSecond[] = "only in the second";

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
