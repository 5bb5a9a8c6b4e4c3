#include "checkpoint/container/torch_zip/pickle_writer.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/pickle_globals.h"
#include "checkpoint/container/torch_zip/zip_records.h"

namespace waypoint {
namespace {

// Opcodes: Python, Lib/pickletools.py.
class Writer {
 public:
  // PROTO 2, then an open dict.
  explicit Writer(const PickledWrapper& wrapper) : wrapper_(wrapper) {
    out_.append("\x80\x02}(", 4);  // EMPTY_DICT, MARK
    if (!wrapper_.key.empty()) {
      Text(wrapper_.key);
      OrderedDict();
      out_ += '(';
    }
  }

  void Tensor(const PickledTensorEntry& entry) {
    // All elements lie in a storage of their own type, or, for the newer types, in one of bytes.
    const absl::string_view storage_name = TorchStorageName(entry.dtype);
    const bool typed = !storage_name.empty();
    const int64_t elements = NumElements(entry.shape);
    Text(entry.key);
    Global("torch._utils", typed ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
    out_ += '(';
    out_ += '(';
    Text("storage");
    Global(typed ? "torch" : "torch.storage", typed ? storage_name : "UntypedStorage");
    Text(absl::StrCat(entry.storage));
    Text("cpu");
    Int(typed ? elements : elements * DTypeBytes(entry.dtype));
    out_ += "tQ";  // TUPLE, BINPERSID
    Int(0);        // offset
    Tuple(entry.shape);
    Dims strides(entry.shape.size(), 1);
    for (size_t d = strides.size(); d-- > 1;) {
      // As torch strides an empty tensor.
      strides[d - 1] = strides[d] * std::max<int64_t>(entry.shape[d], 1);
    }
    Tuple(strides);
    out_ += '\x89';  // NEWFALSE: requires_grad
    OrderedDict();   // no hooks
    if (!typed) {
      Global("torch", TorchDTypeName(entry.dtype));
    }
    out_ += "tR";
  }

  std::string Finish() && {
    out_ += 'u';  // SETITEMS
    if (!wrapper_.key.empty()) {
      for (const auto& [key, text] : wrapper_.texts) {
        Text(key);
        Text(text);
      }
      for (const std::string& key : wrapper_.flags) {
        Text(key);
        out_ += '\x88';  // NEWTRUE
      }
      out_ += 'u';
    }
    out_ += '.';  // STOP
    return std::move(out_);
  }

 private:
  void OrderedDict() {
    Global("collections", "OrderedDict");
    out_ += ")R";  // EMPTY_TUPLE, REDUCE
  }

  void Text(absl::string_view text) {
    out_ += 'X';
    AppendZipField(text.size(), 4, &out_);
    absl::StrAppend(&out_, text);
  }

  void Global(absl::string_view module, absl::string_view name) {
    absl::StrAppend(&out_, "c", module, "\n", name, "\n");
  }

  // BININT1, BININT2, BININT, LONG1.
  void Int(int64_t value) {
    if (value <= UINT8_MAX) {
      out_ += 'K';
      AppendZipField(value, 1, &out_);
    } else if (value <= UINT16_MAX) {
      out_ += 'M';
      AppendZipField(value, 2, &out_);
    } else if (value <= INT32_MAX) {
      out_ += 'J';
      AppendZipField(value, 4, &out_);
    } else {
      out_.append("\x8a\x08", 2);
      AppendZipField(value, 8, &out_);
    }
  }

  void Tuple(absl::Span<const int64_t> values) {
    if (values.empty()) {
      out_ += ')';
      return;
    }
    out_ += '(';
    for (const int64_t value : values) {
      Int(value);
    }
    out_ += 't';
  }

  const PickledWrapper& wrapper_;
  std::string out_;
};

// Keys of the root, of which none may be there twice.
absl::Status CheckWrapper(const PickledWrapper& wrapper) {
  if (wrapper.key.empty() && (!wrapper.texts.empty() || !wrapper.flags.empty())) {
    return MakeError(ErrorKind::kRequest, "values beside the tensors need a key for the tensors");
  }
  std::vector<absl::string_view> names = {wrapper.key};
  for (const auto& [key, text] : wrapper.texts) {
    names.push_back(key);
    WAYPOINT_RETURN_IF_ERROR(CheckUtf8(text, "text"));
  }
  names.insert(names.end(), wrapper.flags.begin(), wrapper.flags.end());
  absl::flat_hash_set<absl::string_view> keys;
  for (const absl::string_view name : names) {
    WAYPOINT_RETURN_IF_ERROR(CheckUtf8(name, "key"));
    if (!keys.insert(name).second) {
      return MakeError(ErrorKind::kDupKey, absl::StrCat("key ", Quoted(name), " is to be written twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> PickleTensorDict(const std::vector<PickledTensorEntry>& entries,
                                             const PickledWrapper& wrapper) {
  WAYPOINT_RETURN_IF_ERROR(CheckWrapper(wrapper));
  Writer writer(wrapper);
  absl::flat_hash_set<absl::string_view> keys;
  for (const PickledTensorEntry& entry : entries) {
    WAYPOINT_RETURN_IF_ERROR(CheckUtf8(entry.key, "tensor name"));
    if (!keys.insert(entry.key).second) {
      return MakeError(ErrorKind::kDupKey, absl::StrCat("tensor ", Quoted(entry.key), " is to be written twice"));
    }
    if (DTypeBytes(entry.dtype) == 0 ||
        (TorchStorageName(entry.dtype).empty() && TorchDTypeName(entry.dtype).empty())) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat("tensor ", Quoted(entry.key), " is ", DTypeName(entry.dtype),
                                    ", which files of PyTorch cannot hold; write safetensors"));
    }
    writer.Tensor(entry);
  }
  return std::move(writer).Finish();
}

}  // namespace waypoint
