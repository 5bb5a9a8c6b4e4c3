#include "checkpoint/convert/weights/weight_rules.h"

#include <functional>

#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

struct T {
  std::string name;
  Dims shape;
  DType dtype = DType::kBF16;
};

Manifest Tensors(const std::vector<T>& tensors) {
  Manifest manifest;
  for (const T& tensor : tensors) {
    TensorMeta meta;
    meta.name = tensor.name;
    meta.dtype = tensor.dtype;
    meta.shape = tensor.shape;
    EXPECT_OK(manifest.Add(meta));
  }
  return manifest;
}

std::vector<std::string> Lines(const std::vector<ConvertedTensor>& tensors) {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : tensors) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  return lines;
}

// embed <-> wte; kv <-> k, v; out tied to embed.
WeightRules Rules(bool emit_copy = false) {
  WeightRules rules;
  rules.Add("embed", {"wte"});
  rules.Add("kv", {"k", "v"}, ConcatRelayout({4, 4}));
  rules.AddCopy("embed", "out", emit_copy);
  rules.IgnoreExternal("layers.*.inv_freq", "recomputed");
  return rules;
}

Manifest Parameters() { return Tensors({{"embed", {6, 2}, DType::kF32}, {"kv", {8, 3}, DType::kF32}}); }

TEST(PlanImportTest, ParametersAreMadeInTheirOrder) {
  ASSERT_OK_AND_ASSIGN(const ImportPlan plan,
                       PlanImport(Rules(), Parameters(), Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"wte", {6, 2}}})));

  EXPECT_THAT(Lines(plan.tensors), ElementsAre("embed = wte", "kv = concat(k, v, dim=0)"));
  EXPECT_EQ(plan.tensors[0].expression->dtype(), DType::kBF16);
  EXPECT_THAT(plan.notes, IsEmpty());
  EXPECT_THAT(plan.copies, IsEmpty());
}

TEST(PlanImportTest, EveryProblemIsInOneError) {
  WeightRules rules = Rules();
  rules.Add("norm", {"n"});
  rules.Add("scale", {"s"});
  Manifest parameters = Parameters();
  for (const char* name : {"norm", "scale", "unruled"}) {
    ASSERT_OK(parameters.Add({name, DType::kF32, {2}, {}}));
  }

  EXPECT_THAT(
      PlanImport(rules, parameters,
                 Tensors({{"k", {3, 4}}, {"v", {4, 3}}, {"n", {2}, DType::kI64}, {"stray", {1}}, {"wte", {6, 2}}})),
      IsKind(ErrorKind::kMissing, AllOf(HasSubstr("2 missing: \"s\", \"unruled\" (no rule makes it)"),
                                        HasSubstr("1 of another shape: \"k\" is [3, 4], the config wants [4, 3]"),
                                        HasSubstr("1 of an unusable element type: \"n\" is I64"),
                                        HasSubstr("1 that nothing expects: \"stray\""))));
}

TEST(PlanImportTest, KindIsThatOfTheGravestProblem) {
  const T k = {"k", {4, 3}};
  const T v = {"v", {4, 3}};
  const T wte = {"wte", {6, 2}};
  EXPECT_THAT(PlanImport(Rules(), Parameters(), Tensors({k, v, wte, {"stray", {1}}})), IsKind(ErrorKind::kExtra));
  EXPECT_THAT(PlanImport(Rules(), Parameters(), Tensors({k, v, {"wte", {6, 3}}, {"stray", {1}}})),
              IsKind(ErrorKind::kShape));
  EXPECT_THAT(PlanImport(Rules(), Parameters(), Tensors({k, v, {"wte", {6, 2}, DType::kF8E4M3}})),
              IsKind(ErrorKind::kDType, HasSubstr("F8_E4M3")));
  EXPECT_THAT(PlanImport(Rules(), Parameters(), Tensors({k, {"v", {4, 3}, DType::kF32}, wte})),
              IsKind(ErrorKind::kDType, AllOf(HasSubstr("\"v\" is F32"), HasSubstr("\"k\""))));
}

