#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_TREE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_TREE_H_

// What a pickle describes, as plain data.  Values are numbers into one arena, so that no depth of nesting needs
// recursion, not even to be freed.  Text points into the pickle's bytes.
// Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/container/torch_zip/pickle_globals.h"

namespace waypoint {

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInteger,     // of 64 bits
  kBigInteger,  // beyond
  kFloat,
  kText,
  kBytes,
  kTuple,
  kList,
  kSet,
  kDict,
  kOrderedDict,
  kGlobal,
  kStorage,
  kTensor,
  kInert,
};

// "a list"
absl::string_view PickleKindName(PickleKind kind);

// Position of a value in the arena.
using PickleRef = uint32_t;

struct PickleStorage {
  absl::string_view key;
  DType dtype = DType::kInvalid;  // kInvalid: untyped, numel counts bytes
  int64_t numel = 0;
  uint32_t at = 0;  // offset of the opcode, for messages
};

struct PickleTensor {
  uint32_t storage = 0;  // position in storages
  DType dtype = DType::kInvalid;
  int64_t offset = 0;  // in elements
  // Tuples of as many integers of 64 bits each.
  PickleRef shape = 0;
  PickleRef strides = 0;
};

class PickleTree {
 public:
  struct Node {
    PickleKind kind = PickleKind::kNone;
    uint32_t at = 0;     // offset of the opcode that made it
    uint32_t count = 0;  // items of a tuple, bytes of a text
    // The number, bits of the float, offset of the text, first item of the tuple, or position in one of the lists
    // below.
    uint64_t value = 0;
  };

  PickleKind kind(PickleRef ref) const { return nodes[ref].kind; }
  uint32_t at(PickleRef ref) const { return nodes[ref].at; }
  bool IsDict(PickleRef ref) const { return kind(ref) == PickleKind::kDict || kind(ref) == PickleKind::kOrderedDict; }
  // Text, bytes and the digits of big integers (little-endian two's complement).
  absl::string_view Text(PickleRef ref) const { return bytes.substr(nodes[ref].value, nodes[ref].count); }
  int64_t Integer(PickleRef ref) const { return static_cast<int64_t>(nodes[ref].value); }
  double Float(PickleRef ref) const;
  const PickleGlobal& Global(PickleRef ref) const { return *globals[nodes[ref].value]; }
  const PickleTensor& Tensor(PickleRef ref) const { return tensors[nodes[ref].value]; }
  // Of tuples, lists and sets; of dicts key, value, key, value, ...  Empty for all else.
  absl::Span<const PickleRef> Items(PickleRef ref) const;

  absl::string_view bytes;  // the pickle; borrowed
  PickleRef root = 0;
  // Bytes of the stream, up to and with STOP.
  int64_t consumed = 0;

  std::deque<Node> nodes;
  std::vector<PickleRef> tuple_items;
  std::deque<std::vector<PickleRef>> containers;  // of lists, sets and dicts
  std::vector<const PickleGlobal*> globals;
  std::vector<PickleStorage> storages;  // no key twice
  std::vector<PickleTensor> tensors;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_TREE_H_
