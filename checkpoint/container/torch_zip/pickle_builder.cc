#include "checkpoint/container/torch_zip/pickle_builder.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr absl::string_view kMetadataKey = "_metadata";

// A value is 24 bytes.  A container has a vector of 24 bytes and, with one item, 32 bytes of heap on top; an item is 4
// bytes, and up to 12 while the vector that it lies in grows.
constexpr int64_t kValueQuarters = 4;
constexpr int64_t kContainerQuarters = 12;

absl::Status PickleError(absl::string_view problem) { return MakeError(ErrorKind::kPickle, problem); }

bool IsConstant(PickleKind kind) {
  return kind == PickleKind::kNone || kind == PickleKind::kBool || kind == PickleKind::kInteger ||
         kind == PickleKind::kBigInteger || kind == PickleKind::kFloat || kind == PickleKind::kText ||
         kind == PickleKind::kBytes;
}

}  // namespace

PickleBuilder::PickleBuilder(absl::string_view bytes, const Limits& limits) : limits_(limits) {
  tree_.bytes = bytes;
  tree_.nodes = {{PickleKind::kNone, 0, 0, 0}, {PickleKind::kBool, 0, 0, 0}, {PickleKind::kBool, 0, 0, 1}};
  quarters_ = kValueQuarters * static_cast<int64_t>(tree_.nodes.size());
}

