#include "engine/data.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "ATen/Functions.h"
#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint::engine {
namespace {

using ::testing::HasSubstr;

template <typename Token>
Dataset FileOf(const std::string& name, const std::vector<Token>& tokens, Dataset::Kind kind) {
  Dataset config;
  config.set_path(::testing::TempDir() + "/" + name);
  std::ofstream(config.path(), std::ios::binary)
      .write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(tokens.size() * sizeof(Token)));
  config.set_kind(kind);
  config.set_batch_size(2);
  config.set_sequence_length(4);
  config.set_seed(1);
  return config;
}

std::vector<uint16_t> Counting(int count) {
  std::vector<uint16_t> tokens(count);
  for (int i = 0; i < count; ++i) {
    tokens[i] = static_cast<uint16_t>(i);
  }
  return tokens;
}

std::vector<int64_t> FirstTokens(TokenFile& file, int64_t position) {
  const auto batch = file.BatchAt(position);
  EXPECT_TRUE(batch.ok()) << batch.status();
  std::vector<int64_t> first;
  for (int64_t row = 0; row < batch->inputs.size(0); ++row) {
    first.push_back(batch->inputs[row][0].item<int64_t>());
  }
  return first;
}

TEST(TokenFileTest, TargetsAreTheNextTokens) {
  const Dataset config = FileOf("shift", Counting(41), Dataset::TOKENS_U16);
  const auto file = TokenFile::Open(config, 41);
  ASSERT_TRUE(file.ok()) << file.status();

  const auto batch = (*file)->BatchAt(0);

  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->inputs.sizes(), (std::vector<int64_t>{2, 4}));
  EXPECT_TRUE(at::equal(batch->targets, batch->inputs.add(1)));
}

TEST(TokenFileTest, RanksReadTheirRowsOfOneBatch) {
  const auto file = TokenFile::Open(FileOf("rows", Counting(41), Dataset::TOKENS_U16), 41);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto whole = (*file)->BatchAt(24);
  ASSERT_TRUE(whole.ok()) << whole.status();

  for (int64_t rank = 0; rank < 2; ++rank) {
    const auto mine = (*file)->BatchAt(24, rank, 1);
    ASSERT_TRUE(mine.ok()) << mine.status();
    EXPECT_TRUE(at::equal(mine->inputs, whole->inputs.narrow(0, rank, 1)));
    EXPECT_TRUE(at::equal(mine->targets, whole->targets.narrow(0, rank, 1)));
  }
}

TEST(TokenFileTest, OnePassSeesEveryWindowOnce) {
  const auto file = TokenFile::Open(FileOf("pass", Counting(41), Dataset::TOKENS_U16), 41);  // 10 windows
  ASSERT_TRUE(file.ok()) << file.status();

  std::set<int64_t> first_pass;
  std::vector<int64_t> first_order;
  std::vector<int64_t> second_order;
  for (int step = 0; step < 10; ++step) {
    for (const int64_t token : FirstTokens(**file, step * (*file)->tokens_per_batch())) {
      (step < 5 ? first_order : second_order).push_back(token);
    }
  }
  first_pass.insert(first_order.begin(), first_order.end());

  EXPECT_EQ(first_pass, (std::set<int64_t>{0, 4, 8, 12, 16, 20, 24, 28, 32, 36}));
  EXPECT_EQ(std::set<int64_t>(second_order.begin(), second_order.end()), first_pass);
  EXPECT_NE(first_order, second_order);
}

TEST(TokenFileTest, BatchesAreAFunctionOfSeedAndPosition) {
  Dataset config = FileOf("seeds", Counting(401), Dataset::TOKENS_U16);
  const auto file = TokenFile::Open(config, 401);
  const auto again = TokenFile::Open(config, 401);
  config.set_seed(2);
  const auto other = TokenFile::Open(config, 401);
  ASSERT_TRUE(file.ok() && again.ok() && other.ok());

  std::vector<int64_t> skipped = FirstTokens(**again, 80);
  std::vector<int64_t> all;
  std::vector<int64_t> all_other;
  for (int step = 0; step < 20; ++step) {
    const std::vector<int64_t> tokens = FirstTokens(**file, step * 8);
    if (step == 10) {
      EXPECT_EQ(tokens, skipped);
    }
    all.insert(all.end(), tokens.begin(), tokens.end());
    const std::vector<int64_t> others = FirstTokens(**other, step * 8);
    all_other.insert(all_other.end(), others.begin(), others.end());
  }

  EXPECT_NE(all, all_other);
}

TEST(TokenFileTest, PositionInsideAWindowCountsAsItsEnd) {
  const auto file = TokenFile::Open(FileOf("inside", Counting(401), Dataset::TOKENS_U16), 401);
  ASSERT_TRUE(file.ok());

  EXPECT_EQ(FirstTokens(**file, 5), FirstTokens(**file, 8));
}

TEST(TokenFileTest, ReadsBytesAndInt32) {
  const auto bytes = TokenFile::Open(FileOf<char>("bytes", {'\xff', 'b', 'c', 'd', 'e'}, Dataset::BYTES), 256);
  const auto wide = TokenFile::Open(FileOf<int32_t>("wide", {100000, 1, 2, 3, 4}, Dataset::TOKENS_I32), 100001);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  ASSERT_TRUE(wide.ok()) << wide.status();

  EXPECT_EQ(FirstTokens(**bytes, 0)[0], 255);
  EXPECT_EQ(FirstTokens(**wide, 0)[0], 100000);
}

