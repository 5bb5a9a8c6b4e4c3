#include "checkpoint/tensor/manifest.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr size_t kSlots = 16;  // at first; a power of two, as ever

}  // namespace

absl::Status Manifest::Add(TensorMeta tensor) {
  const auto bytes = TensorBytes(tensor.dtype, tensor.shape);
  if (!bytes.ok()) {
    return Annotate(bytes.status(), absl::StrCat("tensor \"", tensor.name, "\""));
  }
  if (2 * (tensors_.size() + 1) > slots_.size()) {
    slots_.assign(std::max(kSlots, 2 * slots_.size()), -1);
    for (int64_t i = 0; i < size(); ++i) {
      slots_[SlotOf(tensors_[i].name)] = i;
    }
  }
  int64_t& slot = slots_[SlotOf(tensor.name)];
  if (slot >= 0) {
    return MakeError(ErrorKind::kDupKey, absl::StrCat("tensor \"", tensor.name, "\" is there twice"));
  }
  slot = size();
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

// Where the name is or would be put.  Half of the slots are free at least.
size_t Manifest::SlotOf(absl::string_view name) const {
  size_t slot = absl::Hash<absl::string_view>()(name) & (slots_.size() - 1);
  while (slots_[slot] >= 0 && tensors_[slots_[slot]].name != name) {
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

int64_t Manifest::Find(absl::string_view name) const { return slots_.empty() ? -1 : slots_[SlotOf(name)]; }

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

DType MainDType(const std::vector<TensorMeta>& tensors) {
  std::map<DType, int64_t> bytes;
  for (const TensorMeta& tensor : tensors) {
    bytes[tensor.dtype] += tensor.num_bytes();
  }
  const auto main =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return main == bytes.end() ? DType::kInvalid : main->first;
}

}  // namespace waypoint
