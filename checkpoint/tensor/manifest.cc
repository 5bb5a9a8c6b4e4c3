#include "checkpoint/tensor/manifest.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

absl::Status Manifest::Add(TensorMeta tensor) {
  const auto bytes = TensorBytes(tensor.dtype, tensor.shape);
  if (!bytes.ok()) {
    return Annotate(bytes.status(), absl::StrCat("tensor \"", tensor.name, "\""));
  }
  if (!index_.emplace(tensor.name, size()).second) {
    return MakeError(ErrorKind::kDupKey, absl::StrCat("tensor \"", tensor.name, "\" is there twice"));
  }
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

int64_t Manifest::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? -1 : it->second;
}

int64_t Manifest::total_bytes() const {
  int64_t total = 0;
  for (const TensorMeta& tensor : tensors_) {
    if (tensor.boxes.empty()) {
      total += tensor.num_bytes();
    }
    for (const Box& box : tensor.boxes) {
      total += box.num_elements() * DTypeBits(tensor.dtype) / 8;
    }
  }
  return total;
}

}  // namespace waypoint
