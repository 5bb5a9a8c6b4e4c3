// What the sink writes, the strict reader reads: any tensors, any order of blocks.

#include "checkpoint/container/torch_zip/torch_sink.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/container/torch_zip/zip_directory.h"
#include "checkpoint/container/torch_zip/zip_entry_stream.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/tensor/transfer.h"
#include "gmock/gmock.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr char kFileName[] = "weights.bin";

// All tensors under their own names.
TorchFilePlan PlanAll(const Manifest& manifest) {
  TorchFilePlan plan;
  plan.name = kFileName;
  for (int64_t i = 0; i < manifest.size(); ++i) {
    plan.entries.push_back({manifest[i].name, i});
  }
  return plan;
}

absl::Status Write(FileSystem& fs, const std::string& directory, TensorSource& source, TorchFilePlan plan,
                   int64_t block_bytes, int threads) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto sink,
                            TorchSink::Create(fs, directory, source.manifest(), {std::move(plan)}, block_bytes));
  TransferOptions options;
  options.threads = threads;
  return Transfer(source, *sink, options).status();
}

absl::StatusOr<TorchContents> List(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(path, {}));
  return ReadTorchFile(*file, {});
}

// Every tensor of `wanted` is in the file, and no other; CRCs are checked on the way.
void ExpectHolds(FileSystem& fs, const std::string& path, TensorSource& wanted) {
  ASSERT_OK_AND_ASSIGN(TorchContents contents, List(fs, path));
  ASSERT_OK_AND_ASSIGN(const auto found, TorchSource::Create(fs, {std::move(contents)}, {}));
  ASSERT_EQ(found->manifest().size(), wanted.manifest().size());
  for (int64_t i = 0; i < found->manifest().size(); ++i) {
    const TensorMeta& meta = found->manifest()[i];
    const int64_t index = wanted.manifest().Find(meta.name);
    ASSERT_GE(index, 0) << meta.name;
    EXPECT_EQ(meta.dtype, wanted.manifest()[index].dtype);
    EXPECT_EQ(meta.shape, wanted.manifest()[index].shape);
    EXPECT_EQ(ReadWhole(*found, i).value(), ReadWhole(wanted, index).value()) << meta.name;
  }
}

// Each record's CRC.
void ExpectSealed(FileSystem& fs, const std::string& path) {
  ASSERT_OK_AND_ASSIGN(const auto file, fs.OpenForRead(path, {}));
  ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, ZipDirectory::Read(*file, {}));
  for (const ZipEntry& entry : zip.entries()) {
    EXPECT_TRUE(entry.bytes == 0 || entry.crc32 != 0) << entry.name;
    EXPECT_EQ(entry.data_begin % kTorchDataAlignment, 0) << entry.name;
    EXPECT_OK(ReadZipEntry(*file, entry, kMaxFileBytes, "test"));
  }
}

void RoundTrips(FileSystem& fs, const std::string& root, int rounds, uint64_t seed) {
  RandomGeometry random(seed);
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE(round);
    const auto tensors = RandomTensors(static_cast<int>(random.Pick(0, 15)), &random);
    if (round % 3 == 0) {
      AddRandomTensor("large", DType::kF32, {113, 997}, &random, tensors.get());
      AddRandomTensor("last", DType::kBF16, {random.Pick(1, 9000)}, &random, tensors.get());
    }
    const std::string directory = JoinPath(root, absl::StrCat("round-", round));
    ASSERT_OK(MakeDirectories(fs, directory));
    ASSERT_OK(Write(fs, directory, *tensors, PlanAll(tensors->manifest()), random.Pick(1, 100'000),
                    static_cast<int>(random.Pick(1, 4))));
    const std::string path = JoinPath(directory, kFileName);
    ASSERT_NO_FATAL_FAILURE(ExpectHolds(fs, path, *tensors));
    ASSERT_NO_FATAL_FAILURE(ExpectSealed(fs, path));
  }
}

TEST(TorchSinkTest, RoundTripsInMemory) {
  MemoryFileSystem fs;
  RoundTrips(fs, "/data", 150, 71);
}

TEST(TorchSinkTest, RoundTripsOnDisk) {
  const TempDirectory directory;
  RoundTrips(PosixFileSystem(), directory.path(), 25, 72);
}

