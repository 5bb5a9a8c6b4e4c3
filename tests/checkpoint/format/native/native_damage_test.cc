// A native checkpoint that somebody changed after it was sealed.

#include "checkpoint/base/digest.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/format/asset_copy.h"
#include "checkpoint/format/native/manifest_file.h"
#include "checkpoint/format/native/native_format.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kTarget[] = "/checkpoint";

std::unique_ptr<MemorySource> State(uint64_t seed) {
  RandomGeometry random(seed);
  auto state = std::make_unique<MemorySource>();
  AddRandomTensor("a", DType::kF32, {3, 5}, &random, state.get());
  AddRandomTensor("b", DType::kBF16, {7}, &random, state.get());
  AddRandomTensor("a/exp_avg", DType::kF32, {3, 5}, &random, state.get());
  return state;
}

void Save(FileSystem& fs, const std::string& target, uint64_t seed) {
  const std::string tokenizer = JoinPath(DirName(target), "tokenizer.json");
  Rewrite(fs, tokenizer, "{\"version\": 1}");
  const auto state = State(seed);
  CheckpointMetadata metadata;
  metadata.mutable_training()->set_step(3);
  (*metadata.mutable_training()->mutable_rng_states())["cpu"] = "0123456789";
  WriteOptions options;
  options.overwrite = true;
  ASSERT_OK(WriteCheckpoint(fs, target, options, metadata, *state, {{"tokenizer.json", tokenizer, 14, {}}}));
}

// Reads everything: what `verify` does.
absl::Status ReadAll(FileSystem& fs, const std::string& directory) {
  const auto format = NewNativeFormat();
  const auto opened = format->Open(fs, directory, {});
  if (!opened.ok()) {
    return opened.status();
  }
  for (int64_t i = 0; i < opened->tensors->manifest().size(); ++i) {
    const auto bytes = ReadWhole(*opened->tensors, i);
    if (!bytes.ok()) {
      return bytes.status();
    }
  }
  int copies = 0;
  for (const Asset& asset : opened->assets) {
    const std::string copy = absl::StrCat(DirName(directory), "/copy-", copies++);
    EXPECT_OK(RemoveTree(fs, copy));
    const absl::Status copied = CopyAsset(fs, asset, copy).status();
    if (!copied.ok()) {
      return copied;
    }
  }
  return absl::OkStatus();
}

TEST(NativeDamageTest, EveryFlippedByteOfEveryFileIsFound) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  ASSERT_OK(ReadAll(fs, kTarget));
  const DirectoryContents good = ReadContents(fs, kTarget);
  ASSERT_EQ(good.size(), 4u);
  int flips = 0;
  for (const auto& [name, bytes] : good) {
    for (size_t at = 0; at < bytes.size(); ++at) {
      std::string bad = bytes;
      bad[at] = static_cast<char>(bad[at] ^ (1 << at % 8));
      Rewrite(fs, JoinPath(kTarget, name), bad);
      ASSERT_FALSE(ReadAll(fs, kTarget).ok()) << "byte " << at << " of " << name;
      ++flips;
    }
    Rewrite(fs, JoinPath(kTarget, name), bytes);
  }
  EXPECT_GT(flips, 600);
  EXPECT_OK(ReadAll(fs, kTarget));
}

TEST(NativeDamageTest, MissingShorterAndLongerFiles) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  for (const auto& [name, bytes] : ReadContents(fs, kTarget)) {
    const std::string path = JoinPath(kTarget, name);
    ASSERT_OK(RemoveTree(fs, path));
    EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kMissing, HasSubstr(name)));
    Rewrite(fs, path, bytes.substr(0, bytes.size() - 1));
    EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kTruncated, HasSubstr(name)));
    Rewrite(fs, path, bytes + "x");
    EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kTrailing, HasSubstr(name)));
    Rewrite(fs, path, bytes);
  }
}