absl::Status PickleBuilder::Charge(int64_t quarters) {
  quarters_ += quarters;
  if (quarters_ / kValueQuarters + (quarters_ % kValueQuarters != 0) > limits_.pickle_values) {
    return MakeError(ErrorKind::kLimit, absl::StrCat("more values than pickle_values = ", limits_.pickle_values,
                                                     ", where a list, set or dict counts as 4 and an item of one as a "
                                                     "quarter"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PickleRef> PickleBuilder::Add(PickleKind kind, uint64_t value, uint32_t count) {
  WAYPOINT_RETURN_IF_ERROR(Charge(kValueQuarters));
  tree_.nodes.push_back({kind, at_, count, value});
  return static_cast<PickleRef>(tree_.nodes.size() - 1);
}

absl::StatusOr<PickleRef> PickleBuilder::Integer(int64_t value) {
  return Add(PickleKind::kInteger, static_cast<uint64_t>(value));
}

absl::StatusOr<PickleRef> PickleBuilder::Float(double value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return Add(PickleKind::kFloat, bits);
}

absl::StatusOr<PickleRef> PickleBuilder::Text(PickleKind kind, absl::string_view text) {
  if (kind == PickleKind::kText) {
    WAYPOINT_RETURN_IF_ERROR(CheckUtf8(text, "text"));
  }
  return Add(kind, text.data() - tree_.bytes.data(), static_cast<uint32_t>(text.size()));
}

absl::StatusOr<PickleRef> PickleBuilder::Tuple(absl::Span<const PickleRef> items) {
  WAYPOINT_RETURN_IF_ERROR(Charge(static_cast<int64_t>(items.size())));
  const size_t first = tree_.tuple_items.size();
  tree_.tuple_items.insert(tree_.tuple_items.end(), items.begin(), items.end());
  return Add(PickleKind::kTuple, first, static_cast<uint32_t>(items.size()));
}

absl::StatusOr<PickleRef> PickleBuilder::Container(PickleKind kind) {
  WAYPOINT_RETURN_IF_ERROR(Charge(kContainerQuarters));
  tree_.containers.emplace_back();
  return Add(kind, tree_.containers.size() - 1);
}

absl::StatusOr<PickleRef> PickleBuilder::Global(absl::string_view module, absl::string_view name) {
  WAYPOINT_ASSIGN_OR_RETURN(const PickleGlobal* global, FindPickleGlobal(module, name));
  const auto it = globals_.find(global);
  if (it != globals_.end()) {
    return it->second;
  }
  tree_.globals.push_back(global);
  WAYPOINT_ASSIGN_OR_RETURN(const PickleRef ref, Add(PickleKind::kGlobal, tree_.globals.size() - 1));
  globals_.emplace(global, ref);
  return ref;
}

absl::StatusOr<PickleRef> PickleBuilder::Global(PickleRef module, PickleRef name) {
  if (kind(module) != PickleKind::kText || kind(name) != PickleKind::kText) {
    return PickleError(absl::StrCat("module and name are ", PickleKindName(kind(module)), " and ",
                                    PickleKindName(kind(name)), ", must be texts"));
  }
  return Global(tree_.Text(module), tree_.Text(name));
}

absl::Status PickleBuilder::Append(PickleKind wanted, PickleRef container, absl::Span<const PickleRef> items) {
  if (kind(container) != wanted) {
    return PickleError(absl::StrCat("adds to ", PickleKindName(kind(container)), ", must be ", PickleKindName(wanted)));
  }
  WAYPOINT_RETURN_IF_ERROR(Charge(static_cast<int64_t>(items.size())));
  std::vector<PickleRef>& all = tree_.containers[tree_.nodes[container].value];
  all.insert(all.end(), items.begin(), items.end());
  return absl::OkStatus();
}

absl::Status PickleBuilder::SetItems(PickleRef dict, absl::Span<const PickleRef> keys_and_values) {
  if (!tree_.IsDict(dict)) {
    return PickleError(absl::StrCat("sets an item of ", PickleKindName(kind(dict)), ", must be a dict"));
  }
  if (keys_and_values.size() % 2 != 0) {
    return PickleError("a key has no value");
  }
  for (size_t i = 0; i < keys_and_values.size(); i += 2) {
    const PickleKind key = kind(keys_and_values[i]);
    if (key != PickleKind::kText && key != PickleKind::kInteger && key != PickleKind::kBool &&
        key != PickleKind::kNone) {
      return PickleError(absl::StrCat("key is ", PickleKindName(key), ", must be a str or an int"));
    }
  }
  WAYPOINT_RETURN_IF_ERROR(Charge(static_cast<int64_t>(keys_and_values.size())));
  std::vector<PickleRef>& all = tree_.containers[tree_.nodes[dict].value];
  all.insert(all.end(), keys_and_values.begin(), keys_and_values.end());
  return absl::OkStatus();
}

absl::StatusOr<PickleRef> PickleBuilder::Call(PickleRef callee, PickleRef args_ref) {
  if (kind(callee) != PickleKind::kGlobal) {
    return PickleError(absl::StrCat("calls ", PickleKindName(kind(callee))));
  }
  if (kind(args_ref) != PickleKind::kTuple) {
    return PickleError(absl::StrCat("arguments are ", PickleKindName(kind(args_ref)), ", must be a tuple"));
  }
  const PickleGlobal& global = tree_.Global(callee);
  const absl::Span<const PickleRef> args = tree_.Items(args_ref);
  const auto wrong = [&](absl::string_view wanted) {
    return PickleError(absl::StrCat(Quoted(global.name), " with ", args.size(), " arguments, must have ", wanted));
  };
  switch (global.meaning) {
    case PickleMeaning::kRebuildTensor:
      return RebuildTensor(args, false);
    case PickleMeaning::kRebuildTensorOfDType:
      return RebuildTensor(args, true);
    case PickleMeaning::kRebuildParameter:
      if (args.size() != 3 || kind(args[0]) != PickleKind::kTensor || kind(args[1]) != PickleKind::kBool ||
          !tree_.IsDict(args[2]) || !tree_.Items(args[2]).empty()) {
        return wrong("a tensor, a bool and an empty OrderedDict");
      }
      return args[0];
    case PickleMeaning::kOrderedDict:
      if (!args.empty()) {
        return wrong("none; items are set afterwards");
      }
      return Container(PickleKind::kOrderedDict);
    case PickleMeaning::kSize:
      if (args.size() != 1 || kind(args[0]) != PickleKind::kTuple) {
        return wrong("one tuple");
      }
      return args[0];
    case PickleMeaning::kSet:
      if (args.empty()) {
        return Container(PickleKind::kSet);
      }
      if (args.size() != 1 || kind(args[0]) != PickleKind::kList) {
        return wrong("one list");
      }
      // The list exists only to become the set: a second copy of its items could be asked for again and again.
      tree_.nodes[args[0]].kind = PickleKind::kSet;
      return args[0];
    case PickleMeaning::kBytes:
      if (args.empty()) {
        return Add(PickleKind::kBytes, 0);
      }
      if (args.size() > 2 || (kind(args[0]) != PickleKind::kText && kind(args[0]) != PickleKind::kBytes) ||
          (args.size() == 2 && kind(args[1]) != PickleKind::kText)) {
        return wrong("a text and the name of an encoding");
      }
      return Add(PickleKind::kBytes, tree_.nodes[args[0]].value, tree_.nodes[args[0]].count);
    case PickleMeaning::kInert:
      for (const PickleRef arg : args) {
        if (!IsConstant(kind(arg))) {
          return wrong("constants");
        }
      }
      return Add(PickleKind::kInert, 0);
    case PickleMeaning::kStorage:
    case PickleMeaning::kDType:
      break;
  }
  return PickleError(absl::StrCat("calls ", Quoted(global.name), ", which is no function"));
}

absl::Status PickleBuilder::CheckIntegers(PickleRef tuple, absl::string_view what) const {
  if (kind(tuple) != PickleKind::kTuple) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat(what, " of a tensor is ", PickleKindName(kind(tuple)), ", must be a tuple"));
  }
  const absl::Span<const PickleRef> items = tree_.Items(tuple);
  if (static_cast<int64_t>(items.size()) > limits_.tensor_rank) {
    return MakeError(ErrorKind::kLimit, absl::StrCat(what, " of a tensor has ", items.size(),
                                                     " dimensions, over tensor_rank = ", limits_.tensor_rank));
  }
  for (const PickleRef item : items) {
    if (kind(item) == PickleKind::kBigInteger) {
      return MakeError(ErrorKind::kOverflow, absl::StrCat(what, " of a tensor holds an integer beyond 64 bits"));
    }
    if (kind(item) != PickleKind::kInteger) {
      return MakeError(ErrorKind::kSchema,
                       absl::StrCat(what, " of a tensor holds ", PickleKindName(kind(item)), ", must hold integers"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PickleRef> PickleBuilder::RebuildTensor(absl::Span<const PickleRef> args, bool has_dtype) {
  // storage, offset, shape, strides, requires_grad, hooks[, dtype][, metadata]
  const size_t required = has_dtype ? 7 : 6;
  if (args.size() != required && args.size() != required + 1) {
    return PickleError(
        absl::StrCat("a tensor is made from ", args.size(), " values, must be ", required, " or ", required + 1));
  }
  if (kind(args[0]) != PickleKind::kStorage) {
    return PickleError(absl::StrCat("a tensor is made over ", PickleKindName(kind(args[0])), ", must be a storage"));
  }
  if (kind(args[1]) == PickleKind::kBigInteger) {
    return MakeError(ErrorKind::kOverflow, "offset of a tensor is beyond 64 bits");
  }
  if (kind(args[1]) != PickleKind::kInteger) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat("offset of a tensor is ", PickleKindName(kind(args[1])), ", must be an integer"));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckIntegers(args[2], "shape"));
  WAYPOINT_RETURN_IF_ERROR(CheckIntegers(args[3], "stride"));
  if (tree_.Items(args[2]).size() != tree_.Items(args[3]).size()) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("a tensor has ", tree_.Items(args[2]).size(), " dimensions and ",
                                                      tree_.Items(args[3]).size(), " strides"));
  }
  if (kind(args[4]) != PickleKind::kBool) {
    return PickleError(absl::StrCat("requires_grad of a tensor is ", PickleKindName(kind(args[4]))));
  }
  if (!tree_.IsDict(args[5]) || !tree_.Items(args[5]).empty()) {
    return PickleError("hooks of a tensor must be an empty OrderedDict");
  }
  PickleTensor tensor;
  tensor.storage = static_cast<uint32_t>(tree_.nodes[args[0]].value);
  tensor.dtype = tree_.storages[tensor.storage].dtype;
  tensor.offset = tree_.Integer(args[1]);
  tensor.shape = args[2];
  tensor.strides = args[3];
  if (has_dtype) {
    if (kind(args[6]) != PickleKind::kGlobal || tree_.Global(args[6]).meaning != PickleMeaning::kDType) {
      return PickleError(absl::StrCat("element type of a tensor is ", PickleKindName(kind(args[6]))));
    }
    const PickleGlobal& dtype = tree_.Global(args[6]);
    if (tensor.dtype != DType::kInvalid && tensor.dtype != dtype.dtype) {
      return PickleError(absl::StrCat("a tensor of ", dtype.name, " is made over a storage of ",
                                      DTypeTorchName(tensor.dtype), "; its storage must be untyped"));
    }
    tensor.dtype = dtype.dtype;
    if (tensor.dtype == DType::kInvalid) {
      return MakeError(ErrorKind::kDType, absl::StrCat("tensors of torch.", dtype.name, " are not read"));
    }
  } else if (tensor.dtype == DType::kInvalid) {
    return PickleError("a tensor over an untyped storage must name its element type");
  }
  if (args.size() > required && kind(args.back()) != PickleKind::kNone) {
    if (!tree_.IsDict(args.back())) {
      return PickleError(absl::StrCat("metadata of a tensor is ", PickleKindName(kind(args.back()))));
    }
    if (!tree_.Items(args.back()).empty()) {
      return MakeError(ErrorKind::kUnsupported,
                       "a tensor has metadata (a conjugate or negative view), which is not read; save it resolved");
    }
  }
  if (static_cast<int64_t>(tree_.tensors.size()) >= limits_.torch_tensors) {
    return MakeError(ErrorKind::kLimit, absl::StrCat("more tensors than torch_tensors = ", limits_.torch_tensors));
  }
  tree_.tensors.push_back(tensor);
  return Add(PickleKind::kTensor, tree_.tensors.size() - 1);
}

absl::Status PickleBuilder::Build(PickleRef object, PickleRef state) const {
  const absl::Span<const PickleRef> items = tree_.Items(state);
  if (kind(object) != PickleKind::kOrderedDict || !tree_.IsDict(state) || items.size() != 2 ||
      kind(items[0]) != PickleKind::kText || tree_.Text(items[0]) != kMetadataKey || !tree_.IsDict(items[1])) {
    return PickleError(absl::StrCat("sets attributes of ", PickleKindName(kind(object)), " from ",
                                    PickleKindName(kind(state)), "; only _metadata of an OrderedDict may be set"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PickleRef> PickleBuilder::PersistentId(PickleRef id, bool legacy) {
  const absl::Span<const PickleRef> parts = tree_.Items(id);
  const size_t wanted = legacy ? 6 : 5;
  if (kind(id) != PickleKind::kTuple || parts.size() != wanted || kind(parts[0]) != PickleKind::kText ||
      tree_.Text(parts[0]) != "storage" || kind(parts[1]) != PickleKind::kGlobal ||
      tree_.Global(parts[1]).meaning != PickleMeaning::kStorage || kind(parts[2]) != PickleKind::kText ||
      kind(parts[3]) != PickleKind::kText) {
    return PickleError(absl::StrCat("persistent id is ", PickleKindName(kind(id)), " of ", parts.size(),
                                    " parts, must be (\"storage\", type, key, location, numel",
                                    legacy ? ", view)" : ")"));
  }
  if (legacy && kind(parts[5]) != PickleKind::kNone) {
    return MakeError(ErrorKind::kUnsupported,
                     "a storage is a view of another one, as PyTorch before 0.4 wrote it; save the file again");
  }
  if (kind(parts[4]) == PickleKind::kBigInteger) {
    return MakeError(ErrorKind::kOverflow, "size of a storage is beyond 64 bits");
  }
  if (kind(parts[4]) != PickleKind::kInteger) {
    return PickleError(absl::StrCat("size of a storage is ", PickleKindName(kind(parts[4]))));
  }
  PickleStorage storage;
  storage.key = tree_.Text(parts[2]);
  storage.dtype = tree_.Global(parts[1]).dtype;
  storage.numel = tree_.Integer(parts[4]);
  storage.at = at_;
  const auto [it, inserted] = storages_.try_emplace(storage.key, static_cast<uint32_t>(tree_.storages.size()));
  if (inserted) {
    tree_.storages.push_back(storage);
  } else {
    const PickleStorage& other = tree_.storages[it->second];
    if (storage_status_.ok() && (other.dtype != storage.dtype || other.numel != storage.numel)) {
      storage_status_ =
          MakeError(ErrorKind::kStorage, absl::StrCat("storage ", Quoted(storage.key), " has ", storage.numel, " of ",
                                                      DTypeName(storage.dtype), ", but ", other.numel, " of ",
                                                      DTypeName(other.dtype), " at byte ", other.at));
    }
  }
  return Add(PickleKind::kStorage, it->second);
}

absl::Status PickleBuilder::CheckNesting() const {
  constexpr uint16_t kUnseen = 0;
  constexpr uint16_t kOpen = 0xFFFF;
  // Levels below and with a value, once they are known.
  std::vector<uint16_t> height(tree_.nodes.size(), kUnseen);
  const int64_t limit = std::min<int64_t>(limits_.pickle_depth, kOpen - 1);
  struct Step {
    PickleRef ref;
    size_t next;
    uint16_t below;
  };
  std::vector<Step> path;  // never longer than the limit
  for (PickleRef start = 0; start < tree_.nodes.size(); ++start) {
    if (height[start] != kUnseen) {
      continue;
    }
    height[start] = kOpen;
    path.push_back({start, 0, 0});
    while (!path.empty()) {
      Step& step = path.back();
      const absl::Span<const PickleRef> items = tree_.Items(step.ref);
      if (step.next == items.size()) {
        const auto levels = static_cast<uint16_t>(step.below + 1);
        height[step.ref] = levels;
        path.pop_back();
        if (!path.empty()) {
          path.back().below = std::max(path.back().below, levels);
        }
        continue;
      }
      const PickleRef item = items[step.next++];
      if (height[item] == kOpen) {
        return PickleError(absl::StrCat(PickleKindName(kind(item)), " made at byte ", tree_.at(item), " holds itself"));
      }
      if (static_cast<int64_t>(path.size()) + std::max<int64_t>(height[item], 1) > limit) {
        return MakeError(ErrorKind::kLimit, absl::StrCat("values are nested deeper than pickle_depth = ", limit));
      }
      if (height[item] == kUnseen) {
        height[item] = kOpen;
        path.push_back({item, 0, 0});
      } else {
        step.below = std::max(step.below, height[item]);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PickleBuilder::CheckKeys() const {
  for (PickleRef ref = 0; ref < tree_.nodes.size(); ++ref) {
    const absl::Span<const PickleRef> items = tree_.Items(ref);
    if (kind(ref) == PickleKind::kSet) {
      for (const PickleRef item : items) {
        if (!IsConstant(kind(item))) {
          return PickleError(absl::StrCat("a set made at byte ", tree_.at(ref), " holds ", PickleKindName(kind(item)),
                                          ", must hold constants"));
        }
      }
    }
    if (!tree_.IsDict(ref) || items.size() <= 2) {
      continue;
    }
    absl::flat_hash_set<absl::string_view> texts;
    absl::flat_hash_set<int64_t> numbers;  // to Python, True is 1
    bool none = false;
    texts.reserve(items.size() / 2);
    for (size_t i = 0; i < items.size(); i += 2) {
      const PickleRef key = items[i];
      bool fresh = true;
      std::string shown = "None";
      if (kind(key) == PickleKind::kText) {
        fresh = texts.insert(tree_.Text(key)).second;
        shown = fresh ? "" : Quoted(tree_.Text(key));
      } else if (kind(key) == PickleKind::kNone) {
        fresh = !std::exchange(none, true);
      } else {
        fresh = numbers.insert(tree_.Integer(key)).second;
        shown = absl::StrCat(tree_.Integer(key));
      }
      if (!fresh) {
        return MakeError(ErrorKind::kDupKey,
                         absl::StrCat("a dict made at byte ", tree_.at(ref), " has key ", shown, " twice"));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PickleTree> PickleBuilder::Finish(PickleRef root, int64_t consumed) {
  WAYPOINT_RETURN_IF_ERROR(CheckNesting());
  WAYPOINT_RETURN_IF_ERROR(CheckKeys());
  WAYPOINT_RETURN_IF_ERROR(storage_status_);
  tree_.root = root;
  tree_.consumed = consumed;
  return std::move(tree_);
}

}  // namespace waypoint
