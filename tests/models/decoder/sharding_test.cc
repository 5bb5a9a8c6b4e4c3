#include "models/decoder/sharding.h"

#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/decoder/parameters.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Divides by 1, 2, 3, 4 and 6, but for the vocabulary.
DecoderConfig Divisible() {
  DecoderConfig config = TinyConfig();
  config.set_vocab_size(35);
  config.mutable_decoder()->set_num_blocks(5);
  AttentionOf(config).set_heads(24);
  AttentionOf(config).set_head_groups(12);
  return config;
}

std::vector<DecoderConfig> Configs() {
  std::vector<DecoderConfig> configs = {Divisible()};
  configs.push_back(Divisible());
  configs.back().set_tied_embedding_weight(true);
  Attention& biased = AttentionOf(configs.back());
  biased.set_query_bias(true);
  biased.set_key_bias(true);
  biased.set_dense_bias(true);
  biased.mutable_query_norm()->set_kind(Normalization::LAYER_NORM);
  biased.mutable_query_norm()->set_epsilon(1e-5);
  configs.push_back(Divisible());
  Block& plain = *configs.back().mutable_decoder()->mutable_fixed();
  plain.mutable_mlp()->mutable_dense()->set_gated(false);
  plain.mutable_mlp()->mutable_dense()->set_add_linear_biases(true);
  configs.back().mutable_embeddings()->set_num_position_embeddings(7);
  configs.back().mutable_head()->set_prediction_heads(2);
  configs.push_back(Divisible());
  Mixer& mixer = *configs.back().mutable_decoder()->mutable_fixed()->mutable_mixer();
  const Attention attention = mixer.attention();
  StochasticMixer& stochastic = *mixer.mutable_stochastic();
  *(*stochastic.mutable_mixers())["a"].mutable_attention() = attention;
  *(*stochastic.mutable_mixers())["b"].mutable_attention() = attention;
  (*stochastic.mutable_mixers())["b"].mutable_attention()->set_value_bias(true);
  stochastic.set_main_mixer_name("a");
  return configs;
}

// How often each element of each parameter is held by the ranks of `parts`.
std::map<std::string, std::vector<int>> Held(const DecoderConfig& config, const std::vector<DecoderPart>& parts) {
  std::map<std::string, std::vector<int>> held;
  for (const DecoderPart& part : parts) {
    for (const ShardedParameter& parameter : ShardParameters(config, part)) {
      std::vector<int>& counts = held[parameter.name];
      counts.resize(NumElements(parameter.shape));
      for (const Box& box : parameter.boxes) {
        EXPECT_TRUE(Contains(parameter.shape, box)) << parameter.name;
        std::vector<char> bytes(box.num_elements());
        ForEachRun(parameter.shape, box, StridedSpan::Contiguous(bytes.data(), 1, box.sizes),
                   [&](int64_t begin, int64_t elements, char*, int64_t) {
                     for (int64_t i = 0; i < elements; ++i) {
                       ++counts[begin + i];
                     }
                   });
      }
    }
  }
  return held;
}

TEST(ShardingTest, RanksOfOneReplicaHoldEachCutElementOnce) {
  for (const DecoderConfig& config : Configs()) {
    for (const int tensor_size : {1, 2, 3, 4, 6}) {
      for (const int stages : {1, 2, 3, 5}) {
        SCOPED_TRACE(absl::StrCat(tensor_size, " tensor ranks, ", stages, " stages"));
        std::vector<DecoderPart> parts;
        std::map<std::string, bool> cut;
        for (int stage = 0; stage < stages; ++stage) {
          for (int index = 0; index < tensor_size; ++index) {
            parts.push_back({index, tensor_size, stage, stages});
            ASSERT_OK(CheckPart(config, parts.back()));
            for (const ShardedParameter& parameter : ShardParameters(config, parts.back())) {
              cut[parameter.name] = parameter.cut;
            }
          }
        }
        const auto held = Held(config, parts);
        for (const ParameterShape& parameter : ListParameters(config).parameters) {
          const bool tied =
              config.tied_embedding_weight() && stages > 1 && parameter.name == "embeddings.word_embeddings_weight";
          const int times = (cut.at(parameter.name) ? 1 : tensor_size) * (tied ? 2 : 1);
          ASSERT_EQ(held.at(parameter.name), std::vector<int>(NumElements(parameter.shape), times)) << parameter.name;
        }
        EXPECT_EQ(held.size(), ListParameters(config).parameters.size());
      }
    }
  }
}

