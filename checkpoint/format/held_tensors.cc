#include "checkpoint/format/held_tensors.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/ranges.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/held_tensors.pb.h"

namespace waypoint {
namespace {

constexpr size_t kKeyBytes = 64;

std::string Sha256Of(const std::string& bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return sha.Hex();
}

}  // namespace

std::string SerializeHeld(const Manifest& held) {
  HeldTensors message;
  for (const TensorMeta& meta : held.tensors()) {
    HeldTensors::Tensor* tensor = message.add_tensors();
    tensor->set_name(meta.name);
    tensor->set_dtype(static_cast<int32_t>(meta.dtype));
    tensor->mutable_shape()->Add(meta.shape.begin(), meta.shape.end());
    for (const Box& box : meta.boxes) {
      tensor->mutable_boxes()->Add(box.offsets.begin(), box.offsets.end());
      tensor->mutable_boxes()->Add(box.sizes.begin(), box.sizes.end());
    }
  }
  return message.SerializeAsString();
}

absl::StatusOr<Manifest> ParseHeld(absl::string_view bytes) {
  HeldTensors message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return MakeError(ErrorKind::kSchema, "a rank's list of tensors is no HeldTensors message");
  }
  Manifest held;
  for (const HeldTensors::Tensor& tensor : message.tensors()) {
    TensorMeta meta;
    meta.name = tensor.name();
    meta.dtype = static_cast<DType>(tensor.dtype());
    meta.shape.assign(tensor.shape().begin(), tensor.shape().end());
    if (tensor.dtype() < 0 || tensor.dtype() > 255 || DTypeBits(meta.dtype) == 0) {
      return MakeError(ErrorKind::kDType, absl::StrCat("a rank's tensor \"", tensor.name(),
                                                       "\" has unknown element type ", tensor.dtype()));
    }
    const auto rank = static_cast<int>(meta.shape.size());
    for (int i = 0; rank > 0 && i + 2 * rank <= tensor.boxes_size(); i += 2 * rank) {
      Box box;
      box.offsets.assign(tensor.boxes().begin() + i, tensor.boxes().begin() + i + rank);
      box.sizes.assign(tensor.boxes().begin() + i + rank, tensor.boxes().begin() + i + 2 * rank);
      meta.boxes.push_back(std::move(box));
    }
    WAYPOINT_RETURN_IF_ERROR(held.Add(std::move(meta)));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckRanges(message, "a rank's list of tensors", ErrorKind::kSchema));
  return held;
}

absl::StatusOr<bool> PlanRequest::IsCached(const absl::StatusOr<std::string>& held) {
  const auto mine = held.ok() ? absl::StatusOr<std::string>(
                                    absl::StrCat(Sha256Of(*held), cache_ == nullptr ? "" : cache_->entries_[kind_].key))
                              : held.status();
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            ranks_.AllGatherIfOk("digests of what ranks hold", mine, timeout_));
  std::string digests;
  for (const std::string& message : all) {
    digests += message.substr(0, kKeyBytes);
  }
  key_ = Sha256Of(digests);
  for (const std::string& message : all) {
    if (message.size() != 2 * kKeyBytes || message.substr(kKeyBytes) != key_) {
      return false;
    }
  }
  ++cache_->hits_;
  return true;
}

absl::StatusOr<std::vector<std::string>> PlanRequest::Gather(const std::string& held) {
  return ranks_.AllGather("what ranks hold", held, timeout_);
}

void PlanRequest::Keep(std::shared_ptr<const void> plan) {
  if (cache_ != nullptr) {
    cache_->entries_[kind_] = {key_, std::move(plan)};
  }
}

}  // namespace waypoint
