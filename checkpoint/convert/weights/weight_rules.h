#ifndef CHECKPOINT_CONVERT_WEIGHTS_WEIGHT_RULES_H_
#define CHECKPOINT_CONVERT_WEIGHTS_WEIGHT_RULES_H_

// Which external tensors make which native tensor, both ways from one declaration.
//
//   WeightRules rules;
//   rules.Add("embeddings.word_embeddings_weight", {"model.embed_tokens.weight"});
//   rules.Add("decoder.0.mixer.key_value.weight", {"...k_proj.weight", "...v_proj.weight"}, ConcatRelayout({64, 64}));
//   rules.IgnoreExternal("model.layers.*.self_attn.rotary_emb.inv_freq", "recomputed from the config");
//   WAYPOINT_ASSIGN_OR_RETURN(auto import, PlanImport(rules, parameters, files->manifest()));
//
// A re-layout is invertible by construction: the same object imports and exports.  Planning checks everything before a
// byte is read: missing, left-over, duplicate and misshapen tensors come back together in one error.
// Thread-compatible: const methods may run concurrently.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/convert/weights/expression.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

// How one native tensor is laid out in its external tensors.
class Relayout {
 public:
  virtual ~Relayout() = default;
  virtual absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const = 0;
  // As many as Import takes, in the same order.
  virtual absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const = 0;
};
using RelayoutPtr = std::shared_ptr<const Relayout>;

// The tensor as it is.
RelayoutPtr RenameRelayout();
// External tensors under each other: part_sizes rows (dimension `dim`) of each.
RelayoutPtr ConcatRelayout(std::vector<int64_t> part_sizes, int dim = 0);
// External tensors of equal shape along a new first dimension.
RelayoutPtr StackRelayout(int64_t count);
// Per slice of the first dimension, `inner` (for example gate and up of each expert); external tensors slice by slice.
RelayoutPtr StackRelayout(int64_t count, RelayoutPtr inner, int64_t inner_count);
RelayoutPtr TransposeRelayout(std::vector<int> native_to_external);
RelayoutPtr ReshapeRelayout(Dims native_shape, Dims external_shape);
// Rows of each head: native has the two halves of the rotary channels one after the other, external interleaves them
// (Meta's reference layout).  Any rank: heads * head_size rows first.
RelayoutPtr RotaryInterleaveRelayout(int64_t heads, int64_t head_size);

struct WeightRule {
  std::string native;
  std::vector<std::string> external;
  RelayoutPtr relayout;
};

struct IgnoredTensors {
  std::string pattern;  // "*" stands for one name segment's text, without dots
  std::string reason;
};

class WeightRules {
 public:
  void Add(std::string native, std::vector<std::string> external, RelayoutPtr relayout = RenameRelayout());
  // External tensors that are left out on import, with the reason that the user is told.
  void IgnoreExternal(std::string pattern, std::string reason);
  // A second external name for a native tensor: exported as a copy when `emit`, tolerated on import (the caller
  // compares the bytes), and taken on import where the first name is not stored.
  void AddCopy(std::string native, std::string external, bool emit);

  const std::vector<WeightRule>& rules() const { return rules_; }
  const std::vector<IgnoredTensors>& ignored() const { return ignored_; }
  struct Copy {
    std::string native;
    std::string external;
    bool emit = false;
  };
  const std::vector<Copy>& copies() const { return copies_; }

 private:
  std::vector<WeightRule> rules_;
  std::vector<IgnoredTensors> ignored_;
  std::vector<Copy> copies_;
};

// "*" matches any run of characters but dots.  Linear in the text.
bool MatchesPattern(absl::string_view text, absl::string_view pattern);

struct ImportPlan {
  // Native tensors over the external ones, in the order of `parameters`.
  std::vector<ConvertedTensor> tensors;
  // One per ignored pattern that met something, with the count.
  std::vector<std::string> notes;
  // External tensors that are copies of native ones (AddCopy) and are there: pairs to compare.
  std::vector<ConvertedTensor> copies;  // name: external; expression: the native tensor's
};

// `parameters` is what the model needs (its dtypes do not matter: files decide).  Weights must be float16, bfloat16,
// float32 or float64.
// Errors: E_MISSING, E_EXTRA, E_SHAPE, E_DTYPE, E_DUP_KEY: the kind of the first problem, all problems in the message,
// ten of each spelled out. Parts of one native tensor must have one element type, unless `joined` says what others
// become.
absl::StatusOr<ImportPlan> PlanImport(const WeightRules& rules, const Manifest& parameters, const Manifest& external,
                                      DType joined = DType::kInvalid);

// External tensors over the native ones, in the order of the rules.  `native` may hold more than the rules need only
// when it is optimizer state ("p/exp_avg"), which no external format takes; it is noted.
struct ExportPlan {
  std::vector<ConvertedTensor> tensors;
  std::vector<std::string> notes;
};
absl::StatusOr<ExportPlan> PlanExport(const WeightRules& rules, const Manifest& native);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_WEIGHTS_WEIGHT_RULES_H_
