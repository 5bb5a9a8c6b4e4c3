#include "checkpoint/format/saved_state.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

bool IsOptimizerState(absl::string_view tensor_name) { return absl::StrContains(tensor_name, '/'); }

absl::StatusOr<SavedState> SelectState(TensorSource& state, const SaveOptions& options) {
  SavedState saved;
  std::vector<ConvertedTensor> tensors;
  int64_t dropped = 0;
  for (int64_t i = 0; i < state.manifest().size(); ++i) {
    const TensorMeta& meta = state.manifest()[i];
    if (IsOptimizerState(meta.name) && !options.optimizer_state) {
      ++dropped;
      continue;
    }
    Expr expression = Ref(meta, i);
    if (!IsOptimizerState(meta.name) && options.weights_dtype != DType::kInvalid) {
      WAYPOINT_ASSIGN_OR_RETURN(expression, Cast(expression, options.weights_dtype));
    }
    tensors.push_back({meta.name, std::move(expression)});
  }
  if (dropped > 0) {
    saved.notes.push_back(absl::StrCat("left out ", dropped, " tensors of optimizer state, as asked"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(saved.source, ConvertedSource::Create(&state, std::move(tensors)));
  return saved;
}

std::vector<std::string> StatePlanLines(const ConvertedSource& source) {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : source.tensors()) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  return lines;
}

}  // namespace waypoint
