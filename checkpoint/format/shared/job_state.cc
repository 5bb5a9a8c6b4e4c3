#include "checkpoint/format/shared/job_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// The part of a span that holds `part`, where the span holds `box`.
StridedSpan PartOf(const StridedSpan& span, const Box& box, const Box& part) {
  StridedSpan result = span;
  for (int d = 0; d < box.rank(); ++d) {
    result = result.Narrow(d, part.offsets[d] - box.offsets[d], part.sizes[d]);
  }
  return result;
}

// Takes what `available` has out of `missing`, and shows it.
void Take(const Box& available, std::vector<Box>* missing, absl::FunctionRef<void(const Box& part)> visit) {
  std::vector<Box> left;
  for (const Box& box : *missing) {
    const absl::optional<Box> common = Intersect(box, available);
    if (!common.has_value()) {
      left.push_back(box);
      continue;
    }
    visit(*common);
    for (Box& piece : Subtract(box, available)) {
      left.push_back(std::move(piece));
    }
  }
  *missing = std::move(left);
}

}  // namespace

JobState::JobState(TensorSource& mine, std::shared_ptr<const JobLayout> layout)
    : mine_(mine), layout_(std::move(layout)) {
  for (const TensorMeta& tensor : layout_->tensors().tensors()) {
    own_index_.push_back(mine.manifest().Find(tensor.name));
  }
}

void JobState::Stage(const std::vector<StagedPart>& parts) {
  staged_.clear();
  for (const StagedPart& part : parts) {
    staged_[part.tensor].push_back(part);
  }
}

ReadRequest JobState::Own(int64_t tensor, const Box& box, const StridedSpan& to) const {
  return {own_index_[tensor], box, to};
}

absl::Status JobState::Read(absl::Span<const ReadRequest> requests) {
  std::vector<ReadRequest> own;
  for (const ReadRequest& request : requests) {
    if (request.box.empty()) {
      continue;
    }
    std::vector<Box> missing = {request.box};
    const int64_t index = own_index_[request.tensor];
    if (index >= 0) {
      const TensorMeta& meta = mine_.manifest()[index];
      const auto read = [&](const Box& part) { own.push_back({index, part, PartOf(request.to, request.box, part)}); };
      if (meta.boxes.empty()) {
        Take(Box::Whole(meta.shape), &missing, read);
      }
      for (const Box& box : meta.boxes) {
        Take(box, &missing, read);
      }
    }
    const auto staged = staged_.find(request.tensor);
    if (staged != staged_.end()) {
      for (const StagedPart& part : staged->second) {
        const StridedSpan from = StridedSpan::Contiguous(part.data, request.to.element_bytes, part.box.sizes);
        Take(part.box, &missing, [&](const Box& common) {
          CopyStrided(PartOf(from, part.box, common), PartOf(request.to, request.box, common));
        });
      }
    }
    if (!missing.empty()) {
      return MakeError(ErrorKind::kRank, absl::StrCat("tensor \"", manifest()[request.tensor].name, "\" ",
                                                      missing[0].ToString(), " is neither here nor was it sent"));
    }
  }
  return mine_.Read(own);
}

}  // namespace waypoint
