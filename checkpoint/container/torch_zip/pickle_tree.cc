#include "checkpoint/container/torch_zip/pickle_tree.h"

#include <cstring>

namespace waypoint {

absl::string_view PickleKindName(PickleKind kind) {
  switch (kind) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return "a bool";
    case PickleKind::kInteger:
    case PickleKind::kBigInteger:
      return "an int";
    case PickleKind::kFloat:
      return "a float";
    case PickleKind::kText:
      return "a str";
    case PickleKind::kBytes:
      return "bytes";
    case PickleKind::kTuple:
      return "a tuple";
    case PickleKind::kList:
      return "a list";
    case PickleKind::kSet:
      return "a set";
    case PickleKind::kDict:
      return "a dict";
    case PickleKind::kOrderedDict:
      return "an OrderedDict";
    case PickleKind::kGlobal:
      return "a name";
    case PickleKind::kStorage:
      return "a storage";
    case PickleKind::kTensor:
      return "a tensor";
    case PickleKind::kInert:
      return "a constant";
  }
  return "";
}

double PickleTree::Float(PickleRef ref) const {
  double value = 0;
  std::memcpy(&value, &nodes[ref].value, sizeof(value));
  return value;
}

absl::Span<const PickleRef> PickleTree::Items(PickleRef ref) const {
  const Node& node = nodes[ref];
  switch (node.kind) {
    case PickleKind::kTuple:
      return absl::MakeConstSpan(tuple_items).subspan(node.value, node.count);
    case PickleKind::kList:
    case PickleKind::kSet:
    case PickleKind::kDict:
    case PickleKind::kOrderedDict:
      return containers[node.value];
    default:
      return {};
  }
}

}  // namespace waypoint
