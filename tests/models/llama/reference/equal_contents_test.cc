// Models whose values look tied or repeated and are not: what their files alone leave to guesses, what is guessed, and
// that whoever knows better can say it.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "models/llama/fairseq2/fairseq2_format.h"
#include "models/llama/reference/reference_format.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/random_tensors.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kModel[] = "/model";

// 4 heads of keys and values, of 4 rows with 16 elements each.
constexpr size_t kHeadBytes = 4 * 16 * 2;

struct Lookalike {
  const char* name;
  std::function<void(const std::string& tensor, const DecoderState& state, std::vector<char>* bytes)> change;
};

const std::vector<Lookalike>& Lookalikes() {
  static const auto* all = new std::vector<Lookalike>{
      {"TheHeadEqualsTheEmbedding",
       [](const std::string& tensor, const DecoderState& state, std::vector<char>* bytes) {
         if (tensor == "head.output_weights") {
           const Manifest& manifest = state.tensors->manifest();
           *bytes = *ReadWhole(*state.tensors, manifest.Find("embeddings.word_embeddings_weight"));
         }
       }},
      {"HeadsAreEqualInPairs",
       [](const std::string& tensor, const DecoderState&, std::vector<char>* bytes) {
         for (size_t at = 0; absl::EndsWith(tensor, "key_value.weight") && at < bytes->size(); at += 2 * kHeadBytes) {
           std::copy_n(bytes->begin() + at, kHeadBytes, bytes->begin() + at + kHeadBytes);
         }
       }},
      {"EverythingIsZero", [](const std::string&, const DecoderState&,
                              std::vector<char>* bytes) { std::fill(bytes->begin(), bytes->end(), '\0'); }},
  };
  return *all;
}

DecoderConfig Config() {
  DecoderConfig config = TinyConfig();
  AttentionOf(config).set_head_groups(4);
  return config;
}

DecoderState StateOf(const Lookalike& lookalike, const DecoderConfig& config = Config()) {
  DecoderState state = NewDecoderState(config, 7, DType::kBF16, /*optimizer_state=*/false);
  auto changed = std::make_unique<MemorySource>();
  const Manifest& manifest = state.tensors->manifest();
  for (int64_t i = 0; i < manifest.size(); ++i) {
    std::vector<char> bytes = *ReadWhole(*state.tensors, i);
    lookalike.change(manifest[i].name, state, &bytes);
    changed->Add(manifest[i].name, manifest[i].dtype, manifest[i].shape, bytes);
  }
  state.tensors = std::move(changed);
  return state;
}

class EqualContentsTest : public testing::Test {
 protected:
  void Save(const DecoderState& state, CheckpointFormat& format, const FormatOptionValues& values) {
    WriteOptions options;
    options.format = format.name();
    options.overwrite = true;
    options.save.format_options = values;
    ASSERT_OK(WriteCheckpoint(fs_, kModel, options, state.metadata, *state.tensors, {}));
    const auto writer = format.Create(fs_, "", state.metadata, *state.tensors, {}, options.save);
    ASSERT_OK(writer);
    read_back_ = (*writer)->ReadBackOptions();
  }

  absl::StatusOr<OpenedCheckpoint> Open(CheckpointFormat& format, const FormatOptionValues& values) {
    LoadOptions options;
    options.format_options = values;
    return format.Open(fs_, kModel, options);
  }

  static DecoderConfig ConfigIn(const OpenedCheckpoint& opened) {
    DecoderConfig config;
    EXPECT_TRUE(opened.metadata.model_config().UnpackTo(&config));
    return config;
  }

  static void ExpectState(OpenedCheckpoint& opened, const DecoderState& state) {
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(opened.metadata.model_config(),
                                                                   state.metadata.model_config()));
    const Manifest& wanted = state.tensors->manifest();
    ASSERT_EQ(opened.tensors->manifest().size(), wanted.size());
    for (int64_t i = 0; i < wanted.size(); ++i) {
      const int64_t found = opened.tensors->manifest().Find(wanted[i].name);
      ASSERT_GE(found, 0) << wanted[i].name;
      EXPECT_EQ(*ReadWhole(*opened.tensors, found), *ReadWhole(*state.tensors, i)) << wanted[i].name;
    }
  }

  MemoryFileSystem fs_;
  const std::unique_ptr<CheckpointFormat> reference_ = NewReferenceFormat();
  const std::unique_ptr<CheckpointFormat> fairseq2_ = NewFairseq2Format();
  FormatOptionValues read_back_;
};

