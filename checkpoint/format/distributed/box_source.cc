#include "checkpoint/format/distributed/box_source.h"

#include <algorithm>

#include "checkpoint/base/status_macros.h"

namespace waypoint {

absl::StatusOr<std::unique_ptr<BoxSource>> BoxSource::Create(Manifest tensors, std::unique_ptr<SafetensorsSource> files,
                                                             std::vector<std::vector<Entry>> entries) {
  auto source = std::unique_ptr<BoxSource>(new BoxSource(std::move(tensors), std::move(files)));
  for (int64_t tensor = 0; tensor < source->manifest_.size(); ++tensor) {
    std::vector<Box> boxes;
    std::vector<int64_t>& entry_of = source->entry_of_.emplace_back();
    for (Entry& entry : entries[tensor]) {
      boxes.push_back(std::move(entry.box));
      entry_of.push_back(entry.entry);
    }
    const TensorMeta& meta = source->manifest_[tensor];
    WAYPOINT_ASSIGN_OR_RETURN(ReadPlan plan, ReadPlan::Create(meta.name, meta.shape, std::move(boxes)));
    source->plans_.push_back(std::move(plan));
  }
  return source;
}

void BoxSource::AddStored(const ReadRequest& request, std::vector<ReadRequest>& stored) const {
  const ReadPlan& plan = plans_[request.tensor];
  for (const StoredPart& part : plan.Find(request.box)) {
    ReadRequest one;
    one.tensor = entry_of_[request.tensor][part.stored];
    one.box = part.box;
    one.to = request.to;
    one.cast = request.cast;
    const Box& from = plan.stored()[part.stored];
    for (int d = 0; d < from.rank(); ++d) {
      one.to = one.to.Narrow(d, part.box.offsets[d] - request.box.offsets[d], part.box.sizes[d]);
      one.box.offsets[d] -= from.offsets[d];
    }
    stored.push_back(std::move(one));
  }
}

bool BoxSource::CanCast(int64_t tensor) const {
  return std::all_of(entry_of_[tensor].begin(), entry_of_[tensor].end(),
                     [this](int64_t entry) { return files_->CanCast(entry); });
}

absl::Status BoxSource::Read(absl::Span<const ReadRequest> requests) {
  std::vector<ReadRequest> stored;
  for (const ReadRequest& request : requests) {
    AddStored(request, stored);
  }
  return files_->Read(stored);
}

void BoxSource::Expect(RequestList requests) {
  files_->Expect([&](absl::FunctionRef<void(absl::Span<const ReadRequest>)> visit) {
    requests([&](absl::Span<const ReadRequest> batch) {
      std::vector<ReadRequest> stored;
      for (const ReadRequest& request : batch) {
        AddStored(request, stored);
      }
      visit(stored);
    });
  });
}

}  // namespace waypoint
