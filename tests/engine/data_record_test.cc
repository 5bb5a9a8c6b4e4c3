#include "engine/data_record.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/coordination/thread_coordinator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Three pieces of 16 MiB and a part of one.
constexpr int64_t kBytes = (int64_t{50} << 20) + 12346;

std::string Bytes() {
  std::string bytes(kBytes, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(i * 2654435761u >> 24 & 127);
  }
  return bytes;
}

class ExamineDataTest : public ::testing::Test {
 protected:
  std::unique_ptr<TokenFile> Open(const std::string& name, Dataset::Kind kind, int64_t vocab_size) const {
    Dataset config;
    config.set_path(directory_.Path(name));
    config.set_kind(kind);
    config.set_batch_size(1);
    config.set_sequence_length(4);
    auto file = TokenFile::Open(config, vocab_size);
    EXPECT_OK(file);
    return *std::move(file);
  }

  // `names`: of the file that each rank sees.
  std::vector<absl::StatusOr<DataRecord>> Examine(const std::vector<std::string>& names, Dataset::Kind kind,
                                                  int64_t vocab_size) const {
    auto coordinators = NewThreadCoordinators(static_cast<int>(names.size()));
    std::vector<absl::StatusOr<DataRecord>> records(names.size(), absl::UnknownError("not run"));
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < names.size(); ++rank) {
      threads.emplace_back([&, rank] {
        records[rank] = ExamineData(*Open(names[rank], kind, vocab_size), *coordinators[rank], absl::Seconds(60), {});
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return records;
  }

  const TempDirectory directory_;
};

TEST_F(ExamineDataTest, AnyNumberOfRanksFindsTheSame) {
  directory_.Write("data", Bytes());
  const DataRecord alone = Examine({"data"}, Dataset::BYTES, 128)[0].value();

  EXPECT_EQ(alone.size_bytes(), kBytes);
  EXPECT_EQ(alone.tokens(), kBytes);
  EXPECT_EQ(alone.xxh3().size(), 16u);
  for (const int ranks : {2, 3, 7}) {
    for (const auto& record : Examine(std::vector<std::string>(ranks, "data"), Dataset::BYTES, 128)) {
      EXPECT_EQ(record.value().DebugString(), alone.DebugString()) << ranks;
    }
  }
  EXPECT_EQ(Examine({"data"}, Dataset::TOKENS_U16, 65536)[0].value().tokens(), kBytes / 2);
}

TEST_F(ExamineDataTest, EveryByteCounts) {
  std::string bytes = Bytes();
  directory_.Write("data", bytes);
  const std::string digest = Examine({"data"}, Dataset::BYTES, 256)[0].value().xxh3();
  for (const size_t at : {size_t{0}, (size_t{16} << 20) - 1, size_t{33} << 20, bytes.size() - 1}) {
    bytes[at] ^= 1;
    directory_.Write("changed", bytes);
    EXPECT_NE(Examine({"changed"}, Dataset::BYTES, 256)[0].value().xxh3(), digest) << at;
    bytes[at] ^= 1;
  }
}

TEST_F(ExamineDataTest, ATokenOutsideTheVocabularyIsNamedWhereverItIs) {
  std::string bytes = Bytes();
  const int64_t last = kBytes / 4 * 4 - 4;
  bytes.resize(last + 4);
  for (const int64_t at : {int64_t{0}, int64_t{20} << 20, last}) {
    // In little-endian tokens of 4 bytes: 0x40000000 and more.
    std::string one = std::string(bytes.size(), '\0');
    one[at + 3] = 0x40;
    directory_.Write("data", one);
    for (const int ranks : {1, 3}) {
      const auto records = Examine(std::vector<std::string>(ranks, "data"), Dataset::TOKENS_I32, 32000);
      int named = 0;
      for (const auto& record : records) {
        EXPECT_THAT(record.status(), ::testing::AnyOf(IsKind(ErrorKind::kRequest), IsKind(ErrorKind::kRank)));
        EXPECT_THAT(std::string(record.status().message()),
                    HasSubstr(absl::StrCat("token ", at / 4, " is 1073741824, the model's vocabulary has 32000")));
        named += GetErrorKind(record.status()) == ErrorKind::kRequest ? 1 : 0;
      }
      EXPECT_EQ(named, 1);
    }
  }
}

TEST_F(ExamineDataTest, RanksThatSeeFilesOfOtherSizesAreNamed) {
  directory_.Write("data", std::string(100, 'a'));
  directory_.Write("other", std::string(90, 'a'));

  for (const auto& record : Examine({"data", "data", "other"}, Dataset::BYTES, 256)) {
    EXPECT_THAT(record.status(), IsKind(ErrorKind::kRequest, HasSubstr("100 bytes for rank 0 and 90 for rank 2")));
  }
}

TEST_F(ExamineDataTest, ProgressEndsWithAll) {
  directory_.Write("data", Bytes());
  LocalCoordinator alone;
  int64_t last = 0;
  int calls = 0;
  ASSERT_OK(ExamineData(*Open("data", Dataset::BYTES, 128), alone, absl::Seconds(60),
                        [&](int64_t done, int64_t total) -> absl::Status {
                          EXPECT_GT(done, last);
                          EXPECT_EQ(total, kBytes);
                          last = done;
                          ++calls;
                          return absl::OkStatus();
                        }));

  EXPECT_EQ(last, kBytes);
  EXPECT_GT(calls, 10);
}

TEST_F(ExamineDataTest, AnErrorOfTheProgressEndsIt) {
  directory_.Write("data", Bytes());
  LocalCoordinator alone;
  int calls = 0;
  const auto record =
      ExamineData(*Open("data", Dataset::BYTES, 128), alone, absl::Seconds(60), [&](int64_t, int64_t) -> absl::Status {
        return ++calls == 3 ? absl::CancelledError("enough") : absl::OkStatus();
      });

  EXPECT_TRUE(absl::IsCancelled(record.status()));
  EXPECT_EQ(calls, 3);
}

DataRecord Record(int64_t size_bytes, const std::string& digest) {
  DataRecord record;
  record.set_size_bytes(size_bytes);
  record.set_tokens(size_bytes);
  record.set_xxh3(digest);
  return record;
}

TEST(CompareDataTest, TheSameIsNothingToTell) {
  TrainingState training;
  *training.mutable_data() = Record(20, "0123456789abcdef");

  EXPECT_THAT(CompareData(training, {}, training.data(), {}).value(), IsEmpty());
}

TEST(CompareDataTest, OtherContentsNeedConsent) {
  TrainingState training;
  training.set_data_position(640);
  *training.mutable_data() = Record(20, "0123456789abcdef");
  Dataset config;
  config.set_path("book.txt");
  for (const DataRecord& other : {Record(20, "0123456789abcdee"), Record(21, "0123456789abcdef")}) {
    config.set_allow_changed(false);
    EXPECT_THAT(CompareData(training, {}, other, config),
                IsKind(ErrorKind::kRequest, AllOf(HasSubstr("book.txt"), HasSubstr(DataRecordText(other)),
                                                  HasSubstr("20 bytes (20 tokens, XXH3 0123456789abcdef)"),
                                                  HasSubstr("data.allow_changed"))));
    config.set_allow_changed(true);
    EXPECT_THAT(CompareData(training, {}, other, config).value(),
                ElementsAre(AllOf(HasSubstr(DataRecordText(other)), HasSubstr("0123456789abcdef")),
                            HasSubstr("data position 640")));
  }
}

TEST(CompareDataTest, ACheckpointWithoutARecordIsTold) {
  EXPECT_THAT(CompareData({}, {}, Record(20, "0123456789abcdef"), {}).value(),
              ElementsAre(HasSubstr("does not say which data")));
}

TEST(CompareDataTest, WhatChangesTheBatchesIsTold) {
  TrainingState training;
  *training.mutable_data() = Record(20, "0123456789abcdef");
  Dataset config;
  config.set_kind(Dataset::BYTES);
  config.set_seed(3);
  config.set_sequence_length(8);
  config.set_batch_size(2);

  EXPECT_THAT(CompareData(training, {}, training.data(), config).value(),
              ElementsAre(HasSubstr("changed: data.kind, data.seed, data.sequence_length, data.batch_size;")));
}

}  // namespace
}  // namespace waypoint::engine
