// Lying manifests.

#include "checkpoint/format/distributed/records.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/format/sealed_frame.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr char kDirectory[] = "/run/step-00000001";

std::string Read(FileSystem& fs, const std::string& name) {
  return ReadSmallFile(fs, JoinPath(kDirectory, name), 1 << 20, "test_bytes").value();
}

void Replace(FileSystem& fs, const std::string& name, const std::string& bytes) {
  EXPECT_OK(RemoveTree(fs, JoinPath(kDirectory, name)));
  EXPECT_OK(WriteSmallFile(fs, JoinPath(kDirectory, name), bytes));
}

// A checkpoint of two ranks: "w" [8, 4] in F32 and "w/exp_avg", by rows.
class RecordsTest : public ::testing::Test {
 protected:
  RecordsTest() {
    MemorySource state;
    AddRandom("w", DType::kF32, {8, 4}, 1, &state);
    AddRandom("w/exp_avg", DType::kF32, {8, 4}, 2, &state);
    const auto statuses = RunJob(2, [&](std::unique_ptr<Coordinator> coordinator) {
      RankSource mine(state, Rows, coordinator->rank(), 2);
      return CheckpointRoot(fs_, "/run").Save(DistributedOptions(*coordinator), MetadataOf(1), mine).status();
    });
    EXPECT_THAT(statuses, Each(IsOk()));
  }

  absl::Status Open(const LoadOptions& options = {}) {
    return Registry<CheckpointFormat>::Global().Find("distributed")->Open(fs_, kDirectory, options).status();
  }

  DistributedManifest ManifestMessage() {
    DistributedManifest manifest;
    const std::string bytes = Read(fs_, "distributed.pb");
    EXPECT_TRUE(manifest.ParseFromString(std::string(OpenFrame(bytes, "", kDistributedVersion)->body)));
    return manifest;
  }
  void Put(const DistributedManifest& manifest) {
    Replace(fs_, "distributed.pb", SealFrame(manifest.SerializeAsString(), kDistributedVersion));
  }

  // Changes the records of rank 1 and seals them again.
  absl::Status OpenWithRecords(const std::function<void(RankRecords*)>& change) {
    const std::string name = RankFileName(1, 2, ".pb");
    const std::string bytes = Read(fs_, name);
    RankRecords records;
    EXPECT_TRUE(records.ParseFromString(std::string(OpenFrame(bytes, "", kDistributedVersion)->body)));
    change(&records);
    const std::string changed = SealFrame(records.SerializeAsString(), kDistributedVersion);
    Replace(fs_, name, changed);
    DistributedManifest manifest = ManifestMessage();
    manifest.mutable_ranks(1)->set_records_bytes(changed.size());
    manifest.mutable_ranks(1)->set_records_sha256(OpenFrame(changed, "", kDistributedVersion)->sha256);
    Put(manifest);
    return Open();
  }

  MemoryFileSystem fs_;
};

TEST_F(RecordsTest, TheUnchangedOneOpens) {
  EXPECT_OK(Open());
  EXPECT_OK(OpenWithRecords([](RankRecords*) {}));
}

// Bytes that many boxes share would be read for each of them.
TEST_F(RecordsTest, BoxesThatShareBytesAreRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) {
                records->mutable_boxes(1)->set_begin(records->boxes(0).begin());
                records->mutable_boxes(1)->set_end(records->boxes(0).end());
              }),
              IsKind(ErrorKind::kOffsets, HasSubstr("what follows begins at")));
}

TEST_F(RecordsTest, AnAssetThatIsListedTwiceIsRefused) {
  DistributedManifest manifest = ManifestMessage();
  for (int i = 0; i < 2; ++i) {
    FileRecord* asset = manifest.add_assets();
    asset->set_name("assets/tokenizer.json");
    asset->set_kind(FileRecord::ASSET);
    asset->set_chunk_bytes(4096);
  }
  Put(manifest);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kDupKey, HasSubstr("assets/tokenizer.json")));
}

TEST_F(RecordsTest, AMissingPartIsNamed) {
  ASSERT_OK(fs_.RemoveFile(JoinPath(kDirectory, "rank-00001-of-00002.pb")));

  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("rank-00001-of-00002.pb")));
}

TEST_F(RecordsTest, AMissingDataFileIsNamed) {
  ASSERT_OK(fs_.RemoveFile(JoinPath(kDirectory, "rank-00000-of-00002.safetensors")));

  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("rank-00000-of-00002.safetensors")));
}

TEST_F(RecordsTest, ACutDataFileIsRefused) {
  const std::string bytes = Read(fs_, "rank-00000-of-00002.safetensors");
  Replace(fs_, "rank-00000-of-00002.safetensors", bytes.substr(0, bytes.size() - 1));

  EXPECT_THAT(Open(), IsKind(ErrorKind::kTruncated));
}

