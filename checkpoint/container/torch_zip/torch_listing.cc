#include "checkpoint/container/torch_zip/torch_listing.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/strided_runs.h"
#include "checkpoint/container/torch_zip/unfolded_bytes.h"

namespace waypoint {
namespace {

// Enough for settings and counters; a checkpoint may also hold long lists of numbers.
constexpr size_t kMaxValues = 10'000;
constexpr size_t kMaxValueBytes = 256;
// Names are put together for every item that is visited, also for those that are not listed in the end.
constexpr int64_t kNameBytesFactor = 8;

// Cut between characters of UTF-8.
std::string Shortened(absl::string_view text) {
  size_t end = std::min(text.size(), kMaxValueBytes);
  while (end < text.size() && end > 0 && (text[end] & 0xC0) == 0x80) {
    --end;
  }
  return std::string(text.substr(0, end));
}

// Of a tensor that is read piece by piece.
constexpr int64_t kBlockBytes = int64_t{8} << 20;
// What a run of elements costs that is shorter, as one that is so long.
constexpr int64_t kRunBytes = 16;

// Does its row-major order go through the storage from front to back?
bool LiesInOrder(const TorchTensor& tensor) {
  int64_t least = INT64_MAX;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] != 1) {
      if (tensor.strides[d] > least) {
        return false;
      }
      least = tensor.strides[d];
    }
  }
  return true;
}

class Lister {
 public:
  Lister(const PickleTree& tree, absl::string_view what, const Limits& limits, TorchContents* contents)
      : tree_(tree), what_(what), limits_(limits), contents_(contents), unfolded_(limits, contents->file_bytes) {}

  absl::Status Run() {
    if (!tree_.IsDict(tree_.root)) {
      return MakeError(ErrorKind::kSchema,
                       absl::StrCat(what_, ": the file holds ", PickleKindName(tree_.kind(tree_.root)),
                                    ", must hold a dict of tensors"));
    }
    std::vector<Step> path = {{tree_.root, 0, 0}};
    while (!path.empty()) {
      Step& step = path.back();
      name_.resize(step.name_bytes);
      const absl::Span<const PickleRef> items = tree_.Items(step.ref);
      if (step.next == items.size()) {
        path.pop_back();
        continue;
      }
      // A few bytes can repeat a container many times in each of many others.
      if (++visited_ > limits_.pickle_values) {
        return Limit("values, counted as often as they occur", "pickle_values", limits_.pickle_values);
      }
      if (!name_.empty()) {
        name_.push_back('.');
      }
      if (tree_.IsDict(step.ref)) {
        AppendKey(items[step.next]);
        ++step.next;
      } else {
        absl::StrAppend(&name_, step.next);
      }
      const PickleRef item = items[step.next++];
      appended_bytes_ += static_cast<int64_t>(name_.size() - step.name_bytes);
      if (appended_bytes_ / kNameBytesFactor > limits_.torch_listing_bytes) {
        return Limit("names, counted as often as they occur", "8 * torch_listing_bytes",
                     kNameBytesFactor * limits_.torch_listing_bytes);
      }
      if (static_cast<int64_t>(name_.size()) > limits_.tensor_name_bytes) {
        return Limit(absl::StrCat("name ", Quoted(name_)), "tensor_name_bytes", limits_.tensor_name_bytes);
      }
      if (HoldsOthers(item)) {
        path.push_back({item, 0, name_.size()});
      } else if (tree_.kind(item) == PickleKind::kTensor) {
        WAYPOINT_RETURN_IF_ERROR(Annotate(AddTensor(tree_.Tensor(item)), absl::StrCat(what_, ": ", Quoted(name_))));
      } else {
        WAYPOINT_RETURN_IF_ERROR(AddValue(item));
      }
    }
    return absl::OkStatus();
  }

  int64_t unfolded_bytes() const { return unfolded_.sum(); }

 private:
  struct Step {
    PickleRef ref;
    size_t next;
    size_t name_bytes;
  };

  absl::Status Limit(absl::string_view subject, absl::string_view limit_name, int64_t limit) const {
    return MakeError(ErrorKind::kLimit, absl::StrCat(what_, ": ", subject, " is over ", limit_name, " = ", limit));
  }

