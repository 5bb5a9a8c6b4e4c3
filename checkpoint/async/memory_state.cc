#include "checkpoint/async/memory_state.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::Status Check(const MemoryTensor& tensor) {
  if (DTypeBytes(tensor.dtype) == 0) {
    return MakeError(ErrorKind::kDType, absl::StrCat("tensor \"", tensor.name, "\": elements of ",
                                                     DTypeName(tensor.dtype), " cannot be addressed in memory"));
  }
  if (!Contains(tensor.shape, tensor.box)) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("tensor \"", tensor.name, "\": box ", tensor.box.ToString(),
                                                       " is outside of shape ", ShapeString(tensor.shape)));
  }
  if (tensor.fetch) {
    return absl::OkStatus();
  }
  const StridedSpan& memory = tensor.memory;
  if (memory.sizes != tensor.box.sizes || memory.strides.size() != memory.sizes.size() ||
      memory.element_bytes != DTypeBytes(tensor.dtype) ||
      std::any_of(memory.strides.begin(), memory.strides.end(), [](int64_t stride) { return stride < 0; }) ||
      (memory.data == nullptr && !tensor.box.empty())) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("tensor \"", tensor.name, "\": memory of shape ", ShapeString(memory.sizes), " and ",
                                  memory.element_bytes, " bytes per element does not hold box ", tensor.box.ToString(),
                                  " of ", DTypeName(tensor.dtype)));
  }
  return absl::OkStatus();
}

class MemoryStateSource : public TensorSource {
 public:
  MemoryStateSource(Manifest manifest, MemoryState state, CopyFunction copy)
      : manifest_(std::move(manifest)), state_(std::move(state)), copy_(std::move(copy)) {
    parts_.resize(manifest_.size());
    for (const MemoryTensor& part : state_) {
      parts_[manifest_.Find(part.name)].push_back(&part);
    }
  }

  const Manifest& manifest() const override { return manifest_; }

  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    for (const ReadRequest& request : requests) {
      if (request.box.empty()) {
        continue;
      }
      const std::vector<const MemoryTensor*>& parts = parts_[request.tensor];
      const auto found = std::find_if(parts.begin(), parts.end(), [&request](const MemoryTensor* part) {
        return Intersect(request.box, part->box) == request.box;
      });
      if (found == parts.end()) {
        return MakeError(ErrorKind::kMissing,
                         absl::StrCat("tensor \"", manifest_[request.tensor].name, "\": box ", request.box.ToString(),
                                      " is not held here, only ",
                                      absl::StrJoin(parts, ", ", [](std::string* out, const MemoryTensor* part) {
                                        absl::StrAppend(out, part->box.ToString());
                                      })));
      }
      const MemoryTensor& tensor = **found;
      StridedSpan from = tensor.memory;
      for (int d = 0; d < request.box.rank(); ++d) {
        from = from.Narrow(d, request.box.offsets[d] - tensor.box.offsets[d], request.box.sizes[d]);
      }
      if (copy_) {
        WAYPOINT_RETURN_IF_ERROR(Annotate(copy_(from, request.to), absl::StrCat("tensor \"", tensor.name, "\"")));
      } else {
        CopyStrided(from, request.to);
      }
    }
    return absl::OkStatus();
  }

 private:
  const Manifest manifest_;
  const MemoryState state_;
  const CopyFunction copy_;
  // By tensor of the manifest.
  std::vector<std::vector<const MemoryTensor*>> parts_;
};

}  // namespace

absl::StatusOr<Manifest> ManifestOf(const MemoryState& state) {
  std::vector<TensorMeta> metas;
  absl::flat_hash_map<absl::string_view, size_t> index_of;
  for (const MemoryTensor& tensor : state) {
    WAYPOINT_RETURN_IF_ERROR(Check(tensor));
    const auto [found, first] = index_of.emplace(tensor.name, metas.size());
    if (!first) {
      TensorMeta& known = metas[found->second];
      const bool fits = !known.boxes.empty() && known.shape == tensor.shape && known.dtype == tensor.dtype &&
                        std::none_of(known.boxes.begin(), known.boxes.end(),
                                     [&tensor](const Box& box) { return Intersect(box, tensor.box).has_value(); });
      if (!fits) {
        return MakeError(ErrorKind::kDupKey,
                         absl::StrCat("tensor \"", tensor.name, "\" is there twice, and box ", tensor.box.ToString(),
                                      " of ", ShapeString(tensor.shape), " is no further part of it"));
      }
      known.boxes.push_back(tensor.box);
      continue;
    }
    TensorMeta meta;
    meta.name = tensor.name;
    meta.dtype = tensor.dtype;
    meta.shape = tensor.shape;
    if (tensor.box != Box::Whole(tensor.shape)) {
      meta.boxes = {tensor.box};
    }
    metas.push_back(std::move(meta));
  }
  Manifest manifest;
  for (TensorMeta& meta : metas) {
    WAYPOINT_RETURN_IF_ERROR(manifest.Add(std::move(meta)));
  }
  return manifest;
}

AddressRange AddressesOf(const StridedSpan& span) {
  const char* last = span.data;
  for (size_t d = 0; d < span.sizes.size(); ++d) {
    if (span.sizes[d] == 0) {
      return {span.data, span.data};
    }
    last += (span.sizes[d] - 1) * span.strides[d];
  }
  return {span.data, last + span.element_bytes};
}

absl::StatusOr<std::unique_ptr<TensorSource>> NewMemoryStateSource(MemoryState state, CopyFunction copy) {
  WAYPOINT_ASSIGN_OR_RETURN(Manifest manifest, ManifestOf(state));
  for (const MemoryTensor& tensor : state) {
    if (tensor.fetch) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("tensor \"", tensor.name, "\" has no memory that the CPU can read"));
    }
  }
  return std::unique_ptr<TensorSource>(
      absl::make_unique<MemoryStateSource>(std::move(manifest), std::move(state), std::move(copy)));
}

}  // namespace waypoint
