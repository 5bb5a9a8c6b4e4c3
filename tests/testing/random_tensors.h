#ifndef TESTS_TESTING_RANDOM_TENSORS_H_
#define TESTS_TESTING_RANDOM_TENSORS_H_

// Random tensors of every element type of whole bytes, and what a source makes of them.  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/dtype.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/random_geometry.h"

namespace waypoint {

inline constexpr DType kWholeByteTypes[] = {
    DType::kBool,   DType::kU8,     DType::kI8,     DType::kU16,        DType::kI16,       DType::kU32, DType::kI32,
    DType::kU64,    DType::kI64,    DType::kF16,    DType::kBF16,       DType::kF32,       DType::kF64, DType::kC64,
    DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0, DType::kF8E4M3FNUZ, DType::kF8E5M2FNUZ};

inline void AddRandomTensor(const std::string& name, DType dtype, const Dims& shape, RandomGeometry* random,
                            MemorySource* source) {
  std::vector<char> bytes(NumElements(shape) * DTypeBits(dtype) / 8);
  for (char& byte : bytes) {
    byte = static_cast<char>(random->engine()());
  }
  source->Add(name, dtype, shape, bytes);
}

// Ranks 0 to 4; some tensors have no element.
inline std::unique_ptr<MemorySource> RandomTensors(int count, RandomGeometry* random) {
  auto source = std::make_unique<MemorySource>();
  for (int i = 0; i < count; ++i) {
    AddRandomTensor(absl::StrCat("tensor.", i), kWholeByteTypes[random->Pick(0, 18)], random->Shape(4, 7), random,
                    source.get());
  }
  return source;
}

// A box of a tensor, contiguous; empty when the read failed.
inline absl::StatusOr<std::vector<char>> ReadBox(TensorSource& source, int64_t tensor, const Box& box) {
  const TensorMeta& meta = source.manifest()[tensor];
  std::vector<char> bytes(box.num_elements() * DTypeBits(meta.dtype) / 8);
  StridedSpan to = StridedSpan::Contiguous(bytes.data(), DTypeBytes(meta.dtype), box.sizes);
  if (DTypeBytes(meta.dtype) == 0) {
    to = StridedSpan::Contiguous(bytes.data(), 1, {static_cast<int64_t>(bytes.size())});
  }
  const absl::Status status = source.Read({{tensor, box, to}});
  if (!status.ok()) {
    return status;
  }
  return bytes;
}

inline absl::StatusOr<std::vector<char>> ReadWhole(TensorSource& source, int64_t tensor) {
  return ReadBox(source, tensor, Box::Whole(source.manifest()[tensor].shape));
}

}  // namespace waypoint

#endif  // TESTS_TESTING_RANDOM_TENSORS_H_