TEST(PlanImportTest, TenOfAKindAreSpelledOut) {
  std::vector<T> tensors = {{"k", {4, 3}}, {"v", {4, 3}}, {"wte", {6, 2}}};
  for (int i = 0; i < 12; ++i) {
    tensors.push_back({absl::StrCat("stray", i), {1}});
  }
  EXPECT_THAT(PlanImport(Rules(), Parameters(), Tensors(tensors)),
              IsKind(ErrorKind::kExtra, AllOf(HasSubstr("12 that nothing expects"), HasSubstr("\"stray9\", ..."),
                                              Not(HasSubstr("stray10")))));
}

TEST(PlanImportTest, RulesThatClaimTwiceAreRefused) {
  WeightRules rules = Rules();
  rules.Add("embed2", {"wte"});
  rules.Add("kv", {"x"});
  EXPECT_THAT(PlanImport(rules, Parameters(), Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"wte", {6, 2}}})),
              IsKind(ErrorKind::kDupKey, HasSubstr("2 claimed twice: \"wte\", \"kv\"")));
}

TEST(PlanImportTest, IgnoredTensorsAreCountedAndNoted) {
  ASSERT_OK_AND_ASSIGN(const ImportPlan plan, PlanImport(Rules(), Parameters(),
                                                         Tensors({{"v", {4, 3}},
                                                                  {"layers.0.inv_freq", {2}},
                                                                  {"layers.17.inv_freq", {2}, DType::kI32},
                                                                  {"k", {4, 3}},
                                                                  {"wte", {6, 2}}})));

  EXPECT_THAT(plan.notes, ElementsAre("did not read 2 tensors \"layers.*.inv_freq\": recomputed"));
}

// safetensors.torch.save_model keeps the alphabetically first name of two that share a tensor.
TEST(PlanImportTest, ATiedTensorIsTakenUnderTheNameThatIsStored) {
  ASSERT_OK_AND_ASSIGN(const ImportPlan plan,
                       PlanImport(Rules(), Parameters(), Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"out", {6, 2}}})));
  EXPECT_THAT(Lines(plan.tensors), ElementsAre("embed = out", "kv = concat(k, v, dim=0)"));
  EXPECT_THAT(plan.copies, IsEmpty());
  EXPECT_THAT(plan.notes, ElementsAre(AllOf(HasSubstr("\"out\""), HasSubstr("\"wte\""))));

  EXPECT_THAT(PlanImport(Rules(), Parameters(), Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"out", {6, 3}}})),
              IsKind(ErrorKind::kShape, HasSubstr("\"out\" is [6, 3], the config wants [6, 2]")));
}

TEST(PlanImportTest, CopiesAreComparedByTheCaller) {
  ASSERT_OK_AND_ASSIGN(
      const ImportPlan plan,
      PlanImport(Rules(), Parameters(), Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"out", {6, 2}}, {"wte", {6, 2}}})));
  EXPECT_THAT(Lines(plan.copies), ElementsAre("out = wte"));

  EXPECT_THAT(
      PlanImport(Rules(), Parameters(), Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"out", {6, 3}}, {"wte", {6, 2}}})),
      IsKind(ErrorKind::kShape, HasSubstr("\"out\" is [6, 3] BF16 and should be a copy of \"wte\"")));
  EXPECT_THAT(PlanImport(Rules(), Parameters(),
                         Tensors({{"v", {4, 3}}, {"k", {4, 3}}, {"out", {6, 2}, DType::kF32}, {"wte", {6, 2}}})),
              IsKind(ErrorKind::kShape));
}

TEST(PlanImportTest, ARuleWithAWrongNumberOfNamesIsABug) {
  WeightRules rules;
  rules.Add("kv", {"k"}, ConcatRelayout({4, 4}));
  EXPECT_THAT(PlanImport(rules, Tensors({{"kv", {8, 3}}}), Tensors({{"k", {8, 3}}})), IsKind(ErrorKind::kUnknown));
}

TEST(PlanExportTest, PartsAreCutInTheOrderOfTheRules) {
  ASSERT_OK_AND_ASSIGN(const ExportPlan plan, PlanExport(Rules(), Parameters()));

  EXPECT_THAT(Lines(plan.tensors), ElementsAre("wte = embed", "k = kv[0:4]", "v = kv[4:8]"));
}

