// A decoder cut over tensor ranks and stages computes what the whole one does, gradients included.

#include "models/decoder/tensor_parallel.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "models/decoder/decoder_module.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

// Ranks that are threads, with one place to meet.
class Meeting {
 public:
  explicit Meeting(int ranks) : ranks_(ranks) {}

  void Combine(const at::Tensor& tensor, bool sum) {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t turn = turn_;
    total_ = arrived_ == 0 ? tensor.clone() : (sum ? total_ + tensor : at::maximum(total_, tensor));
    if (++arrived_ == ranks_) {
      result_ = total_;
      arrived_ = 0;
      ++turn_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return turn_ != turn; });
    }
    tensor.copy_(result_);
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  int64_t turn_ = 0;
  at::Tensor total_;
  // Stays until all of the next turn have come, and so all of this one have copied it.
  at::Tensor result_;
};

class ThreadRanks : public TensorRanks {
 public:
  explicit ThreadRanks(Meeting& meeting) : meeting_(meeting) {}
  void Sum(const at::Tensor& tensor) override { meeting_.Combine(tensor, true); }
  void Max(const at::Tensor& tensor) override { meeting_.Combine(tensor, false); }

 private:
  Meeting& meeting_;
};

// All that a dense block can have and that ranks must agree on.
DecoderConfig FullConfig() {
  DecoderConfig config = TinyConfig();
  config.set_vocab_size(35);  // not divisible
  Attention& attention = AttentionOf(config);
  attention.set_heads(12);
  attention.set_head_groups(6);
  attention.set_add_linear_biases(true);
  attention.set_value_bias(false);
  attention.mutable_query_norm()->set_kind(Normalization::LAYER_NORM);
  attention.mutable_query_norm()->set_epsilon(1e-5);
  attention.mutable_key_norm()->set_kind(Normalization::RMS_NORM);
  attention.mutable_key_norm()->set_epsilon(1e-5);
  Block& block = *config.mutable_decoder()->mutable_fixed();
  block.mutable_mlp()->mutable_dense()->set_add_linear_biases(true);
  block.mutable_post_mixer_normalization()->set_kind(Normalization::RMS_NORM);
  block.mutable_post_mixer_normalization()->set_epsilon(1e-5);
  config.mutable_embeddings()->set_num_position_embeddings(16);
  config.mutable_head()->set_final_logit_softcap(5);
  return config;
}

struct Pass {
  double loss = 0;
  std::map<std::string, at::Tensor> gradients;
};

// Of the whole model; values that are not the first ones, which leave most biases and norms without effect.
std::map<std::string, at::Tensor> Values(const DecoderConfig& config) {
  std::map<std::string, at::Tensor> values;
  at::manual_seed(5);
  for (const ShardedParameter& parameter : ShardParameters(config, {})) {
    values[parameter.name] = at::randn({parameter.shape.data(), parameter.shape.size()}) * 0.3;
  }
  return values;
}

at::Tensor Held(const at::Tensor& whole, const ShardedParameter& parameter) {
  std::vector<at::Tensor> parts;
  for (const Box& box : parameter.boxes) {
    at::Tensor part = whole;
    for (int d = 0; d < box.rank(); ++d) {
      part = part.narrow(d, box.offsets[d], box.sizes[d]);
    }
    parts.push_back(part);
  }
  return at::cat(parts);
}

void SetValues(DecoderModule& model, const std::map<std::string, at::Tensor>& values) {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < model.sharded().size(); ++i) {
    model.parameters()[i].second.copy_(Held(values.at(model.sharded()[i].name), model.sharded()[i]));
  }
}

at::Tensor Ids(int64_t offset) { return (at::arange(2 * 9, at::kLong) * 11 + offset).remainder(35).view({2, 9}); }

// Forward and backward of one tensor rank.
Pass RunRank(const DecoderConfig& config, const DecoderPart& part, TensorRanks* ranks,
             const std::map<std::string, at::Tensor>& values) {
  const auto model = DecoderModule::Create(config, at::kFloat, part, ranks);
  EXPECT_OK(model);
  SetValues(**model, values);
  const at::Tensor loss = (*model)->Loss((*model)->Forward(Ids(0)).value(), Ids(3));
  loss.backward();
  Pass pass;
  pass.loss = loss.item<double>();
  for (const auto& [name, parameter] : (*model)->parameters()) {
    pass.gradients[name] = parameter.grad();
  }
  return pass;
}

