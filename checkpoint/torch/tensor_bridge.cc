#include "checkpoint/torch/tensor_bridge.h"

#include <algorithm>

#include "ATen/ATen.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

struct TypePair {
  at::ScalarType torch;
  DType dtype;
};

constexpr TypePair kTypes[] = {
    {at::kBool, DType::kBool},  {at::kByte, DType::kU8},          {at::kChar, DType::kI8},
    {at::kShort, DType::kI16},  {at::kInt, DType::kI32},          {at::kLong, DType::kI64},
    {at::kHalf, DType::kF16},   {at::kBFloat16, DType::kBF16},    {at::kFloat, DType::kF32},
    {at::kDouble, DType::kF64}, {at::kComplexFloat, DType::kC64},
};

// What a live tensor is to the manifest: a box of one of its tensors.
struct Held {
  at::Tensor tensor;
  Box box;
  int element_bytes = 0;
  // Elements can be addressed with plain strides on the CPU.
  bool on_cpu = false;
};

// The parts of each tensor of the manifest.
using HeldTensors = std::vector<std::vector<Held>>;

// Why `box` of `meta` is no further part of `known`; empty when it is one.
std::string AnotherPart(const TensorMeta& known, const TensorMeta& meta, const Box& box) {
  if (known.boxes.empty()) {
    return ", once whole";
  }
  if (known.shape != meta.shape || known.dtype != meta.dtype) {
    return absl::StrCat(", as ", DTypeName(known.dtype), " ", ShapeString(known.shape), " and as ",
                        DTypeName(meta.dtype), " ", ShapeString(meta.shape));
  }
  for (const Box& other : known.boxes) {
    if (Intersect(other, box).has_value()) {
      return absl::StrCat(", with boxes ", other.ToString(), " and ", box.ToString(), " that overlap");
    }
  }
  return "";
}

absl::StatusOr<HeldTensors> Hold(const LiveState& state, Manifest* manifest) {
  std::vector<TensorMeta> metas;
  HeldTensors held;
  absl::flat_hash_map<std::string, size_t> index_of;
  for (const LiveTensor& live : state) {
    const auto dtype = DTypeFromTorch(live.tensor.scalar_type());
    if (!dtype.ok()) {
      return Annotate(dtype.status(), absl::StrCat("tensor \"", live.name, "\""));
    }
    if (live.tensor.layout() != at::kStrided) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("tensor \"", live.name, "\" is not dense; make it so first"));
    }
    const Dims local(live.tensor.sizes().begin(), live.tensor.sizes().end());
    TensorMeta meta;
    meta.name = live.name;
    meta.dtype = *dtype;
    meta.shape = live.global_shape.empty() ? local : live.global_shape;
    Box box = live.global_shape.empty() ? Box::Whole(local) : live.box;
    if (box.sizes != local || !Contains(meta.shape, box)) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("tensor \"", live.name, "\": box ", box.ToString(),
                                                         " of shape ", ShapeString(meta.shape),
                                                         " does not describe a tensor of shape ", ShapeString(local)));
    }
    const auto [found, first] = index_of.emplace(live.name, metas.size());
    const size_t index = found->second;
    if (!first) {
      const std::string problem = AnotherPart(metas[index], meta, box);
      if (!problem.empty()) {
        return MakeError(ErrorKind::kDupKey, absl::StrCat("tensor \"", live.name, "\" is there twice", problem));
      }
    }
    if (!live.global_shape.empty()) {
      meta.boxes = {box};
    }
    if (first) {
      metas.push_back(std::move(meta));
      held.emplace_back();
    } else {
      metas[index].boxes.push_back(box);
    }
    // The tensor is only looked at: autograd must not see the writes.
    const bool lazy = live.tensor.is_conj() || live.tensor.is_neg();  // memory holds other values than the tensor
    held[index].push_back(
        {live.tensor.detach(), std::move(box), DTypeBytes(*dtype), live.tensor.device().is_cpu() && !lazy});
  }
  for (TensorMeta& meta : metas) {
    WAYPOINT_RETURN_IF_ERROR(manifest->Add(std::move(meta)));
  }
  return held;
}

