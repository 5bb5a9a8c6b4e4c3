#include "models/llama/reference/rope_table_source.h"

#include <cmath>

#include "absl/memory/memory.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint::models {

absl::StatusOr<std::unique_ptr<RopeTableSource>> RopeTableSource::Create(TensorSource& inner,
                                                                         const std::vector<std::string>& names,
                                                                         double theta, int64_t head_size) {
  auto source = absl::WrapUnique(new RopeTableSource(inner));
  for (const TensorMeta& tensor : inner.manifest().tensors()) {
    WAYPOINT_RETURN_IF_ERROR(source->manifest_.Add(tensor));
  }
  for (const std::string& name : names) {
    WAYPOINT_RETURN_IF_ERROR(source->manifest_.Add({name, DType::kF32, {head_size / 2}, {}}));
  }
  for (int64_t i = 0; i < head_size / 2; ++i) {
    // The exponent in float32, as torch divides.
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_size);
    source->table_.push_back(1.0F / static_cast<float>(std::pow(theta, static_cast<double>(exponent))));
  }
  return source;
}

absl::Status RopeTableSource::Read(absl::Span<const ReadRequest> requests) {
  std::vector<ReadRequest> inner;
  for (const ReadRequest& request : requests) {
    if (request.tensor < inner_.manifest().size()) {
      inner.push_back(request);
      continue;
    }
    const char* first = reinterpret_cast<const char*>(table_.data() + request.box.offsets[0]);
    StridedSpan from = StridedSpan::Contiguous(const_cast<char*>(first), sizeof(float), request.box.sizes);
    CopyStrided(from, request.to);
  }
  return inner.empty() ? absl::OkStatus() : inner_.Read(inner);
}

}  // namespace waypoint::models
