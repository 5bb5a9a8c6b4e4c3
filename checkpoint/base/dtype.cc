#include "checkpoint/base/dtype.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

struct DTypeRow {
  DType dtype;
  int bits;
  const char* name;        // safetensors, README.md of the format and tensor.rs `Dtype`
  const char* torch_name;  // torch/csrc/utils/tensor_dtypes.cpp
};

constexpr DTypeRow kRows[] = {
    {DType::kInvalid, 0, "INVALID", ""},
    {DType::kBool, 8, "BOOL", "bool"},
    {DType::kU8, 8, "U8", "uint8"},
    {DType::kI8, 8, "I8", "int8"},
    {DType::kU16, 16, "U16", "uint16"},
    {DType::kI16, 16, "I16", "int16"},
    {DType::kU32, 32, "U32", "uint32"},
    {DType::kI32, 32, "I32", "int32"},
    {DType::kU64, 64, "U64", "uint64"},
    {DType::kI64, 64, "I64", "int64"},
    {DType::kF16, 16, "F16", "float16"},
    {DType::kBF16, 16, "BF16", "bfloat16"},
    {DType::kF32, 32, "F32", "float32"},
    {DType::kF64, 64, "F64", "float64"},
    {DType::kC64, 64, "C64", "complex64"},
    {DType::kF8E4M3, 8, "F8_E4M3", "float8_e4m3fn"},
    {DType::kF8E5M2, 8, "F8_E5M2", "float8_e5m2"},
    {DType::kF8E8M0, 8, "F8_E8M0", "float8_e8m0fnu"},
    {DType::kF8E4M3FNUZ, 8, "F8_E4M3FNUZ", "float8_e4m3fnuz"},
    {DType::kF8E5M2FNUZ, 8, "F8_E5M2FNUZ", "float8_e5m2fnuz"},
    {DType::kF6E2M3, 6, "F6_E2M3", ""},
    {DType::kF6E3M2, 6, "F6_E3M2", ""},
    {DType::kF4, 4, "F4", "float4_e2m1fn_x2"},
};

const DTypeRow& RowOf(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  return index < sizeof(kRows) / sizeof(kRows[0]) ? kRows[index] : kRows[0];
}

}  // namespace

int DTypeBits(DType dtype) { return RowOf(dtype).bits; }

int DTypeBytes(DType dtype) { return RowOf(dtype).bits % 8 == 0 ? RowOf(dtype).bits / 8 : 0; }

absl::string_view DTypeName(DType dtype) { return RowOf(dtype).name; }

DType DTypeFromName(absl::string_view name) {
  for (const DTypeRow& row : kRows) {
    if (row.dtype != DType::kInvalid && name == row.name) {
      return row.dtype;
    }
  }
  return DType::kInvalid;
}

absl::string_view DTypeTorchName(DType dtype) { return RowOf(dtype).torch_name; }

DType DTypeFromTorchName(absl::string_view name) {
  for (const DTypeRow& row : kRows) {
    if (!name.empty() && name == row.torch_name) {
      return row.dtype;
    }
  }
  return DType::kInvalid;
}

bool IsCastable(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 || dtype == DType::kF64;
}

absl::StatusOr<int64_t> TensorBytes(DType dtype, absl::Span<const int64_t> shape) {
  int64_t elements = 0;
  int64_t bits = 0;
  if (!CheckedNumElements(shape, &elements) || !CheckedMul(elements, DTypeBits(dtype), &bits)) {
    return MakeError(ErrorKind::kOverflow, absl::StrCat("shape [", absl::StrJoin(shape, ", "), "] of ",
                                                        DTypeName(dtype), " does not fit 63 bits"));
  }
  if (bits % 8 != 0) {
    return MakeError(ErrorKind::kSizeMismatch, absl::StrCat("shape [", absl::StrJoin(shape, ", "), "] of ",
                                                            DTypeName(dtype), " is no whole number of bytes"));
  }
  return bits / 8;
}

}  // namespace waypoint