// The memory of `box` (global coordinates) of a CPU tensor.
StridedSpan SpanOf(const Held& held, const Box& box) {
  StridedSpan span;
  span.data = static_cast<char*>(held.tensor.data_ptr());
  span.element_bytes = held.element_bytes;
  span.sizes = box.sizes;
  for (int d = 0; d < box.rank(); ++d) {
    const int64_t stride = held.tensor.stride(d) * held.element_bytes;
    span.strides.push_back(stride);
    span.data += (box.offsets[d] - held.box.offsets[d]) * stride;
  }
  return span;
}

// The part that a box lies in; null: none.
const Held* HeldWith(const std::vector<Held>& parts, const Box& box) {
  for (const Held& part : parts) {
    if (Intersect(box, part.box) == box) {
      return &part;
    }
  }
  return nullptr;
}

// libtorch throws; nothing of that leaves this file.
template <typename F>
absl::Status CatchTorch(F&& f) {
  try {
    f();
    return absl::OkStatus();
  } catch (const std::exception& e) {
    return ThrownError(e, ErrorKind::kUnknown, "libtorch");
  }
}

// The part of a tensor that a box describes, and a view of contiguous host memory with the same sizes.
absl::Status CopyDevice(const Held& held, const Box& box, const StridedSpan& host, bool to_host) {
  return CatchTorch([&] {
    c10::NoGradGuard no_grad;
    at::Tensor part = held.tensor;
    for (int d = 0; d < box.rank(); ++d) {
      part = part.narrow(d, box.offsets[d] - held.box.offsets[d], box.sizes[d]);
    }
    std::vector<int64_t> strides;
    for (const int64_t stride : host.strides) {
      strides.push_back(stride / host.element_bytes);
    }
    at::Tensor view = at::from_blob(host.data, at::IntArrayRef(host.sizes.data(), host.sizes.size()), strides,
                                    at::TensorOptions().dtype(held.tensor.scalar_type()));
    if (to_host) {
      view.copy_(part);
    } else {
      part.copy_(view);
    }
  });
}

class LiveSource : public TensorSource {
 public:
  static absl::StatusOr<std::unique_ptr<TensorSource>> Create(const LiveState& state) {
    auto source = std::make_unique<LiveSource>();
    WAYPOINT_ASSIGN_OR_RETURN(source->held_, Hold(state, &source->manifest_));
    return std::unique_ptr<TensorSource>(std::move(source));
  }

  const Manifest& manifest() const override { return manifest_; }

  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    for (const ReadRequest& request : requests) {
      if (request.box.empty()) {
        continue;
      }
      const Held* const held = HeldWith(held_[request.tensor], request.box);
      if (held == nullptr) {
        return MakeError(ErrorKind::kMissing, absl::StrCat("tensor \"", manifest_[request.tensor].name, "\": box ",
                                                           request.box.ToString(), " is not held here, only ",
                                                           absl::StrJoin(held_[request.tensor], ", ",
                                                                         [](std::string* out, const Held& part) {
                                                                           absl::StrAppend(out, part.box.ToString());
                                                                         })));
      }
      if (held->on_cpu) {
        CopyStrided(SpanOf(*held, request.box), request.to);
      } else {
        WAYPOINT_RETURN_IF_ERROR(CopyDevice(*held, request.box, request.to, /*to_host=*/true));
      }
    }
    return absl::OkStatus();
  }

 private:
  Manifest manifest_;
  HeldTensors held_;
};

class LiveSink : public TensorSink {
 public:
  static absl::StatusOr<std::unique_ptr<TensorSink>> Create(const LiveState& state, int64_t block_bytes) {
    auto sink = std::make_unique<LiveSink>();
    WAYPOINT_ASSIGN_OR_RETURN(sink->held_, Hold(state, &sink->manifest_));
    sink->PlanBlocks(block_bytes);
    return std::unique_ptr<TensorSink>(std::move(sink));
  }

  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override { return blocks_[index].block; }

  absl::Span<char> Destination(int64_t index) override {
    const Planned& planned = blocks_[index];
    if (!planned.in_place) {
      return {};
    }
    const Piece& piece = planned.block.pieces[0];
    return absl::MakeSpan(SpanOf(*HeldWith(held_[piece.tensor], piece.box), piece.box).data, planned.block.bytes);
  }