// Verification failed: the reader guessed another model from values that were written as they should be.
TEST_F(EqualContentsTest, WhatTheWriterKnowsReadsBackAsTheModel) {
  for (const Lookalike& lookalike : Lookalikes()) {
    for (CheckpointFormat* format : {reference_.get(), fairseq2_.get()}) {
      for (const char* files : {"1", "2", "4"}) {
        SCOPED_TRACE(absl::StrCat(lookalike.name, " ", format->name(), " ", files));
        const DecoderState state = StateOf(lookalike);
        Save(state, *format, {{"model-parallel", files}});
        ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open(*format, read_back_));
        ExpectState(opened, state);
      }
    }
  }
}

TEST_F(EqualContentsTest, RepeatedHeadsAndATiedHeadReadBackToo) {
  DecoderConfig config = TinyConfig();  // 2 heads of keys and values
  config.set_tied_embedding_weight(true);
  for (const Lookalike& lookalike : Lookalikes()) {
    SCOPED_TRACE(lookalike.name);
    const DecoderState state = StateOf(lookalike, config);
    Save(state, *reference_, {{"model-parallel", "4"}});
    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open(*reference_, read_back_));
    ExpectState(opened, state);
  }
}

TEST_F(EqualContentsTest, AnEqualHeadIsTakenForTiedAndToldSo) {
  const DecoderState state = StateOf(Lookalikes()[0]);
  Save(state, *reference_, {});

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint guessed, Open(*reference_, {}));
  EXPECT_TRUE(ConfigIn(guessed).tied_embedding_weight());
  EXPECT_THAT(guessed.notes, Contains(HasSubstr("kept one of them; --tied no keeps both")));

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint said, Open(*reference_, {{"tied", "no"}}));
  ExpectState(said, state);
  EXPECT_THAT(said.notes, Each(Not(HasSubstr("--tied"))));
}

TEST_F(EqualContentsTest, EqualHeadsAreTakenForCopiesAndToldSo) {
  const DecoderState state = StateOf(Lookalikes()[1]);
  Save(state, *reference_, {{"model-parallel", "4"}});

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint guessed, Open(*reference_, {}));
  DecoderConfig config = ConfigIn(guessed);
  EXPECT_EQ(AttentionOf(config).head_groups(), 2);
  EXPECT_THAT(guessed.notes, Contains(AllOf(HasSubstr("2 copies of each of 2"), HasSubstr("--kv-copies 1 keeps all"))));

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint said, Open(*reference_, {{"kv-copies", "1"}}));
  ExpectState(said, state);
}

// Nothing but zeros tells nothing: the model is what params.json says.
TEST_F(EqualContentsTest, WhatWasNeverFilledIsWhatParamsSay) {
  const DecoderState state = StateOf(Lookalikes()[2]);
  Save(state, *reference_, {{"model-parallel", "4"}});

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open(*reference_, {}));

  ExpectState(opened, state);
  EXPECT_THAT(opened.notes, Contains(AllOf(HasSubstr("kept both"), HasSubstr("--tied says it"))));
  EXPECT_THAT(opened.notes, Contains(AllOf(HasSubstr("kept all of them"), HasSubstr("--kv-copies says it"))));
}

TEST_F(EqualContentsTest, CopiesThatAreSaidMustBeThere) {
  const Lookalike none = {"None", [](const std::string&, const DecoderState&, std::vector<char>*) {}};
  Save(StateOf(none), *reference_, {{"model-parallel", "4"}});
  EXPECT_OK(Open(*reference_, {{"kv-copies", "auto"}}));
  EXPECT_THAT(Open(*reference_, {{"kv-copies", "2"}}),
              IsKind(ErrorKind::kConfig, HasSubstr("neighbouring files hold different ones")));
  EXPECT_THAT(
      Open(*reference_, {{"kv-copies", "3"}}),
      IsKind(ErrorKind::kConfig, HasSubstr("kv-copies is 3, but there are 4 heads of keys and values in 4 files")));
  EXPECT_THAT(Open(*reference_, {{"kv-copies", "0"}}), IsKind(ErrorKind::kRequest, HasSubstr("kv-copies is \"0\"")));

  Save(StateOf(none), *reference_, {{"model-parallel", "2"}});
  EXPECT_THAT(Open(*reference_, {{"kv-copies", "2"}}),
              IsKind(ErrorKind::kConfig, HasSubstr("in 2 files, each 1 times")));
}

}  // namespace
}  // namespace waypoint::models