TEST(PlanExportTest, CopiesAreStoredOnlyWhenAsked) {
  ASSERT_OK_AND_ASSIGN(const ExportPlan plan, PlanExport(Rules(/*emit_copy=*/true), Parameters()));

  EXPECT_THAT(Lines(plan.tensors), ElementsAre("wte = embed", "k = kv[0:4]", "v = kv[4:8]", "out = embed"));
}

TEST(PlanExportTest, OptimizerStateIsLeftOutWithANote) {
  Manifest native = Parameters();
  ASSERT_OK(native.Add({"kv/exp_avg", DType::kF32, {8, 3}, {}}));
  ASSERT_OK(native.Add({"kv/step", DType::kF32, {}, {}}));

  ASSERT_OK_AND_ASSIGN(const ExportPlan plan, PlanExport(Rules(), native));

  EXPECT_EQ(plan.tensors.size(), 3u);
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("2 tensors of optimizer state")));
}

TEST(PlanExportTest, EveryProblemIsInOneError) {
  EXPECT_THAT(PlanExport(Rules(), Tensors({{"kv", {9, 3}}, {"stray", {1}}})),
              IsKind(ErrorKind::kMissing, AllOf(HasSubstr("1 missing: \"embed\""),
                                                HasSubstr("\"kv\" [9, 3]: the format takes only 24 of its elements"),
                                                HasSubstr("1 that nothing expects: \"stray\""))));
  EXPECT_THAT(PlanExport(Rules(), Tensors({{"embed", {6, 2}}, {"kv", {7, 3}}})), IsKind(ErrorKind::kShape));
}

TEST(PlanTest, ImportOfAnExportIsTheIdentity) {
  const Manifest native = Parameters();
  ASSERT_OK_AND_ASSIGN(const ExportPlan exported, PlanExport(Rules(), native));
  Manifest external;
  for (const ConvertedTensor& tensor : exported.tensors) {
    ASSERT_OK(external.Add({tensor.name, tensor.expression->dtype(), tensor.expression->shape(), {}}));
  }
  ASSERT_OK_AND_ASSIGN(const ImportPlan imported, PlanImport(Rules(), native, external));

  for (const ConvertedTensor& tensor : imported.tensors) {
    ASSERT_OK_AND_ASSIGN(const Expr whole, Substitute(tensor.expression, [&](const Expression& ref) {
                           return exported.tensors[ref.tensor()].expression;
                         }));
    EXPECT_EQ(whole->ToString(), tensor.name);
  }
}

// By the definition, in exponential time.
bool Matches(absl::string_view text, absl::string_view pattern) {
  if (pattern.empty()) {
    return text.empty();
  }
  if (pattern[0] != '*') {
    return !text.empty() && text[0] == pattern[0] && Matches(text.substr(1), pattern.substr(1));
  }
  return Matches(text, pattern.substr(1)) || (!text.empty() && text[0] != '.' && Matches(text.substr(1), pattern));
}

// Every string of these characters up to a length.
std::vector<std::string> Strings(absl::string_view characters, size_t length) {
  std::vector<std::string> strings = {""};
  for (size_t begin = 0, size = 0; size < length; ++size) {
    const size_t end = strings.size();
    for (; begin < end; ++begin) {
      for (const char c : characters) {
        strings.push_back(strings[begin] + c);
      }
    }
  }
  return strings;
}

TEST(MatchesPatternTest, AgreesWithTheDefinition) {
  const std::vector<std::string> texts = Strings("ab.", 6);
  for (const std::string& pattern : Strings("a.*", 6)) {
    for (const std::string& text : texts) {
      ASSERT_EQ(MatchesPattern(text, pattern), Matches(text, pattern)) << text << " against " << pattern;
    }
  }
}

TEST(MatchesPatternTest, LongNamesAreQuick) {
  const std::string text(65'536, 'a');
  std::string pattern;
  for (int i = 0; i < 1000; ++i) {
    pattern += "*a";
  }
  EXPECT_TRUE(MatchesPattern(text, pattern));
  EXPECT_FALSE(MatchesPattern(text, pattern + "b"));
}

}  // namespace
}  // namespace waypoint