void ExpectTensorRanksAgree(const DecoderConfig& config, int tensor_size) {
  const auto values = Values(config);
  const Pass whole = RunRank(config, {}, nullptr, values);
  Meeting meeting(tensor_size);
  std::vector<Pass> passes(tensor_size);
  std::vector<std::thread> threads;
  for (int index = 0; index < tensor_size; ++index) {
    threads.emplace_back([&, index] {
      ThreadRanks ranks(meeting);
      passes[index] = RunRank(config, {index, tensor_size, 0, 1}, &ranks, values);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (int index = 0; index < tensor_size; ++index) {
    SCOPED_TRACE(absl::StrCat("rank ", index, " of ", tensor_size));
    EXPECT_NEAR(passes[index].loss, whole.loss, 1e-6);
    const auto sharded = ShardParameters(config, {index, tensor_size, 0, 1});
    ASSERT_EQ(passes[index].gradients.size(), sharded.size());
    for (const ShardedParameter& parameter : sharded) {
      const at::Tensor expected = Held(whole.gradients.at(parameter.name), parameter);
      const at::Tensor& found = passes[index].gradients.at(parameter.name);
      const double scale = expected.abs().max().item<double>();
      EXPECT_GT(scale, 0) << parameter.name;
      EXPECT_LE((found - expected).abs().max().item<double>(), 1e-5 * scale + 1e-8) << parameter.name;
      if (!parameter.cut) {
        // The same bits: replicas are never told each other's values again.
        EXPECT_TRUE(at::equal(found, passes[0].gradients.at(parameter.name))) << parameter.name;
      }
    }
  }
}

TEST(TensorParallelTest, LossAndGradientsAreThoseOfTheWholeModel) {
  for (const int tensor_size : {2, 3, 6}) {
    ExpectTensorRanksAgree(FullConfig(), tensor_size);
  }
}

TEST(TensorParallelTest, TiedEmbeddingsGetTheGradientOfBothUses) {
  DecoderConfig config = FullConfig();
  config.set_tied_embedding_weight(true);
  config.mutable_embeddings()->clear_num_position_embeddings();
  config.mutable_embeddings()->set_embedding_scale(4);

  ExpectTensorRanksAgree(config, 2);
}

TEST(TensorParallelTest, InitialValuesAreTheWholeModels) {
  const DecoderConfig config = FullConfig();
  const auto whole = DecoderModule::Create(config, at::kBFloat16);
  ASSERT_OK(whole);
  (*whole)->Initialize(3);
  Meeting meeting(3);
  for (int index = 0; index < 3; ++index) {
    ThreadRanks ranks(meeting);
    const auto rank = DecoderModule::Create(config, at::kBFloat16, {index, 3, 1, 2}, &ranks);
    ASSERT_OK(rank);
    (*rank)->Initialize(3);
    for (size_t i = 0; i < (*rank)->sharded().size(); ++i) {
      const ShardedParameter& parameter = (*rank)->sharded()[i];
      for (const auto& [name, values] : (*whole)->parameters()) {
        if (name == parameter.name) {
          EXPECT_TRUE(at::equal((*rank)->parameters()[i].second, Held(values, parameter))) << name;
        }
      }
    }
  }
}

TEST(TensorParallelTest, StagesOneAfterTheOtherAreTheWholeModel) {
  const DecoderConfig config = FullConfig();
  const auto values = Values(config);
  auto whole = DecoderModule::Create(config, at::kFloat);
  ASSERT_OK(whole);
  SetValues(**whole, values);
  at::Tensor x = Ids(0);
  for (int stage = 0; stage < 2; ++stage) {
    const auto model = DecoderModule::Create(config, at::kFloat, {0, 1, stage, 2});
    ASSERT_OK(model);
    SetValues(**model, values);
    x = (*model)->Forward(x).value();
  }

  EXPECT_TRUE(at::equal(x, (*whole)->Forward(Ids(0)).value()));
}

TEST(TensorParallelTest, APartWithoutOthersIsRefused) {
  EXPECT_THAT(DecoderModule::Create(TinyConfig(), at::kFloat, {0, 2, 0, 1}).status(),
              IsKind(ErrorKind::kRequest, ::testing::HasSubstr("2 tensor ranks")));
}

}  // namespace
}  // namespace waypoint::models
