#include "checkpoint/container/torch_zip/pickle_globals.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"

namespace waypoint {
namespace {

constexpr absl::string_view kTorch = "torch";
constexpr absl::string_view kTorchUtils = "torch._utils";

constexpr PickleGlobal kGlobals[] = {
    {kTorchUtils, "_rebuild_tensor_v2", PickleMeaning::kRebuildTensor},
    {kTorchUtils, "_rebuild_tensor_v3", PickleMeaning::kRebuildTensorOfDType},
    {kTorchUtils, "_rebuild_parameter", PickleMeaning::kRebuildParameter},
    {"collections", "OrderedDict", PickleMeaning::kOrderedDict},
    {kTorch, "Size", PickleMeaning::kSize},
    {kTorch, "device", PickleMeaning::kInert},
    // The module is called __builtin__ in protocol 2.
    {"__builtin__", "set", PickleMeaning::kSet},
    {"__builtin__", "frozenset", PickleMeaning::kSet},
    {"__builtin__", "bytes", PickleMeaning::kBytes},
    {"__builtin__", "bytearray", PickleMeaning::kBytes},
    {"__builtin__", "complex", PickleMeaning::kInert},
    {"builtins", "set", PickleMeaning::kSet},
    {"builtins", "frozenset", PickleMeaning::kSet},
    {"builtins", "bytes", PickleMeaning::kBytes},
    {"builtins", "bytearray", PickleMeaning::kBytes},
    {"builtins", "complex", PickleMeaning::kInert},
    {"_codecs", "encode", PickleMeaning::kBytes},

    {kTorch, "BoolStorage", PickleMeaning::kStorage, DType::kBool},
    {kTorch, "ByteStorage", PickleMeaning::kStorage, DType::kU8},
    {kTorch, "CharStorage", PickleMeaning::kStorage, DType::kI8},
    {kTorch, "ShortStorage", PickleMeaning::kStorage, DType::kI16},
    {kTorch, "IntStorage", PickleMeaning::kStorage, DType::kI32},
    {kTorch, "LongStorage", PickleMeaning::kStorage, DType::kI64},
    {kTorch, "HalfStorage", PickleMeaning::kStorage, DType::kF16},
    {kTorch, "BFloat16Storage", PickleMeaning::kStorage, DType::kBF16},
    {kTorch, "FloatStorage", PickleMeaning::kStorage, DType::kF32},
    {kTorch, "DoubleStorage", PickleMeaning::kStorage, DType::kF64},
    {kTorch, "ComplexFloatStorage", PickleMeaning::kStorage, DType::kC64},
    {kTorch, "UntypedStorage", PickleMeaning::kStorage},
    {"torch.storage", "UntypedStorage", PickleMeaning::kStorage},

    {kTorch, "bool", PickleMeaning::kDType, DType::kBool},
    {kTorch, "uint8", PickleMeaning::kDType, DType::kU8},
    {kTorch, "int8", PickleMeaning::kDType, DType::kI8},
    {kTorch, "uint16", PickleMeaning::kDType, DType::kU16},
    {kTorch, "int16", PickleMeaning::kDType, DType::kI16},
    {kTorch, "uint32", PickleMeaning::kDType, DType::kU32},
    {kTorch, "int32", PickleMeaning::kDType, DType::kI32},
    {kTorch, "uint64", PickleMeaning::kDType, DType::kU64},
    {kTorch, "int64", PickleMeaning::kDType, DType::kI64},
    {kTorch, "float16", PickleMeaning::kDType, DType::kF16},
    {kTorch, "bfloat16", PickleMeaning::kDType, DType::kBF16},
    {kTorch, "float32", PickleMeaning::kDType, DType::kF32},
    {kTorch, "float64", PickleMeaning::kDType, DType::kF64},
    {kTorch, "complex64", PickleMeaning::kDType, DType::kC64},
    {kTorch, "float8_e4m3fn", PickleMeaning::kDType, DType::kF8E4M3},
    {kTorch, "float8_e5m2", PickleMeaning::kDType, DType::kF8E5M2},
    {kTorch, "float8_e8m0fnu", PickleMeaning::kDType, DType::kF8E8M0},
    {kTorch, "float8_e4m3fnuz", PickleMeaning::kDType, DType::kF8E4M3FNUZ},
    {kTorch, "float8_e5m2fnuz", PickleMeaning::kDType, DType::kF8E5M2FNUZ},
    // Only as values of a setting: no tensor of these can be read.
    {kTorch, "complex32", PickleMeaning::kDType},
    {kTorch, "complex128", PickleMeaning::kDType},
    {kTorch, "float4_e2m1fn_x2", PickleMeaning::kDType},
    {kTorch, "qint8", PickleMeaning::kDType},
    {kTorch, "quint8", PickleMeaning::kDType},
    {kTorch, "qint32", PickleMeaning::kDType},
    {kTorch, "quint4x2", PickleMeaning::kDType},
    {kTorch, "quint2x4", PickleMeaning::kDType},
};

// Tensors that are more than elements in a storage.
constexpr absl::string_view kNotPlain[][2] = {
    {kTorchUtils, "_rebuild_qtensor"},
    {kTorchUtils, "_rebuild_sparse_tensor"},
    {kTorchUtils, "_rebuild_sparse_csr_tensor"},
    {kTorchUtils, "_rebuild_nested_tensor"},
    {kTorchUtils, "_rebuild_meta_tensor_no_storage"},
    {kTorchUtils, "_rebuild_wrapper_subclass"},
    {kTorchUtils, "_rebuild_device_tensor_from_numpy"},
    {kTorchUtils, "_rebuild_device_tensor_from_cpu_tensor"},
    {kTorchUtils, "_rebuild_parameter_with_state"},
    {"torch._tensor", "_rebuild_from_type_v2"},
};

constexpr absl::string_view kOtherStorages[] = {"QInt8Storage",      "QUInt8Storage",   "QInt32Storage",
                                                "QUInt4x2Storage",   "QUInt2x4Storage", "ComplexDoubleStorage",
                                                "ComplexHalfStorage"};

absl::string_view NameInTorch(PickleMeaning meaning, DType dtype) {
  for (const PickleGlobal& global : kGlobals) {
    if (global.module == kTorch && global.meaning == meaning && global.dtype == dtype && dtype != DType::kInvalid) {
      return global.name;
    }
  }
  return "";
}

}  // namespace

absl::string_view TorchStorageName(DType dtype) { return NameInTorch(PickleMeaning::kStorage, dtype); }

absl::string_view TorchDTypeName(DType dtype) { return NameInTorch(PickleMeaning::kDType, dtype); }

absl::StatusOr<const PickleGlobal*> FindPickleGlobal(absl::string_view module, absl::string_view name) {
  for (const PickleGlobal& global : kGlobals) {
    if (global.module == module && global.name == name) {
      return &global;
    }
  }
  const std::string shown = absl::StrCat(Quoted(module), " ", Quoted(name));
  for (const auto& known : kNotPlain) {
    if (known[0] == module && known[1] == name) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat(shown,
                                    " makes a tensor that is not plain (sparse, quantised, without data, or with "
                                    "attributes), which is not read; save plain tensors"));
    }
  }
  for (const absl::string_view storage : kOtherStorages) {
    if (module == kTorch && storage == name) {
      return MakeError(ErrorKind::kDType, absl::StrCat(shown, " holds elements of a type that is not read"));
    }
  }
  return MakeError(ErrorKind::kCode, absl::StrCat(shown,
                                                  " is not among the names that a weights file may use; it was "
                                                  "not called, and never is"));
}

}  // namespace waypoint
