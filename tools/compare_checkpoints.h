#ifndef TOOLS_COMPARE_CHECKPOINTS_H_
#define TOOLS_COMPARE_CHECKPOINTS_H_

// Two sources of tensors, compared element by element while both stream past: for --verify digest and --diff.
//
//   WAYPOINT_ASSIGN_OR_RETURN(Comparison comparison, CompareSources(*a, *b, {.transfer = options}));
//   if (!comparison.equal()) std::cout << comparison.Summary();
//
// Neither side is ever held whole: blocks of the one are filled by Transfer, and the same boxes of the other are read
// beside them, within the same byte budget.  Thread-safe as far as the sources are.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/tensor/manifest.h"
#include "checkpoint/tensor/tensor_source.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {

struct CompareOptions {
  TransferOptions transfer;
  int64_t block_bytes = int64_t{8} << 20;
  // Tensors of either side for which this is false are not looked at.
  std::function<bool(const TensorMeta&)> selected;
  // Rounds floats of `a` to the dtype of `b` (to nearest, ties to even) before they are compared, for a copy whose
  // dtype was changed on purpose.  Otherwise another dtype is a difference.
  bool round_to_b = false;
  // Of `shares` about equal parts of the elements, only this one is compared; names, shapes and dtypes always are.
  int share = 0;
  int shares = 1;
};

struct TensorDifference {
  std::string name;
  // "only in the first", "shape [2, 3] against [3, 2]", "F32 against BF16", "4 of 12 elements differ, by 0.5 at most".
  std::string what;
  int64_t differing_elements = 0;
  // Of differing elements of float16, bfloat16, float32 and float64; infinity when one side is NaN or infinite.
  double max_abs_diff = 0;
};

struct Comparison {
  int64_t tensors = 0;  // that both sides have
  int64_t bytes = 0;    // of the first side, read and compared
  // In the order of the first side; what only the second has comes last.
  std::vector<TensorDifference> differences;

  bool equal() const { return differences.empty(); }
};

// -0.0 and 0.0 differ, equal bits of NaN do not: elements are compared as bytes.
// Errors: whatever the sources return, and Cancelled.  A difference is none.
absl::StatusOr<Comparison> CompareSources(TensorSource& a, TensorSource& b, const CompareOptions& options);

// Optimizer state of a parameter, by its name ("p/exp_avg").
bool IsOptimizerState(const TensorMeta& tensor);

}  // namespace waypoint

#endif  // TOOLS_COMPARE_CHECKPOINTS_H_
