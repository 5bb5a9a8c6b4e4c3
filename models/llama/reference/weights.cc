#include "models/llama/reference/weights.h"

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint::models {
namespace {

// wk and wv under each other; only keys are turned, so only they are interleaved.
class KeyValueRelayout : public Relayout {
 public:
  KeyValueRelayout(int64_t heads, int64_t head_size)
      : keys_(RotaryInterleaveRelayout(heads, head_size)),
        parts_(ConcatRelayout({heads * head_size, heads * head_size})) {}

  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    std::vector<Expr> parts = external;
    if (!parts.empty()) {
      WAYPOINT_ASSIGN_OR_RETURN(parts[0], keys_->Import({external[0]}));
    }
    return parts_->Import(parts);
  }

  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override {
    WAYPOINT_ASSIGN_OR_RETURN(std::vector<Expr> parts, parts_->Export(native));
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<Expr> keys, keys_->Export(parts[0]));
    parts[0] = keys[0];
    return parts;
  }

 private:
  const RelayoutPtr keys_;
  const RelayoutPtr parts_;
};

struct NamedCut {
  absl::string_view suffix;
  ReferenceCut cut;
};
constexpr NamedCut kCuts[] = {
    {"attention.wq.weight", ReferenceCut::kRows},    {"attention.wk.weight", ReferenceCut::kHeads},
    {"attention.wv.weight", ReferenceCut::kHeads},   {"attention.wo.weight", ReferenceCut::kColumns},
    {"feed_forward.w1.weight", ReferenceCut::kRows}, {"feed_forward.w2.weight", ReferenceCut::kColumns},
    {"feed_forward.w3.weight", ReferenceCut::kRows},
};

}  // namespace

WeightRules ReferenceWeightRules(const LlamaFacts& facts) {
  const LlamaShape& shape = facts.shape;
  const int64_t head_size = shape.dim / shape.heads;
  WeightRules rules;
  rules.Add("embeddings.word_embeddings_weight", {kReferenceEmbedding});
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string native = absl::StrCat("decoder.", i);
    const std::string external = absl::StrCat("layers.", i);
    rules.Add(native + ".mixer.query.weight", {external + ".attention.wq.weight"},
              RotaryInterleaveRelayout(shape.heads, head_size));
    rules.Add(native + ".mixer.key_value.weight",
              {external + ".attention.wk.weight", external + ".attention.wv.weight"},
              std::make_shared<KeyValueRelayout>(shape.kv_heads, head_size));
    rules.Add(native + ".mixer.dense.weight", {external + ".attention.wo.weight"});
    rules.Add(native + ".mlp.layer_1.weight",
              {external + ".feed_forward.w1.weight", external + ".feed_forward.w3.weight"},
              ConcatRelayout({shape.ffn, shape.ffn}));
    rules.Add(native + ".mlp.layer_2.weight", {external + ".feed_forward.w2.weight"});
    rules.Add(native + ".norm_1.weight", {external + ".attention_norm.weight"});
    rules.Add(native + ".norm_2.weight", {external + ".ffn_norm.weight"});
  }
  rules.Add("head.final_norm.weight", {"norm.weight"});
  if (facts.tied) {
    // The reference code has a parameter of its own there and needs it stored.
    rules.AddCopy("embeddings.word_embeddings_weight", kReferenceOutput, /*emit=*/true);
  } else {
    rules.Add("head.output_weights", {kReferenceOutput});
  }
  const std::string reason = "rotary frequencies are computed from the config";
  rules.IgnoreExternal("rope.freqs", reason);
  rules.IgnoreExternal("layers.*.attention.inner_attention.rope.freqs", reason);
  return rules;
}

ReferenceCut CutOf(absl::string_view name) {
  if (name == kReferenceEmbedding) {
    return ReferenceCut::kEmbedding;
  }
  if (name == kReferenceOutput) {
    return ReferenceCut::kRows;
  }
  if (absl::ConsumePrefix(&name, "layers.")) {
    const size_t dot = name.find('.');
    const absl::string_view suffix = dot == absl::string_view::npos ? "" : name.substr(dot + 1);
    for (const NamedCut& row : kCuts) {
      if (row.suffix == suffix) {
        return row.cut;
      }
    }
  }
  return ReferenceCut::kCopied;
}

bool IsRotaryTable(absl::string_view name) { return name == "rope.freqs" || absl::EndsWith(name, ".rope.freqs"); }

std::string ReferenceFileName(int64_t file) { return absl::StrFormat("consolidated.%02d.pth", file); }

std::string ReferencePrefix(int64_t file) { return absl::StrFormat("consolidated.%02d/", file); }

}  // namespace waypoint::models
