#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_MACHINE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_MACHINE_H_

// Runs a pickle of protocol 2 to 5 as torch.save writes it, without ever importing or calling anything.
//
//   const std::string what = "\"model.pth\": entry \"data.pkl\"";
//   WAYPOINT_ASSIGN_OR_RETURN(const PickleTree tree, RunPickle(bytes, what, {}, limits));
//
// Opcodes: those that torch.save and pickle need for what the table of pickle_globals.h can make.  Time and memory are
// linear in the bytes.  Opcodes' meaning: CPython, Lib/pickletools.py.  Does not link libtorch.  Thread-safe.

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/pickle_tree.h"

namespace waypoint {

struct PickleOptions {
  // Persistent ids of the format before PyTorch 1.6, which have six parts.
  bool legacy_ids = false;
  // Other bytes may follow; PickleTree::consumed says where.
  bool allow_rest = false;
};

// `bytes` outlive the tree; 4 GiB at most.  `what` begins every message.
//
// Errors: E_PICKLE (malformed, or outside of the subset), E_CODE (a name outside of the table, refused when it is
// named), E_UNSUPPORTED, E_DTYPE, E_UTF8, E_LIMIT (pickle_values, pickle_memo, pickle_stack, pickle_depth, tensor_rank,
// torch_tensors), E_DUP_KEY, E_SCHEMA, E_OVERFLOW, E_STORAGE.  Messages give the offset and the opcode.
absl::StatusOr<PickleTree> RunPickle(absl::string_view bytes, absl::string_view what, const PickleOptions& options,
                                     const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_MACHINE_H_
