#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_BUILDER_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_BUILDER_H_

// Makes the values of a PickleTree, one for each step of a pickle, and decides what the few allowed calls mean.
//
// Errors carry no place: the machine knows it.  One thread.

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/pickle_tree.h"

namespace waypoint {

class PickleBuilder {
 public:
  // Both outlive the builder.
  PickleBuilder(absl::string_view bytes, const Limits& limits);

  // The opcode that works now.
  void set_at(int64_t at) { at_ = static_cast<uint32_t>(at); }

  PickleRef none() const { return 0; }
  PickleRef Bool(bool value) const { return value ? 2 : 1; }
  PickleKind kind(PickleRef ref) const { return tree_.kind(ref); }

  // E_LIMIT (pickle_values), here and below.
  absl::StatusOr<PickleRef> Integer(int64_t value);
  absl::StatusOr<PickleRef> Float(double value);
  // `text` lies in the pickle's bytes.  E_UTF8 for kText.
  absl::StatusOr<PickleRef> Text(PickleKind kind, absl::string_view text);
  absl::StatusOr<PickleRef> Tuple(absl::Span<const PickleRef> items);
  // kList, kSet, kDict or kOrderedDict.
  absl::StatusOr<PickleRef> Container(PickleKind kind);
  // Errors of FindPickleGlobal.
  absl::StatusOr<PickleRef> Global(absl::string_view module, absl::string_view name);
  // Both parts must be texts.
  absl::StatusOr<PickleRef> Global(PickleRef module, PickleRef name);

  // E_PICKLE when the container is of another kind, or the key is none.
  absl::Status Append(PickleKind kind, PickleRef container, absl::Span<const PickleRef> items);
  absl::Status SetItems(PickleRef dict, absl::Span<const PickleRef> keys_and_values);

  // REDUCE.  E_PICKLE, E_SCHEMA (shapes that are none), E_OVERFLOW, E_LIMIT (tensor_rank, torch_tensors), E_DTYPE.
  absl::StatusOr<PickleRef> Call(PickleRef callee, PickleRef args);
  // BUILD: only {"_metadata": dict} on an OrderedDict, as Module.state_dict() writes it.  It is dropped.
  absl::Status Build(PickleRef object, PickleRef state) const;
  // BINPERSID: ("storage", type, key, location, numel), and in the legacy format a sixth part, which must be None.
  absl::StatusOr<PickleRef> PersistentId(PickleRef id, bool legacy);

  // Checks what only shows in the whole: E_PICKLE where a value holds itself or a set holds more than constants,
  // E_LIMIT (pickle_depth), E_DUP_KEY, E_STORAGE where one storage is described in two ways.
  absl::StatusOr<PickleTree> Finish(PickleRef root, int64_t consumed);

 private:
  // Counts memory before it is taken, in quarters of a value.
  absl::Status Charge(int64_t quarters);
  absl::StatusOr<PickleRef> Add(PickleKind kind, uint64_t value, uint32_t count = 0);
  absl::StatusOr<PickleRef> RebuildTensor(absl::Span<const PickleRef> args, bool has_dtype);
  absl::Status CheckIntegers(PickleRef tuple, absl::string_view what) const;
  absl::Status CheckNesting() const;
  absl::Status CheckKeys() const;

  const Limits& limits_;
  PickleTree tree_;
  uint32_t at_ = 0;
  int64_t quarters_ = 0;
  absl::flat_hash_map<const PickleGlobal*, PickleRef> globals_;
  absl::flat_hash_map<absl::string_view, uint32_t> storages_;
  // The first contradiction between storages; a name that is not allowed comes before it.
  absl::Status storage_status_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_BUILDER_H_
