#include "checkpoint/plan/read_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

namespace waypoint {

absl::StatusOr<ReadPlan> ReadPlan::Create(absl::string_view tensor_name, const Dims& shape, std::vector<Box> stored) {
  for (const Box& box : stored) {
    if (!Contains(shape, box)) {
      return MakeError(ErrorKind::kSchema, absl::StrCat("tensor \"", tensor_name, "\": stored box ", box.ToString(),
                                                        " is outside of shape ", ShapeString(shape)));
    }
  }
  ReadPlan plan(std::move(stored));
  int64_t elements = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(plan.stored().size()); ++i) {
    const Box& box = plan.stored()[i];
    int64_t other = -1;
    plan.index_.ForEachOverlap(box, [&other, i](int64_t index) {
      other = index == i ? -1 : index;
      return other < 0;
    });
    if (other >= 0) {
      return MakeError(ErrorKind::kAmbiguous,
                       absl::StrCat("tensor \"", tensor_name, "\": boxes ", box.ToString(), " and ",
                                    plan.stored()[other].ToString(), " are both stored and overlap"));
    }
    // Disjoint so far and inside the shape, whose elements fit.
    elements += box.num_elements();
  }
  if (elements != NumElements(shape)) {
    const absl::optional<Box> hole = plan.index_.FindHole(Box::Whole(shape));
    return MakeError(ErrorKind::kMissing,
                     absl::StrCat("tensor \"", tensor_name, "\": nothing is stored of ",
                                  hole.has_value() ? hole->ToString() : "its end", " of shape ", ShapeString(shape)));
  }
  return plan;
}

std::vector<StoredPart> ReadPlan::Find(const Box& wanted) const {
  std::vector<StoredPart> parts;
  index_.ForEachOverlap(wanted, [&](int64_t index) {
    parts.push_back({index, *Intersect(index_.boxes()[index], wanted)});
    return true;
  });
  std::sort(parts.begin(), parts.end(), [](const StoredPart& a, const StoredPart& b) { return a.stored < b.stored; });
  return parts;
}

}  // namespace waypoint