TEST_F(RecordsTest, RecordsOfAnotherCheckpointAreRefused) {
  const std::string bytes = Read(fs_, "rank-00000-of-00002.pb");
  Replace(fs_, "rank-00001-of-00002.pb", bytes);

  EXPECT_THAT(Open(), IsKind(ErrorKind::kChecksum, HasSubstr("not of this checkpoint")));
}

TEST_F(RecordsTest, EveryCutOfTheSealIsRefused) {
  const std::string bytes = Read(fs_, "distributed.pb");
  for (size_t length = 0; length < bytes.size(); length += 7) {
    Replace(fs_, "distributed.pb", bytes.substr(0, length));
    EXPECT_FALSE(Open().ok()) << length;
  }
}

TEST_F(RecordsTest, EveryChangedByteOfTheSealIsRefused) {
  const std::string bytes = Read(fs_, "distributed.pb");
  for (size_t at = 0; at < bytes.size(); at += 3) {
    std::string changed = bytes;
    changed[at] ^= 1;
    Replace(fs_, "distributed.pb", changed);
    EXPECT_FALSE(Open().ok()) << at;
  }
}

TEST_F(RecordsTest, AHeaderThatSaysOtherwiseIsFoundWhenStrict) {
  std::string bytes = Read(fs_, "rank-00000-of-00002.safetensors");
  const size_t at = bytes.find("exp_avg");
  ASSERT_NE(at, std::string::npos);
  bytes[at] = 'E';
  Replace(fs_, "rank-00000-of-00002.safetensors", bytes);
  LoadOptions strict;
  strict.strict = true;

  EXPECT_OK(Open());  // nothing in it is believed
  EXPECT_THAT(Open(strict), IsKind(ErrorKind::kChecksum));
}

TEST_F(RecordsTest, ABoxOfNoTensorIsRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->set_tensor(2); }),
              IsKind(ErrorKind::kSchema));
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->set_tensor(-1); }),
              IsKind(ErrorKind::kSchema));
}

TEST_F(RecordsTest, ABoxOutsideOfItsTensorIsRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->set_offsets(0, 5); }),
              IsKind(ErrorKind::kSchema, HasSubstr("outside of its shape [8, 4]")));
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->set_offsets(0, INT64_MAX); }),
              IsKind(ErrorKind::kSchema));
}

TEST_F(RecordsTest, ABoxOfAnotherRankIsRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->add_sizes(1); }),
              IsKind(ErrorKind::kSchema));
}

TEST_F(RecordsTest, BytesOutsideOfTheFileAreRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) {
                records->mutable_boxes(0)->set_begin(INT64_MAX - 64);
                records->mutable_boxes(0)->set_end(INT64_MAX);
              }),
              IsKind(ErrorKind::kOffsets));
}

TEST_F(RecordsTest, BytesThatAreNotTheBoxesAreRefused) {
  EXPECT_THAT(
      OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->set_end(records->boxes(0).end() - 4); }),
      IsKind(ErrorKind::kSizeMismatch));
}

TEST_F(RecordsTest, AHoleIsRefusedByItsRange) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes()->RemoveLast(); }),
              IsKind(ErrorKind::kMissing, HasSubstr("nothing is stored of [4:8, 0:4]")));
}

TEST_F(RecordsTest, BoxesThatOverlapAreRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_boxes(0)->set_offsets(0, 3); }),
              IsKind(ErrorKind::kAmbiguous));
}

TEST_F(RecordsTest, AFileNameThatLeavesTheDirectoryIsRefused) {
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_file()->set_name("../x.safetensors"); }),
              IsKind(ErrorKind::kPath));
  EXPECT_THAT(OpenWithRecords([](RankRecords* records) { records->mutable_file()->set_name("x.safetensors"); }),
              IsKind(ErrorKind::kSchema));
}

TEST_F(RecordsTest, UnknownElementTypesFeaturesAndRanklessJobsAreRefused) {
  const DistributedManifest manifest = ManifestMessage();
  DistributedManifest changed = manifest;
  changed.mutable_tensors(0)->set_dtype(99);
  Put(changed);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kDType));
  changed = manifest;
  changed.add_required_features("compression");
  Put(changed);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kUnsupported, HasSubstr("compression")));
  changed = manifest;
  changed.clear_ranks();
  Put(changed);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kSchema));
  changed = manifest;
  changed.mutable_tensors(0)->set_shape(0, INT64_MAX);
  Put(changed);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kOverflow));
  changed = manifest;
  *changed.mutable_tensors(1) = changed.tensors(0);
  Put(changed);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kDupKey));
}

TEST(StoredBoxNameTest, EndsInTheBox) {
  EXPECT_EQ(StoredBoxName("a.weight", {{0, 64}, {128, 32}}), "a.weight[0:128, 64:96]");
  EXPECT_EQ(StoredBoxName("step", {}), "step[]");
}

}  // namespace
}  // namespace waypoint
