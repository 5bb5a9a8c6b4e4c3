#ifndef TESTS_MODELS_DECODER_TINY_CONFIG_H_
#define TESTS_MODELS_DECODER_TINY_CONFIG_H_

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

// A valid Llama-like config of a few thousand parameters, to be changed by tests.
inline DecoderConfig TinyConfig() {
  DecoderConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      R"pb(
        hidden_size: 16
        vocab_size: 32
        embeddings { embedding_scale: 1 }
        decoder {
          num_blocks: 2
          fixed {
            mixer {
              attention {
                heads: 4
                head_groups: 2
                head_size: 4
                rotary {
                  theta: 10000
                  standard {}
                }
                causal: true
                softmax_scale_power: 0.5
              }
            }
            mlp { dense { intermediate_size: 24 gated: true activation: SILU } }
            normalization { kind: RMS_NORM epsilon: 1e-5 }
          }
        }
        head {
          normalization { kind: RMS_NORM epsilon: 1e-5 }
          logits_scale_factor: 1
          prediction_heads: 1
        }
      )pb",
      &config));
  return config;
}

inline Attention& AttentionOf(DecoderConfig& config) {
  return *config.mutable_decoder()->mutable_fixed()->mutable_mixer()->mutable_attention();
}

// Replaces the MLP by a mixture of `experts` like it.
inline MoeMlp& MakeMoe(DecoderConfig& config, int64_t experts) {
  Mlp& mlp = *config.mutable_decoder()->mutable_fixed()->mutable_mlp();
  const DenseMlp expert = mlp.dense();
  MoeMlp& moe = *mlp.mutable_moe();
  *moe.mutable_expert() = expert;
  moe.set_experts(experts);
  moe.set_experts_per_token(2);
  moe.set_routing(MoeMlp::SOFTMAX_TOP_K_NORMALIZED);
  moe.set_router_input_scale(1);
  return moe;
}

}  // namespace waypoint::models

#endif  // TESTS_MODELS_DECODER_TINY_CONFIG_H_