TEST(TokenFileTest, IdOutsideTheVocabularyIsNamed) {
  const auto file = TokenFile::Open(FileOf<uint16_t>("vocab", {1, 2, 99, 4, 5}, Dataset::TOKENS_U16), 50);
  const auto negative = TokenFile::Open(FileOf<int32_t>("negative", {1, 2, -3, 4, 5}, Dataset::TOKENS_I32), 50);
  ASSERT_TRUE(file.ok() && negative.ok());

  const absl::Status status = (*file)->BatchAt(0).status();

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kRequest);
  EXPECT_THAT(std::string(status.message()), HasSubstr("token 2 is 99, the model's vocabulary has 50"));
  EXPECT_THAT(std::string((*negative)->BatchAt(0).status().message()), HasSubstr("token 2 is -3"));
}

// Its text would be trained on.
TEST(TokenFileTest, APointerInPlaceOfTheFileIsNamed) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n";
  for (const Dataset::Kind kind : {Dataset::BYTES, Dataset::TOKENS_U16}) {
    const Dataset config = FileOf("pointer", std::vector<char>(pointer.begin(), pointer.end()), kind);
    const auto file = TokenFile::Open(config, 1 << 16);
    EXPECT_EQ(GetErrorKind(file.status()), ErrorKind::kHeader) << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("git lfs pull"));
  }
}

TEST(TokenFileTest, UnusableFilesAreRefused) {
  Dataset missing;
  missing.set_path(::testing::TempDir() + "/none");
  Dataset directory = missing;
  directory.set_path(::testing::TempDir());

  EXPECT_EQ(GetErrorKind(TokenFile::Open(missing, 9).status()), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(TokenFile::Open(directory, 9).status()), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(TokenFile::Open(FileOf<char>("odd", {1, 2, 3}, Dataset::TOKENS_U16), 9).status()),
            ErrorKind::kSizeMismatch);
  EXPECT_EQ(GetErrorKind(TokenFile::Open(FileOf<char>("short", {1, 2, 3, 4}, Dataset::BYTES), 9).status()),
            ErrorKind::kRequest);
  EXPECT_EQ(GetErrorKind(TokenFile::Open(FileOf<char>("empty", {}, Dataset::BYTES), 9).status()), ErrorKind::kRequest);
}

class ChangedFileTest : public ::testing::Test {
 protected:
  void Write(int count) {
    const Dataset config = FileOf("changed", Counting(count), Dataset::TOKENS_U16);
    if (file_ == nullptr) {
      auto opened = TokenFile::Open(config, 5000);
      ASSERT_TRUE(opened.ok()) << opened.status();
      file_ = *std::move(opened);
    }
  }
  // As a copy that takes the place of the old file does it.
  void Replace(int count) {
    const Dataset config = FileOf("other", Counting(count), Dataset::TOKENS_U16);
    ASSERT_EQ(std::rename(config.path().c_str(), file_->config().path().c_str()), 0);
  }
  void SetTime(int64_t seconds) {
    const struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, file_->config().path().c_str(), times, 0), 0);
  }

  std::unique_ptr<TokenFile> file_;
};

TEST_F(ChangedFileTest, OneThatIsCutShortIsAnErrorAndNoSignal) {
  Write(4001);
  ASSERT_EQ(truncate(file_->config().path().c_str(), 6), 0);

  const absl::Status status = file_->BatchAt(0).status();

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kTruncated) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("6 bytes and had 8002"));
  // Between the look and the read.
  std::vector<char> bytes(100);
  EXPECT_EQ(GetErrorKind(file_->Read(4, absl::MakeSpan(bytes))), ErrorKind::kTruncated);
}

TEST_F(ChangedFileTest, OneThatIsWrittenToOrReplacedIsAnErrorUnlessItsContentsAreTheSame) {
  Write(41);
  ASSERT_TRUE(file_->BatchAt(0).ok());
  SetTime(1);
  EXPECT_EQ(GetErrorKind(file_->BatchAt(0).status()), ErrorKind::kChecksum);

  int looks = 0;
  absl::Status same;
  file_->Expect([&](const TokenFile& now) {
    ++looks;
    return now.tokens() == 41 ? same : MakeError(ErrorKind::kChecksum, "other contents");
  });
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(file_->BatchAt(0).ok());
  }
  EXPECT_EQ(looks, 1) << "once for a change";
  Replace(41);
  EXPECT_TRUE(file_->BatchAt(0).ok());
  EXPECT_EQ(looks, 2);
  Replace(43);
  const absl::Status replaced = file_->BatchAt(0).status();
  EXPECT_EQ(GetErrorKind(replaced), ErrorKind::kChecksum);
  EXPECT_THAT(std::string(replaced.message()), HasSubstr("was replaced by another file while the run reads it"));
}

TEST_F(ChangedFileTest, OneThatIsRemovedIsReadOn) {
  Write(41);
  ASSERT_EQ(unlink(file_->config().path().c_str()), 0);

  EXPECT_TRUE(file_->BatchAt(8).ok());
}

TEST(ShuffledTest, IsABijectionForEverySize) {
  for (int64_t size = 1; size < 70; ++size) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t to = Shuffled(i, size, 7);
      EXPECT_GE(to, 0);
      EXPECT_LT(to, size);
      seen.insert(to);
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), size);
  }
}

}  // namespace
}  // namespace waypoint::engine
