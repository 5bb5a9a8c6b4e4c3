// Every architecture of fairseq2, as files with the right shapes and next to no data; and what may stand around a state
// dict.

#include "absl/strings/str_cat.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "models/llama/fairseq2/fairseq2_format.h"
#include "models/llama/fairseq2/names.h"
#include "models/llama/reference/export_plan.h"
#include "tests/models/llama/reference/fairseq2_params.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/torch_bytes.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

using PickledItems = std::vector<std::pair<std::string, std::string>>;

// One element, seen as many: a number of a storage.
std::string Expanded(absl::string_view storage, const Dims& shape) {
  PickledTensor tensor;
  tensor.type = "BFloat16Storage";
  tensor.key = std::string(storage);
  tensor.numel = 1;
  tensor.shape.assign(shape.begin(), shape.end());
  tensor.strides.assign(shape.size(), 0);
  return tensor.ToString();
}

PickledItems StateDict(const LlamaShape& shape, bool tied) {
  const int64_t kv_rows = shape.dim / shape.heads * shape.kv_heads;
  PickledItems items = {{"decoder_frontend.embed.weight", Expanded("0", {shape.vocab, shape.dim})},
                        {"decoder.layer_norm.weight", Expanded("0", {shape.dim})}};
  if (!tied) {
    items.emplace_back("final_proj.weight", Expanded("1", {shape.vocab, shape.dim}));
  }
  for (int64_t i = 0; i < shape.layers; ++i) {
    const auto add = [&](absl::string_view name, const Dims& dims) {
      items.emplace_back(absl::StrCat("decoder.layers.", i, ".", name, ".weight"), Expanded("0", dims));
    };
    add("self_attn.q_proj", {shape.dim, shape.dim});
    add("self_attn.k_proj", {kv_rows, shape.dim});
    add("self_attn.v_proj", {kv_rows, shape.dim});
    add("self_attn.output_proj", {shape.dim, shape.dim});
    add("self_attn_layer_norm", {shape.dim});
    add("ffn.gate_proj", {shape.ffn, shape.dim});
    add("ffn.inner_proj", {shape.ffn, shape.dim});
    add("ffn.output_proj", {shape.dim, shape.ffn});
    add("ffn_layer_norm", {shape.dim});
  }
  return items;
}

class Fairseq2ModelsTest : public testing::Test {
 protected:
  void Write(const std::string& root) {
    ASSERT_OK(MakeDirectories(fs_, "/model"));
    const std::string zeros(2, '\0');
    Rewrite(fs_, "/model/model.pt", TorchBytes(Pickle(root), {zeros, "ab"}));
  }

  void WriteModel(const LlamaShape& shape, bool tied) {
    Write(PickleDict(
        {{"model", PickleDict(StateDict(shape, tied))}, {"model_key", PickleText("model")}, {"fs2", "\x88"}}));
  }

  absl::StatusOr<OpenedCheckpoint> Open(const FormatOptionValues& values) {
    LoadOptions options;
    options.limits.expand_bytes = int64_t{1} << 40;
    options.limits.expand_file_bytes = int64_t{1} << 40;
    options.format_options = values;
    return NewFairseq2Format()->Open(fs_, "/model", options);
  }

  static absl::StatusOr<ReferenceExport> Plan(const OpenedCheckpoint& opened, FormatOptionValues values) {
    values["consumer"] = "fairseq2";
    auto options = ParseReferenceOptions(values);
    if (!options.ok()) {
      return options.status();
    }
    return PlanReferenceExport(opened.metadata, *options);
  }

  MemoryFileSystem fs_;
};

class Fairseq2ArchitectureTest : public Fairseq2ModelsTest, public testing::WithParamInterface<Fairseq2Literal> {};

// What `fairseq2 llama convert_checkpoint` does: as many files as before, and this params.json.
TEST_P(Fairseq2ArchitectureTest, BecomesTheReferenceFilesOfItsOwnCommand) {
  ASSERT_OK_AND_ASSIGN(const LlamaArchitecture* architecture, FindLlamaArchitecture(GetParam().name));
  WriteModel(architecture->shape, architecture->tied);
  FormatOptionValues values = {{"model", GetParam().name}};
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open(values));

  if (architecture->fairseq2_layers != architecture->shape.layers) {
    ASSERT_OK_AND_ASSIGN(const ReferenceExport right, Plan(opened, values));
    EXPECT_THAT(right.params_text, HasSubstr("\"n_layers\": 40"));
    values["fairseq2-errors"] = "true";
  }
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, Plan(opened, values));

  EXPECT_EQ(plan.params_text, GetParam().text);
  EXPECT_EQ(plan.layout.files, 1);
  EXPECT_EQ(plan.facts.theta, architecture->rope_theta);
  EXPECT_EQ(plan.facts.scale_factor, architecture->scale_factor);
  EXPECT_EQ(plan.facts.tied, architecture->tied);
  EXPECT_EQ(plan.facts.epsilon, 1e-5);
  if (architecture->norm_eps != 1e-5) {
    EXPECT_THAT(opened.notes, Contains(AllOf(HasSubstr("took norm_eps 1e-05"), HasSubstr("--norm-eps 1e-06"))));
  }
}