TEST(ShardingTest, ShapesAreThoseOfTheRanksOwnConfig) {
  for (const DecoderConfig& config : Configs()) {
    const DecoderPart part = {2, 3, 0, 1};
    std::map<std::string, Dims> own;
    for (const ParameterShape& parameter : ListParameters(TensorLocalConfig(config, part)).parameters) {
      own[parameter.name] = parameter.shape;
    }
    for (const ShardedParameter& parameter : ShardParameters(config, part)) {
      Dims expected = own.at(parameter.name);
      if (parameter.name == "embeddings.word_embeddings_weight" || parameter.name == "head.output_weights") {
        expected[0] = VocabularyOf(config, part).size();
      }
      EXPECT_EQ(parameter.local_shape, expected) << parameter.name;
      Dims stacked = parameter.boxes[0].sizes;
      for (size_t i = 1; i < parameter.boxes.size(); ++i) {
        stacked[0] += parameter.boxes[i].sizes[0];
      }
      EXPECT_EQ(stacked, expected) << parameter.name;
    }
  }
}

TEST(ShardingTest, FusedProjectionsAreTwoBoxes) {
  const auto sharded = ShardParameters(Divisible(), {1, 2, 0, 1});
  for (const ShardedParameter& parameter : sharded) {
    if (parameter.name == "decoder.0.mixer.key_value.weight") {
      // 12 heads of 4 rows each.
      EXPECT_THAT(parameter.boxes, ElementsAre(Box{{24, 0}, {24, 16}}, Box{{72, 0}, {24, 16}}));
      EXPECT_EQ(parameter.local_shape, (Dims{48, 16}));
      return;
    }
  }
  FAIL() << "no key_value";
}

TEST(ShardingTest, StagesTakeRunsOfLayersAndTiedEmbeddingsStandAtBothEnds) {
  DecoderConfig config = Divisible();
  config.set_tied_embedding_weight(true);

  const auto first = ShardParameters(config, {0, 1, 0, 2});
  const auto last = ShardParameters(config, {0, 1, 1, 2});

  EXPECT_EQ(first.front().name, "embeddings.word_embeddings_weight");
  EXPECT_FALSE(first.front().tied_copy);
  EXPECT_THAT(first.back().name, HasSubstr("decoder.2."));
  EXPECT_EQ(last.front().name, "embeddings.word_embeddings_weight");
  EXPECT_TRUE(last.front().tied_copy);
  EXPECT_EQ(last.back().name, "head.final_norm.weight");
}

// Numbers of layers by stage.
std::vector<int64_t> LayersByStage(int64_t layers, int stages) {
  DecoderConfig config;
  config.mutable_decoder()->set_num_blocks(layers);
  std::vector<int64_t> sizes;
  int64_t end = 0;
  for (int stage = 0; stage < stages; ++stage) {
    const IndexRange range = LayersOf(config, {0, 1, stage, stages});
    EXPECT_EQ(range.begin, end);
    end = range.end;
    sizes.push_back(range.size());
  }
  EXPECT_EQ(end, layers);
  return sizes;
}

// What the ends hold besides layers must not come on top of more layers.
TEST(ShardingTest, StagesInTheMiddleTakeTheLayersThatDoNotDivide) {
  EXPECT_THAT(LayersByStage(126, 16), ElementsAre(7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7));
  EXPECT_THAT(LayersByStage(9, 4), ElementsAre(2, 3, 2, 2));
  EXPECT_THAT(LayersByStage(11, 4), ElementsAre(3, 3, 3, 2));
  EXPECT_THAT(LayersByStage(12, 4), ElementsAre(3, 3, 3, 3));
  EXPECT_THAT(LayersByStage(5, 2), ElementsAre(3, 2));
  EXPECT_THAT(LayersByStage(3, 1), ElementsAre(3));
}

TEST(ShardingTest, WhatDoesNotDivideIsNamedAllTogether) {
  DecoderConfig config = TinyConfig();  // 4 heads, 2 groups, 24 channels

  EXPECT_THAT(CheckPart(config, {0, 5, 0, 3}),
              IsKind(ErrorKind::kRequest,
                     AllOf(HasSubstr("heads is 4, which 5 tensor ranks do not divide"), HasSubstr("head_groups is 2"),
                           HasSubstr("intermediate_size is 24"), HasSubstr("num_blocks is 2, less than 3"))));
  config.set_vocab_size(1);
  EXPECT_THAT(CheckPart(config, {0, 2, 0, 1}), IsKind(ErrorKind::kRequest, HasSubstr("vocab_size is 1")));
  MakeMoe(config, 4);
  EXPECT_THAT(CheckPart(config, {0, 2, 0, 1}), IsKind(ErrorKind::kUnsupported, HasSubstr("mixtures of experts")));
  EXPECT_OK(CheckPart(config, {0, 1, 1, 2}));
}

TEST(ShardingTest, PartsCoverTheirRangeWithoutOverflow) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  EXPECT_EQ(PartOf(kHuge, 6, 7).end, kHuge);
  EXPECT_EQ(PartOf(10, 0, 4).size(), 3);
  EXPECT_EQ(PartOf(10, 3, 4).begin, 8);
  EXPECT_EQ(PartOf(2, 3, 4).size(), 0);
}

}  // namespace
}  // namespace waypoint::models
