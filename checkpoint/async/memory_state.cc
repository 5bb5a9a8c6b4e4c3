#include "checkpoint/async/memory_state.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
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
      : manifest_(std::move(manifest)), state_(std::move(state)), copy_(std::move(copy)) {}

  const Manifest& manifest() const override { return manifest_; }

  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    for (const ReadRequest& request : requests) {
      if (request.box.empty()) {
        continue;
      }
      const MemoryTensor& tensor = state_[request.tensor];
      const auto inside = Intersect(request.box, tensor.box);
      if (!inside.has_value() || *inside != request.box) {
        return MakeError(ErrorKind::kMissing, absl::StrCat("tensor \"", tensor.name, "\": box ", request.box.ToString(),
                                                           " is not held here, only ", tensor.box.ToString()));
      }
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
};

}  // namespace

absl::StatusOr<Manifest> ManifestOf(const MemoryState& state) {
  Manifest manifest;
  for (const MemoryTensor& tensor : state) {
    WAYPOINT_RETURN_IF_ERROR(Check(tensor));
    TensorMeta meta;
    meta.name = tensor.name;
    meta.dtype = tensor.dtype;
    meta.shape = tensor.shape;
    if (tensor.box != Box::Whole(tensor.shape)) {
      meta.boxes = {tensor.box};
    }
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