// A 13b that fairseq2 made has the layers that its registry says.
TEST_P(Fairseq2ArchitectureTest, IsAlsoReadWithTheLayersOfItsRegistry) {
  ASSERT_OK_AND_ASSIGN(const LlamaArchitecture* architecture, FindLlamaArchitecture(GetParam().name));
  if (architecture->fairseq2_layers == architecture->shape.layers) {
    EXPECT_NE(architecture->shape.dim, 5120);
    return;
  }
  LlamaShape shape = architecture->shape;
  shape.layers = architecture->fairseq2_layers;
  WriteModel(shape, architecture->tied);
  const FormatOptionValues values = {{"model", GetParam().name}, {"fairseq2-errors", "true"}};
  EXPECT_THAT(Open({{"model", GetParam().name}}), IsKind(ErrorKind::kConfig, HasSubstr("n_layers is 40")));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open(values));
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, Plan(opened, values));
  EXPECT_EQ(plan.params_text, GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(Architectures, Fairseq2ArchitectureTest, testing::ValuesIn(kFairseq2Params),
                         [](const testing::TestParamInfo<Fairseq2Literal>& info) {
                           return std::string(info.param.name);
                         });

TEST_F(Fairseq2ModelsTest, TheOptionSaysAnotherEpsilon) {
  ASSERT_OK_AND_ASSIGN(const LlamaArchitecture* architecture, FindLlamaArchitecture("7b"));
  WriteModel(architecture->shape, false);
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open({{"model", "7b"}, {"norm-eps", "1e-6"}}));
  EXPECT_THAT(opened.notes, Not(Contains(HasSubstr("took norm_eps"))));
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, Plan(opened, {}));
  EXPECT_EQ(plan.facts.epsilon, 1e-6);
}

TEST_F(Fairseq2ModelsTest, WithoutANameTheFittingOnesAreTold) {
  ASSERT_OK_AND_ASSIGN(const LlamaArchitecture* architecture, FindLlamaArchitecture("llama3_8b"));
  WriteModel(architecture->shape, false);
  EXPECT_THAT(Open({}), IsKind(ErrorKind::kMissing, HasSubstr("of this shape is llama3_8b, llama3_1_8b (dim 4096")));
  EXPECT_THAT(Open({{"model", "llama4"}}), IsKind(ErrorKind::kRequest, HasSubstr("llama3_2_3b")));
}

TEST_F(Fairseq2ModelsTest, AStateDictMayBeUnderAnyKey) {
  ASSERT_OK_AND_ASSIGN(const LlamaArchitecture* architecture, FindLlamaArchitecture("llama3_2_1b"));
  const PickledItems state = StateDict(architecture->shape, true);
  PickledItems extra = {{"model", PickleDict(state)}, {"step_nr", PickleInt(3)}};
  const std::string ordered = PickleOrderedDict() + PickleDict(state).substr(1);  // its items, set into another dict
  for (const std::string& root :
       {PickleDict(state), PickleDict(extra), PickleDict({{"model", ordered}}),
        PickleDict({{"weights", PickleDict(state)}}), PickleDict({{"state_dict", PickleDict(state)}}),
        PickleDict({{"a.b", PickleDict(state)}, {"model_key", PickleText("a.b")}}),
        PickleDict({{"model_key", PickleText("w")}, {"w", PickleDict(state)}, {"model", PickleDict(state)}})}) {
    Write(root);
    ASSERT_OK(Open({{"model", "llama3_2_1b"}}));
  }
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint two, Open({{"model", "llama3_2_1b"}}));
  EXPECT_THAT(two.notes, Contains(HasSubstr(absl::StrCat("\"model\" (", state.size(), " tensors)"))));

  Write(PickleDict({{"model", PickleDict(state)}, {"model_key", PickleInt(3)}}));
  EXPECT_THAT(Open({}), IsKind(ErrorKind::kSchema, HasSubstr("\"model_key\" is of type int")));
  Write(PickleDict({{"weights", PickleDict(state)}, {"model_key", PickleText("model")}}));
  EXPECT_THAT(Open({}), IsKind(ErrorKind::kMissing, AllOf(HasSubstr("under \"model\""), HasSubstr("\"weights\""))));
  Write(PickleDict({{"mine", PickleDict(state)}}));
  EXPECT_THAT(Open({}), IsKind(ErrorKind::kMissing, HasSubstr("model.pt has no tensor \"decoder.layer_norm.weight\"")));
}

}  // namespace
}  // namespace waypoint::models