TEST(NativeDamageTest, FilesOfAnotherCheckpointOfTheSameShape) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  Save(fs, "/other", 2);
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    const std::string path = JoinPath(kTarget, name);
    const DirectoryContents good = ReadContents(fs, kTarget);
    Rewrite(fs, path, ReadContents(fs, "/other")[name]);
    EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kChecksum, HasSubstr(name)));
    Rewrite(fs, path, good.at(name));
  }
}

// The header is as long as before and describes other tensors.
TEST(NativeDamageTest, HeadersThatSayOtherThanTheManifest) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  const std::string path = JoinPath(kTarget, "model.safetensors");
  const std::string good = ReadContents(fs, kTarget)["model.safetensors"];
  const auto with = [&good](absl::string_view from, absl::string_view to) {
    std::string bad = good;
    return bad.replace(bad.find(std::string(from)), from.size(), std::string(to));
  };

  Rewrite(fs, path, with("\"a\"", "\"x\""));
  EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kMissing, HasSubstr("\"a\"")));
  Rewrite(fs, path, with("BF16", "F16\""));
  EXPECT_FALSE(ReadAll(fs, kTarget).ok());
  Rewrite(fs, path, with("[3,5]", "[5,3]"));
  EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kChecksum, HasSubstr("\"a\"")));
}

TEST(NativeDamageTest, ATensorThatTheManifestDoesNotList) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  const std::string path = JoinPath(kTarget, kManifestFileName);
  ASSERT_OK_AND_ASSIGN(SealedManifest sealed,
                       ParseManifest(ReadContents(fs, kTarget)[kManifestFileName], "m", Limits()));
  sealed.manifest.mutable_tensors()->DeleteSubrange(0, 1);
  Rewrite(fs, path, SerializeManifest(sealed.manifest));

  EXPECT_THAT(ReadAll(fs, kTarget), IsKind(ErrorKind::kExtra, HasSubstr("model.safetensors")));
}

TEST(NativeDamageTest, ManifestOverTheLimit) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  LoadOptions options;
  options.limits.manifest_file_bytes = 100;
  EXPECT_THAT(NewNativeFormat()->Open(fs, kTarget, options),
              IsKind(ErrorKind::kLimit, HasSubstr("manifest_file_bytes")));
}

TEST(NativeDamageTest, WithoutASealThereIsNoCheckpoint) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  ASSERT_OK(fs.RemoveFile(JoinPath(kTarget, kManifestFileName)));
  const auto format = NewNativeFormat();

  EXPECT_FALSE(format->Probe(fs, kTarget).value());
  EXPECT_THAT(format->Open(fs, kTarget, {}), IsKind(ErrorKind::kMissing, HasSubstr("did not finish")));
}

TEST(NativeDamageTest, LinksAndFifosAreRefused) {
  const TempDirectory directory;
  FileSystem& fs = PosixFileSystem();
  const std::string target = directory.Path("checkpoint");
  Save(fs, target, 1);
  ASSERT_OK(fs.Rename(JoinPath(target, "model.safetensors"), directory.Path("outside")));

  directory.Link(directory.Path("outside"), "checkpoint/model.safetensors");
  EXPECT_THAT(ReadAll(fs, target), IsKind(ErrorKind::kPath));
  directory.Fifo("checkpoint/model.safetensors");
  EXPECT_THAT(ReadAll(fs, target), IsKind(ErrorKind::kIo));
}

TEST(NativeDamageTest, UncheckedReadsAreAskedFor) {
  MemoryFileSystem fs;
  Save(fs, kTarget, 1);
  std::string bad = ReadContents(fs, kTarget)["model.safetensors"];
  bad.back() = static_cast<char>(bad.back() ^ 1);
  Rewrite(fs, JoinPath(kTarget, "model.safetensors"), bad);
  LoadOptions options;
  options.verify_digests = false;
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, NewNativeFormat()->Open(fs, kTarget, options));

  EXPECT_OK(ReadWhole(*opened.tensors, 0));
}

}  // namespace
}  // namespace waypoint