  bool HoldsOthers(PickleRef ref) const {
    const PickleKind kind = tree_.kind(ref);
    return tree_.IsDict(ref) || kind == PickleKind::kList || kind == PickleKind::kTuple;
  }

  void AppendKey(PickleRef key) {
    switch (tree_.kind(key)) {
      case PickleKind::kText:
        absl::StrAppend(&name_, tree_.Text(key));
        break;
      case PickleKind::kBool:
        absl::StrAppend(&name_, tree_.Integer(key) != 0 ? "True" : "False");
        break;
      case PickleKind::kInteger:
        absl::StrAppend(&name_, tree_.Integer(key));
        break;
      default:
        absl::StrAppend(&name_, "None");
    }
  }

  absl::Status AddTensor(const PickleTensor& from) {
    const absl::Span<const PickleRef> shape = tree_.Items(from.shape);
    const absl::Span<const PickleRef> strides = tree_.Items(from.strides);
    listing_bytes_ += static_cast<int64_t>(sizeof(TorchTensor) + name_.size() + 16 * shape.size());
    if (listing_bytes_ > limits_.torch_listing_bytes) {
      return Limit("the list of tensors", "torch_listing_bytes", limits_.torch_listing_bytes);
    }
    if (static_cast<int64_t>(contents_->tensors.size()) >= limits_.torch_tensors) {
      return Limit("the number of tensors", "torch_tensors", limits_.torch_tensors);
    }
    if (name_.find('\0') != std::string::npos) {
      return MakeError(ErrorKind::kSchema, "the name holds a NUL");
    }
    if (!names_.insert(name_).second) {
      return MakeError(ErrorKind::kDupKey, "two tensors have this name");
    }
    TorchTensor tensor;
    tensor.name = name_;
    tensor.dtype = from.dtype;
    tensor.storage = from.storage;
    tensor.offset = from.offset;
    for (size_t d = 0; d < shape.size(); ++d) {
      tensor.shape.push_back(tree_.Integer(shape[d]));
      tensor.strides.push_back(tree_.Integer(strides[d]));
    }
    WAYPOINT_RETURN_IF_ERROR(CheckGeometry(tensor));
    contents_->tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status CheckGeometry(const TorchTensor& tensor) {
    const TorchStorage& storage = contents_->storages[tensor.storage];
    const auto outside = [&](absl::string_view problem) {
      return MakeError(ErrorKind::kStorage,
                       absl::StrCat("shape ", ShapeString(tensor.shape), ", strides ", ShapeString(tensor.strides),
                                    ", offset ", tensor.offset, " of ", DTypeName(tensor.dtype), " in storage ",
                                    Quoted(storage.key), " of ", storage.bytes, " bytes: ", problem));
    };
    bool negative = tensor.offset < 0;
    for (size_t d = 0; d < tensor.shape.size(); ++d) {
      negative = negative || tensor.shape[d] < 0 || tensor.strides[d] < 0;
    }
    if (negative) {
      return outside("a number is negative");
    }
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor.dtype, tensor.shape));
    int64_t last = tensor.offset;
    for (size_t d = 0; bytes > 0 && d < tensor.shape.size(); ++d) {
      int64_t reach = 0;
      if (!CheckedMul(tensor.shape[d] - 1, tensor.strides[d], &reach) || !CheckedAdd(last, reach, &last)) {
        return outside("the last element is beyond 63 bits");
      }
    }
    const int64_t elements = storage.bytes / DTypeBytes(tensor.dtype);
    if (bytes > 0 ? last >= elements : last > elements) {
      return outside(absl::StrCat("the last element would be number ", last, " of ", elements));
    }
    if (storage.deflated && LiesInOrder(tensor)) {
      // Tensors of one record may be read in any order, each from the record's start.
      return unfolded_.Add(storage.bytes, tensor.offset * DTypeBytes(tensor.dtype) + bytes);
    }
    if (storage.deflated) {
      // Whoever reads a block of it decompresses the record from its start.
      const int64_t blocks = bytes / kBlockBytes + 1;
      int64_t work = 0;
      if (!CheckedMul(blocks, storage.bytes, &work)) {
        return outside("the work to decompress it is beyond 63 bits");
      }
      return Annotate(
          unfolded_.Add(storage.bytes, std::max(bytes, work)),
          absl::StrCat("a view of a compressed record, out of its order, that is decompressed again for each "
                       "of ",
                       blocks, " blocks; save the tensor contiguous or the file uncompressed"));
    }
    // What repeats along a dimension is read once.
    int64_t repeats = 1;
    for (size_t d = 0; bytes > 0 && d < tensor.shape.size(); ++d) {
      repeats *= tensor.strides[d] == 0 ? tensor.shape[d] : 1;
    }
    const int64_t run_bytes = LeastRunElements(tensor.shape, tensor.strides) * DTypeBytes(tensor.dtype);
    int64_t work = 0;
    if (!CheckedMul(bytes / repeats, run_bytes < kRunBytes ? kRunBytes / run_bytes : 1, &work)) {
      return outside("the work to read it is beyond 63 bits");
    }
    const absl::Status status = unfolded_.Add(storage.bytes, std::max(bytes, work));
    return work <= bytes
               ? status
               : Annotate(status, absl::StrCat("its elements lie apart, each counted as ", kRunBytes, " bytes"));
  }

  absl::Status AddValue(PickleRef ref) {
    if (tree_.kind(ref) == PickleKind::kStorage) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat(what_, ": ", Quoted(name_), " is a storage that belongs to no tensor"));
    }
    if (contents_->values.size() >= kMaxValues) {
      ++contents_->values_left_out;
      return absl::OkStatus();
    }
    TorchValue value;
    switch (tree_.kind(ref)) {
      case PickleKind::kNone:
        value.type = "None";
        break;
      case PickleKind::kBool:
        value.type = "bool";
        value.text = tree_.Integer(ref) != 0 ? "True" : "False";
        break;
      case PickleKind::kInteger:
        value.type = "int";
        value.text = absl::StrCat(tree_.Integer(ref));
        break;
      case PickleKind::kFloat:
        value.type = "float";
        value.text = absl::StrFormat("%.17g", tree_.Float(ref));
        break;
      case PickleKind::kText:
        value.type = "str";
        value.text = Shortened(tree_.Text(ref));
        break;
      case PickleKind::kGlobal:
        value.type = tree_.Global(ref).meaning == PickleMeaning::kDType ? "dtype" : "name";
        value.text = std::string(tree_.Global(ref).name);
        break;
      case PickleKind::kBigInteger:
        value.type = "int beyond 64 bits";
        break;
      case PickleKind::kBytes:
        value.type = "bytes";
        break;
      case PickleKind::kSet:
        value.type = "set";
        break;
      default:
        value.type = "constant";
    }
    // Two bytes of pickle can repeat a long name.
    if (listing_bytes_ + static_cast<int64_t>(name_.size()) > limits_.torch_listing_bytes) {
      ++contents_->values_left_out;
      return absl::OkStatus();
    }
    listing_bytes_ += static_cast<int64_t>(sizeof(TorchValue) + name_.size() + value.text.size());
    value.path = name_;
    contents_->values.push_back(std::move(value));
    return absl::OkStatus();
  }

  const PickleTree& tree_;
  const absl::string_view what_;
  const Limits& limits_;
  TorchContents* const contents_;
  UnfoldedBytes unfolded_;
  std::string name_;  // of the item that is looked at
  absl::flat_hash_set<std::string> names_;
  int64_t visited_ = 0;
  int64_t listing_bytes_ = 0;
  int64_t appended_bytes_ = 0;  // to name_, in all
};

}  // namespace

absl::StatusOr<int64_t> StorageBytes(const PickleStorage& storage) {
  const int element_bytes = storage.dtype == DType::kInvalid ? 1 : DTypeBytes(storage.dtype);
  int64_t bytes = 0;
  if (storage.numel < 0 || !CheckedMul(storage.numel, element_bytes, &bytes)) {
    return MakeError(ErrorKind::kStorage, absl::StrCat("storage ", Quoted(storage.key), " is said to have ",
                                                       storage.numel, " elements of ", element_bytes, " bytes"));
  }
  return bytes;
}

absl::Status ListTensors(const PickleTree& tree, absl::string_view what, const Limits& limits,
                         TorchContents* contents) {
  Lister lister(tree, what, limits, contents);
  WAYPOINT_RETURN_IF_ERROR(lister.Run());
  contents->unfolded_bytes = lister.unfolded_bytes();
  return absl::OkStatus();
}

}  // namespace waypoint
