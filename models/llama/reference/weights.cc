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

}  // namespace

std::string LayerTensorName(const LlamaNames& names, int64_t layer, absl::string_view tensor) {
  return absl::StrCat(names.layers, layer, ".", tensor);
}

WeightRules InterleavedWeightRules(const LlamaNames& names, const LlamaFacts& facts) {
  const LlamaShape& shape = facts.shape;
  const int64_t head_size = shape.dim / shape.heads;
  const std::string output(names.output);
  WeightRules rules;
  rules.Add("embeddings.word_embeddings_weight", {std::string(names.embedding)});
  for (int64_t i = 0; i < shape.layers; ++i) {
    const std::string native = absl::StrCat("decoder.", i);
    const auto external = [&](absl::string_view tensor) { return LayerTensorName(names, i, tensor); };
    rules.Add(native + ".mixer.query.weight", {external(names.query)},
              RotaryInterleaveRelayout(shape.heads, head_size));
    rules.Add(native + ".mixer.key_value.weight", {external(names.key), external(names.value)},
              std::make_shared<KeyValueRelayout>(shape.kv_heads, head_size));
    rules.Add(native + ".mixer.dense.weight", {external(names.attention_output)});
    rules.Add(native + ".mlp.layer_1.weight", {external(names.gate), external(names.up)},
              ConcatRelayout({shape.ffn, shape.ffn}));
    rules.Add(native + ".mlp.layer_2.weight", {external(names.down)});
    rules.Add(native + ".norm_1.weight", {external(names.attention_norm)});
    rules.Add(native + ".norm_2.weight", {external(names.ffn_norm)});
  }
  rules.Add("head.final_norm.weight", {std::string(names.final_norm)});
  if (facts.tied) {
    // The code has a parameter of its own there and needs it stored.
    rules.AddCopy("embeddings.word_embeddings_weight", output, /*emit=*/true);
  } else {
    rules.Add("head.output_weights", {output});
  }
  const std::string reason = "rotary frequencies are computed from the config";
  rules.IgnoreExternal("rope.freqs", reason);
  rules.IgnoreExternal(absl::StrCat(names.layers, "*.attention.inner_attention.rope.freqs"), reason);
  return rules;
}

ReferenceCut CutOf(const LlamaNames& names, absl::string_view name) {
  if (name == names.embedding) {
    return ReferenceCut::kEmbedding;
  }
  if (name == names.output) {
    return ReferenceCut::kRows;
  }
  if (!absl::ConsumePrefix(&name, names.layers)) {
    return ReferenceCut::kCopied;
  }
  const size_t dot = name.find('.');
  const absl::string_view tensor = dot == absl::string_view::npos ? "" : name.substr(dot + 1);
  if (tensor == names.key || tensor == names.value) {
    return ReferenceCut::kHeads;
  }
  if (tensor == names.attention_output || tensor == names.down) {
    return ReferenceCut::kColumns;
  }
  return tensor == names.query || tensor == names.gate || tensor == names.up ? ReferenceCut::kRows
                                                                             : ReferenceCut::kCopied;
}

bool IsRotaryTable(absl::string_view name) { return name == "rope.freqs" || absl::EndsWith(name, ".rope.freqs"); }

std::string ReferenceFileName(int64_t file) { return absl::StrFormat("consolidated.%02d.pth", file); }

std::string ReferencePrefix(int64_t file) { return absl::StrFormat("consolidated.%02d/", file); }

}  // namespace waypoint::models