// Blocks and threads may be anything; the bytes are the same.
TEST(TorchSinkTest, EqualTensorsAreEqualBytes) {
  RandomGeometry random(73);
  const auto tensors = RandomTensors(30, &random);
  AddRandomTensor("large", DType::kBF16, {999, 501}, &random, tensors.get());
  MemoryFileSystem fs;
  std::vector<std::string> contents;
  for (const int64_t block_bytes : {1, 300'000, 8'000'000}) {
    for (const int threads : {1, 4}) {
      const std::string directory = absl::StrCat("/", contents.size());
      ASSERT_OK(fs.MakeDirectory(directory));
      ASSERT_OK(Write(fs, directory, *tensors, PlanAll(tensors->manifest()), block_bytes, threads));
      ASSERT_OK_AND_ASSIGN(std::string bytes, ReadSmallFile(fs, JoinPath(directory, kFileName), kMaxFileBytes, "test"));
      contents.push_back(std::move(bytes));
    }
  }
  EXPECT_THAT(contents, testing::Each(contents[0]));
}

absl::Status WriteBlock(TensorSource& source, TensorSink& sink, int64_t index) {
  const Block block = sink.block(index);
  AlignedBuffer buffer(block.bytes);
  // What the sink fills itself must not depend on what was there.
  std::fill_n(buffer.data(), block.bytes, '\x5a');
  for (const Piece& piece : block.pieces) {
    const int element_bytes = DTypeBytes(sink.manifest()[piece.tensor].dtype);
    WAYPOINT_RETURN_IF_ERROR(
        source.Read({{piece.tensor, piece.box,
                      StridedSpan::Contiguous(buffer.data() + piece.offset_bytes, element_bytes, piece.box.sizes)}}));
  }
  return sink.Write(index, absl::MakeSpan(buffer.data(), block.bytes));
}

TEST(TorchSinkTest, BlocksInAnyOrder) {
  RandomGeometry random(74);
  const auto tensors = RandomTensors(10, &random);
  for (int i = 0; i < 8; ++i) {
    AddRandomTensor(absl::StrCat("large.", i), DType::kF16, {random.Pick(2000, 20'000)}, &random, tensors.get());
  }
  MemoryFileSystem fs;
  for (int round = 0; round < 60; ++round) {
    const std::string directory = absl::StrCat("/", round);
    ASSERT_OK(fs.MakeDirectory(directory));
    ASSERT_OK_AND_ASSIGN(const auto sink, TorchSink::Create(fs, directory, tensors->manifest(),
                                                            {PlanAll(tensors->manifest())}, random.Pick(1, 20'000)));
    std::vector<int64_t> order(sink->num_blocks());
    std::iota(order.begin(), order.end(), 0);
    if (round == 0) {
      std::reverse(order.begin(), order.end());
    } else {
      std::shuffle(order.begin(), order.end(), random.engine());
    }
    for (const int64_t index : order) {
      ASSERT_OK(WriteBlock(*tensors, *sink, index));
    }
    ASSERT_OK(sink->Finish());
    const std::string path = JoinPath(directory, kFileName);
    ASSERT_NO_FATAL_FAILURE(ExpectHolds(fs, path, *tensors));
    ASSERT_NO_FATAL_FAILURE(ExpectSealed(fs, path));
  }
}

// Descriptors fall on every offset around a boundary of blocks, the directory too.
TEST(TorchSinkTest, RecordsThatEndAroundABoundary) {
  RandomGeometry random(75);
  MemoryFileSystem fs;
  for (int64_t bytes = 3000; bytes < 4100; bytes += bytes < 3500 ? 64 : 1) {
    MemorySource tensors;
    AddRandomTensor("a", DType::kU8, {bytes}, &random, &tensors);
    AddRandomTensor("b", DType::kU8, {kDirectAlignment - 200}, &random, &tensors);
    const std::string directory = absl::StrCat("/", bytes);
    ASSERT_OK(fs.MakeDirectory(directory));
    ASSERT_OK_AND_ASSIGN(const auto sink,
                         TorchSink::Create(fs, directory, tensors.manifest(), {PlanAll(tensors.manifest())}, 1));
    for (int64_t i = sink->num_blocks(); i-- > 0;) {
      ASSERT_OK(WriteBlock(tensors, *sink, i));
    }
    ASSERT_OK(sink->Finish());
    const std::string path = JoinPath(directory, kFileName);
    ASSERT_NO_FATAL_FAILURE(ExpectHolds(fs, path, tensors));
    ASSERT_NO_FATAL_FAILURE(ExpectSealed(fs, path));
  }
}

// Several sinks, each of which writes its share of the blocks of two files into the same directory.
TEST(TorchSinkTest, ProcessesTogetherWriteTheBytesOfOne) {
  RandomGeometry random(76);
  const auto tensors = RandomTensors(8, &random);
  AddRandomTensor("large", DType::kF32, {113, 297}, &random, tensors.get());
  const Manifest& manifest = tensors->manifest();
  TorchFilePlan all = PlanAll(manifest);
  TorchFilePlan large;
  large.name = "large.bin";
  large.entries = {{"alone", manifest.Find("large")}};
  MemoryFileSystem fs;
  ASSERT_OK(fs.MakeDirectory("/one"));
  ASSERT_OK_AND_ASSIGN(const auto one, TorchSink::Create(fs, "/one", manifest, {all, large}, 1));
  ASSERT_OK(Transfer(*tensors, *one, {}).status());

  for (int world_size = 1; world_size <= 4; ++world_size) {
    const std::string directory = absl::StrCat("/by-", world_size);
    ASSERT_OK(fs.MakeDirectory(directory));
    std::vector<std::unique_ptr<TorchSink>> sinks(world_size);
    std::vector<std::string> sums;
    const auto share = [&](int rank) { return one->num_blocks() * rank / world_size; };
    for (int rank = 0; rank < world_size; ++rank) {
      ASSERT_OK_AND_ASSIGN(sinks[rank], TorchSink::Create(fs, directory, manifest, {all, large}, 1));
      if (rank == 0) {
        ASSERT_OK(sinks[rank]->CreateFiles());
      } else {
        sinks[rank]->JoinFiles();
      }
      for (int64_t block = share(rank + 1); block-- > share(rank);) {
        ASSERT_OK(WriteBlock(*tensors, *sinks[rank], block));
      }
      ASSERT_OK(sinks[rank]->Finish());
      sums.push_back(sinks[rank]->BlockSums(share(rank), share(rank + 1)));
    }
    EXPECT_EQ(sinks[0]->Complete().code(), world_size == 1 ? absl::StatusCode::kOk : absl::StatusCode::kInternal)
        << "blocks are missing";
    for (int rank = 1; rank < world_size; ++rank) {
      EXPECT_THAT(sinks[0]->SetBlockSums(share(rank), share(rank + 1), sums[rank] + "."),
                  IsKind(ErrorKind::kSchema, HasSubstr("checksums of blocks")));
      ASSERT_OK(sinks[0]->SetBlockSums(share(rank), share(rank + 1), sums[rank]));
    }
    ASSERT_OK(sinks[0]->Complete());
    for (const char* name : {kFileName, "large.bin"}) {
      ASSERT_OK_AND_ASSIGN(const std::string wanted, ReadSmallFile(fs, JoinPath("/one", name), kMaxFileBytes, "test"));
      ASSERT_OK_AND_ASSIGN(const std::string found,
                           ReadSmallFile(fs, JoinPath(directory, name), kMaxFileBytes, "test"));
      EXPECT_TRUE(found == wanted) << name << " by " << world_size;
    }
  }
}

TEST(TorchSinkTest, NothingIsCreatedBeforeTheFirstWrite) {
  MemorySource tensors;
  tensors.Add<float>("a", DType::kF32, {2}, {1, 2});
  MemoryFileSystem fs;
  ASSERT_OK(TorchSink::Create(fs, "/none", tensors.manifest(), {PlanAll(tensors.manifest())}, 1));
  ASSERT_OK_AND_ASSIGN(const bool exists, Exists(fs, "/none"));
  EXPECT_FALSE(exists);
}

TEST(TorchSinkTest, KeysOfOneTensorShareItsStorage) {
  MemorySource tensors;
  tensors.Add<float>("embedding", DType::kF32, {2, 2}, {1, 2, 3, 4});
  tensors.Add<float>("copy", DType::kF32, {2, 2}, {1, 2, 3, 4});
  TorchFilePlan plan = PlanAll(tensors.manifest());
  plan.entries.push_back({"head", 0});
  MemoryFileSystem fs;
  ASSERT_OK(Write(fs, "/", tensors, plan, 1, 1));

  ASSERT_OK_AND_ASSIGN(const TorchContents contents, List(fs, "/weights.bin"));

  ASSERT_EQ(contents.tensors.size(), 3u);
  EXPECT_EQ(contents.storages.size(), 2u);
  EXPECT_EQ(contents.tensors[0].name, "embedding");
  EXPECT_EQ(contents.tensors[2].name, "head");
  EXPECT_EQ(contents.tensors[2].storage, contents.tensors[0].storage);
  EXPECT_NE(contents.tensors[1].storage, contents.tensors[0].storage);
}

// As model-parallel shards are: the same keys in every file.
TEST(TorchSinkTest, FilesMayHoldTheSameKeys) {
  MemorySource tensors;
  tensors.Add<float>("w@0", DType::kF32, {2}, {1, 2});
  tensors.Add<float>("w@1", DType::kF32, {2}, {3, 4});
  MemoryFileSystem fs;
  ASSERT_OK_AND_ASSIGN(const auto sink, TorchSink::Create(fs, "/", tensors.manifest(),
                                                          {{"consolidated.00.pth", {{"w", 0}}, "consolidated.00"},
                                                           {"consolidated.01.pth", {{"w", 1}}, "consolidated.01"}},
                                                          1));
  ASSERT_OK(Transfer(tensors, *sink, {}));

  for (int i = 0; i < 2; ++i) {
    const std::string path = absl::StrCat("/consolidated.0", i, ".pth");
    ASSERT_OK_AND_ASSIGN(TorchContents contents, List(fs, path));
    ASSERT_OK_AND_ASSIGN(const auto found, TorchSource::Create(fs, {std::move(contents)}, {}));
    EXPECT_EQ(found->manifest()[0].name, "w");
    EXPECT_EQ(ReadWhole(*found, 0).value(), ReadWhole(tensors, i).value());
  }
}

TEST(TorchSinkTest, AWrapperStandsAroundTheTensors) {
  MemorySource tensors;
  tensors.Add<float>("a.weight", DType::kF32, {2}, {1, 2});
  tensors.Add<float>("b.weight", DType::kF32, {1}, {3});
  TorchFilePlan plan = PlanAll(tensors.manifest());
  plan.wrapper = {"model", {{"model_key", "model"}, {"by", "me"}}, {"whole"}};
  MemoryFileSystem fs;
  ASSERT_OK(Write(fs, "/", tensors, plan, 1, 1));

  ASSERT_OK_AND_ASSIGN(const TorchContents contents, List(fs, "/weights.bin"));

  ASSERT_EQ(contents.tensors.size(), 2u);
  EXPECT_EQ(contents.tensors[0].name, "model.a.weight");
  EXPECT_EQ(contents.tensors[1].name, "model.b.weight");
  ASSERT_EQ(contents.values.size(), 3u);
  EXPECT_EQ(contents.values[0].path, "model_key");
  EXPECT_EQ(contents.values[0].text, "model");
  EXPECT_EQ(contents.values[1].path, "by");
  EXPECT_EQ(contents.values[2].path, "whole");
  EXPECT_EQ(contents.values[2].type, "bool");
  EXPECT_EQ(contents.values[2].text, "True");
}

// Beyond what 16 bits count.
TEST(TorchSinkTest, ManyTensors) {
  MemorySource tensors;
  for (int i = 0; i < 70'000; ++i) {
    tensors.Add<uint8_t>(absl::StrCat("t", i), DType::kU8, {1}, {static_cast<uint8_t>(i)});
  }
  MemoryFileSystem fs;
  ASSERT_OK(Write(fs, "/", tensors, PlanAll(tensors.manifest()), int64_t{8} << 20, 2));

  ASSERT_OK_AND_ASSIGN(TorchContents contents, List(fs, "/weights.bin"));

  EXPECT_EQ(contents.tensors.size(), 70'000u);
  ASSERT_OK_AND_ASSIGN(const auto found, TorchSource::Create(fs, {std::move(contents)}, {}));
  const int64_t index = found->manifest().Find("t65793");
  ASSERT_GE(index, 0);
  EXPECT_EQ(ReadWhole(*found, index).value(), std::vector<char>{static_cast<char>(65793 & 0xFF)});
}

TEST(TorchSinkTest, RefusesWhatPyTorchCannotHold) {
  MemorySource tensors;
  tensors.Add<uint8_t>("half.bytes", DType::kF4, {4}, {1, 2});
  MemoryFileSystem fs;

  const auto sink = TorchSink::Create(fs, "/", tensors.manifest(), {PlanAll(tensors.manifest())}, 1);

  EXPECT_THAT(sink, IsKind(ErrorKind::kUnsupported, HasSubstr("\"half.bytes\" is F4")));
}

TEST(TorchSinkTest, RefusesKeysAndNames) {
  MemorySource tensors;
  tensors.Add<float>("a", DType::kF32, {2}, {1, 2});
  MemoryFileSystem fs;
  const auto create = [&](TorchFilePlan plan) {
    return TorchSink::Create(fs, "/", tensors.manifest(), {std::move(plan)}, 1).status();
  };

  EXPECT_THAT(create({"x.bin", {{"k", 0}, {"k", 0}}}), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(create({"x.bin", {{"\xff", 0}}}), IsKind(ErrorKind::kUtf8));
  EXPECT_THAT(create({"../x.bin", {{"k", 0}}}), IsKind(ErrorKind::kPath));
  EXPECT_THAT(create({"x.bin", {{"k", 0}}, "a/b"}), IsKind(ErrorKind::kPath));
  EXPECT_OK(create({"x.bin", {{"k", 0}}, "a.b"}));
  EXPECT_OK(create({"x.bin", {{"k", 0}}, "a.b", {"k", {{"l", "x"}}, {"m"}}}));
  EXPECT_THAT(create({"x.bin", {{"k", 0}}, "a.b", {"k", {{"l", "x"}}, {"l"}}}), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(create({"x.bin", {{"k", 0}}, "a.b", {"k", {{"k", "x"}}, {}}}), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(create({"x.bin", {{"k", 0}}, "a.b", {"k", {{"l", "\xff"}}, {}}}), IsKind(ErrorKind::kUtf8));
  EXPECT_THAT(create({"x.bin", {{"k", 0}}, "a.b", {"", {}, {"m"}}}), IsKind(ErrorKind::kRequest));
}

TEST(TorchSinkTest, FinishNeedsAllBlocks) {
  RandomGeometry random(77);
  MemorySource tensors;
  AddRandomTensor("a", DType::kF32, {4000}, &random, &tensors);
  MemoryFileSystem fs;
  ASSERT_OK_AND_ASSIGN(const auto sink,
                       TorchSink::Create(fs, "/", tensors.manifest(), {PlanAll(tensors.manifest())}, 1));
  ASSERT_OK(WriteBlock(tensors, *sink, 0));

  EXPECT_EQ(sink->Finish().code(), absl::StatusCode::kInternal);
}

// A fault at any call is reported, and OK means that a power loss takes nothing.
TEST(TorchSinkTest, FaultsAreReportedAndSuccessIsDurable) {
  RandomGeometry random(78);
  const auto tensors = RandomTensors(6, &random);
  AddRandomTensor("large", DType::kF32, {20'000}, &random, tensors.get());
  int fired = 0;
  for (const Fault fault : kAllFaults) {
    for (int64_t at = 0;; ++at) {
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", at));
      MemoryFileSystem memory;
      FaultFileSystem fs(memory, fault, at);
      const absl::Status status = Write(fs, "/", *tensors, PlanAll(tensors->manifest()), 1, 2);
      if (at >= fs.calls()) {
        break;
      }
      if (!fs.fired()) {
        continue;
      }
      ++fired;
      // The last call, the close, may be the one after which the process dies.
      ASSERT_TRUE(!status.ok() || fault == Fault::kKillAfter);
      if (status.ok()) {
        ASSERT_OK(memory.SyncDirectory("/"));
        const auto after = memory.Crash(DiskState::kOnlySynced);
        ASSERT_NO_FATAL_FAILURE(ExpectHolds(*after, "/weights.bin", *tensors));
      }
    }
  }
  EXPECT_GT(fired, 50);
}

}  // namespace
}  // namespace waypoint