  absl::Status Write(int64_t index, absl::Span<char> data) override {
    const Planned& planned = blocks_[index];
    if (planned.in_place) {
      return absl::OkStatus();
    }
    for (const Piece& piece : planned.block.pieces) {
      const Held& held = *HeldWith(held_[piece.tensor], piece.box);
      const StridedSpan from =
          StridedSpan::Contiguous(data.data() + piece.offset_bytes, held.element_bytes, piece.box.sizes);
      if (held.on_cpu) {
        CopyStrided(from, SpanOf(held, piece.box));
      } else {
        WAYPOINT_RETURN_IF_ERROR(CopyDevice(held, piece.box, from, /*to_host=*/false));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  struct Planned {
    Block block;
    // One piece that is one run of the tensor's own memory.
    bool in_place = false;
  };

  // Large tensors are cut into runs of rows that are filled in place; small ones are read together.
  void PlanBlocks(int64_t block_bytes) {
    Planned small;
    const auto flush = [this, &small] {
      if (!small.block.pieces.empty()) {
        blocks_.push_back(std::move(small));
        small = Planned();
      }
    };
    std::vector<std::pair<size_t, const Held*>> parts;
    for (size_t tensor = 0; tensor < held_.size(); ++tensor) {
      for (const Held& held : held_[tensor]) {
        parts.emplace_back(tensor, &held);
      }
    }
    for (const auto& [tensor, part] : parts) {
      const Held& held = *part;
      const int64_t elements = held.box.num_elements();
      const int64_t bytes = elements * held.element_bytes;
      if (elements == 0) {
        continue;
      }
      if (bytes <= block_bytes / 4) {
        if (small.block.bytes + bytes > block_bytes) {
          flush();
        }
        // Elements of any width are aligned in the block.
        small.block.bytes = (small.block.bytes + 63) / 64 * 64;
        small.block.pieces.push_back({static_cast<int64_t>(tensor), held.box, small.block.bytes});
        small.block.bytes += bytes;
        continue;
      }
      flush();
      // Whole rows, or whole slices of more dimensions, where a block holds one: fewer, larger runs.
      const int64_t most = std::max<int64_t>(1, block_bytes / held.element_bytes);
      int64_t slice = 1;
      for (int d = held.box.rank() - 1; d > 0 && slice * held.box.sizes[d] <= most; --d) {
        slice *= held.box.sizes[d];
      }
      const int64_t step = most / slice * slice;
      for (int64_t begin = 0; begin < elements; begin += step) {
        for (Box& box : FlatRangeToBoxes(held.box.sizes, begin, std::min(begin + step, elements))) {
          for (int d = 0; d < box.rank(); ++d) {
            box.offsets[d] += held.box.offsets[d];
          }
          Planned planned;
          planned.block.bytes = box.num_elements() * held.element_bytes;
          planned.in_place = held.on_cpu && held.tensor.is_contiguous();
          planned.block.pieces.push_back({static_cast<int64_t>(tensor), std::move(box), 0});
          blocks_.push_back(std::move(planned));
        }
      }
    }
    flush();
  }

  Manifest manifest_;
  HeldTensors held_;
  std::vector<Planned> blocks_;
};

}  // namespace

absl::StatusOr<DType> DTypeFromTorch(at::ScalarType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.torch == type) {
      return pair.dtype;
    }
  }
  return MakeError(ErrorKind::kDType,
                   absl::StrCat("libtorch's type ", c10::toString(type), " has no counterpart in files"));
}

absl::StatusOr<at::ScalarType> DTypeToTorch(DType dtype) {
  for (const TypePair& pair : kTypes) {
    if (pair.dtype == dtype) {
      return pair.torch;
    }
  }
  return MakeError(ErrorKind::kDType, absl::StrCat("this libtorch has no type for ", DTypeName(dtype)));
}

absl::StatusOr<std::unique_ptr<TensorSource>> NewLiveSource(const LiveState& state) {
  return LiveSource::Create(state);
}

absl::StatusOr<std::unique_ptr<TensorSink>> NewLiveSink(const LiveState& state, int64_t block_bytes) {
  return LiveSink::Create(state, block_bytes);
}

}  // namespace waypoint
