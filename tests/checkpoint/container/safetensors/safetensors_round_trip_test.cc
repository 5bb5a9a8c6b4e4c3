// What the sink writes, the source reads: any tensors, any blocks, any windows, any boxes.

#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/tensor/transfer.h"
#include "gmock/gmock.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kMaxFileBytes = int64_t{16} << 20;

std::vector<int64_t> AllOf(const Manifest& manifest) {
  std::vector<int64_t> all(manifest.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

struct Written {
  std::vector<WrittenFile> files;
  std::string directory;

  std::vector<SafetensorsFile> ToRead(bool digests) const {
    std::vector<SafetensorsFile> out;
    for (const WrittenFile& file : files) {
      out.push_back({JoinPath(directory, file.name), file.header, digests ? file.digests : ChunkDigests()});
    }
    return out;
  }
};

Written Write(FileSystem& fs, const std::string& directory, TensorSource& source, int64_t max_file_bytes,
              int64_t block_bytes, int threads) {
  Written written;
  written.directory = directory;
  auto sink = SafetensorsSink::Create(
      fs, directory, source.manifest(),
      PlanSafetensorsFiles(source.manifest(), AllOf(source.manifest()), "model", max_file_bytes, {{"k", "v"}}),
      block_bytes);
  EXPECT_OK(sink);
  TransferOptions options;
  options.threads = threads;
  EXPECT_OK(Transfer(source, **sink, options));
  written.files = (*sink)->written_files();
  return written;
}

std::vector<char> PartOf(const std::vector<char>& whole, const TensorMeta& meta, const Box& box) {
  std::vector<char> part(box.num_elements() * DTypeBytes(meta.dtype));
  StridedSpan from = StridedSpan::Contiguous(const_cast<char*>(whole.data()), DTypeBytes(meta.dtype), meta.shape);
  for (int d = 0; d < box.rank(); ++d) {
    from = from.Narrow(d, box.offsets[d], box.sizes[d]);
  }
  CopyStrided(from, StridedSpan::Contiguous(part.data(), DTypeBytes(meta.dtype), box.sizes));
  return part;
}

// Random boxes of all tensors in one batch.
void ExpectBoxesAreEqual(MemorySource& wanted, TensorSource& found, RandomGeometry* random, bool whole) {
  std::vector<ReadRequest> requests;
  std::vector<std::vector<char>> memories(found.manifest().size());
  for (int64_t i = 0; i < found.manifest().size(); ++i) {
    const TensorMeta& meta = found.manifest()[i];
    const Box box = whole ? Box::Whole(meta.shape) : random->BoxIn(meta.shape);
    requests.push_back({i, box, random->Span(&memories[i], DTypeBytes(meta.dtype), box.sizes)});
  }
  ASSERT_OK(found.Read(requests));
  for (const ReadRequest& request : requests) {
    const TensorMeta& meta = found.manifest()[request.tensor];
    const int64_t index = wanted.manifest().Find(meta.name);
    ASSERT_GE(index, 0);
    ASSERT_EQ(meta.dtype, wanted.manifest()[index].dtype);
    ASSERT_EQ(meta.shape, wanted.manifest()[index].shape);
    std::vector<char> part(request.box.num_elements() * DTypeBytes(meta.dtype));
    CopyStrided(request.to, StridedSpan::Contiguous(part.data(), DTypeBytes(meta.dtype), request.box.sizes));
    ASSERT_EQ(part, PartOf(ReadWhole(wanted, index).value(), meta, request.box))
        << meta.name << " " << ShapeString(meta.shape) << " at " << request.box.ToString();
  }
}

void RoundTrips(FileSystem& fs, const std::string& root, int rounds, uint64_t seed) {
  RandomGeometry random(seed);
  for (int round = 0; round < rounds; ++round) {
    const auto tensors = RandomTensors(static_cast<int>(random.Pick(1, 15)), &random);
    // Rounds with and without a tensor of several chunks.
    const bool large = round % 4 == 0;
    if (large) {
      AddRandomTensor("large", DType::kF32, {211, 997}, &random, tensors.get());
    }
    const std::string directory = JoinPath(root, absl::StrCat("round-", round));
    ASSERT_OK(MakeDirectories(fs, directory));
    const Written written = Write(fs, directory, *tensors, random.Coin() ? int64_t{1} << 40 : random.Pick(1, 5000),
                                  random.Pick(1, 700'000), static_cast<int>(random.Pick(1, 4)));

    for (const WrittenFile& file : written.files) {
      ASSERT_OK_AND_ASSIGN(const auto opened, fs.OpenForRead(JoinPath(directory, file.name), {}));
      ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ReadSafetensorsHeader(*opened, {}));
      EXPECT_EQ(opened->size_bytes(), file.size_bytes);
      EXPECT_THAT(header.metadata, ElementsAre(testing::Pair("k", "v")));
      ASSERT_EQ(header.entries.size(), file.header.entries.size());
      for (const SafetensorsEntry& entry : header.entries) {
        EXPECT_EQ(entry.begin % DTypeBytes(entry.dtype), 0) << "elements are not aligned";
      }
    }
    for (int reading = 0; reading < 4; ++reading) {
      SafetensorsSourceOptions options;
      options.window_bytes = large ? random.Pick(100'000, 2'000'000) : random.Pick(1, 4000);
      options.gap_bytes = random.Coin() ? 0 : random.Pick(0, 100'000);
      ASSERT_OK_AND_ASSIGN(const auto source, SafetensorsSource::Create(fs, written.ToRead(random.Coin()), options));
      SCOPED_TRACE(absl::StrCat("window ", options.window_bytes, ", gap ", options.gap_bytes));
      ASSERT_NO_FATAL_FAILURE(ExpectBoxesAreEqual(*tensors, *source, &random, reading == 0));
    }
  }
}

TEST(SafetensorsRoundTripTest, InMemory) {
  MemoryFileSystem fs;
  RoundTrips(fs, "/data", 120, 61);
}

TEST(SafetensorsRoundTripTest, OnDisk) {
  const TempDirectory directory;
  RoundTrips(PosixFileSystem(), directory.path(), 25, 62);
}

TEST(SafetensorsSinkTest, EqualTensorsAreEqualBytes) {
  RandomGeometry random(63);
  const auto tensors = RandomTensors(10, &random);
  AddRandomTensor("large", DType::kBF16, {999, 501}, &random, tensors.get());
  MemoryFileSystem fs;
  std::vector<std::string> contents;
  int round = 0;
  for (const int64_t block_bytes : {1, 300'000, 8'000'000}) {
    for (const int threads : {1, 4}) {
      const std::string directory = absl::StrCat("/", round++);
      ASSERT_OK(MakeDirectories(fs, directory));
      Write(fs, directory, *tensors, int64_t{1} << 40, block_bytes, threads);
      ASSERT_OK_AND_ASSIGN(std::string bytes,
                           ReadSmallFile(fs, JoinPath(directory, "model.safetensors"), kMaxFileBytes, "test"));
      contents.push_back(std::move(bytes));
    }
  }
  for (const std::string& bytes : contents) {
    EXPECT_TRUE(bytes == contents[0]);
  }
}

TEST(SafetensorsSinkTest, WiderElementsComeFirstInOrder) {
  MemorySource tensors;
  tensors.Add("a", DType::kU8, {3}, std::vector<uint8_t>{1, 2, 3});
  tensors.Add("b", DType::kF32, {1}, std::vector<float>{1});
  tensors.Add("c", DType::kU8, {1}, std::vector<uint8_t>{1});
  tensors.Add("d", DType::kF64, {1}, std::vector<double>{1});
  tensors.Add("e", DType::kI32, {1}, std::vector<int32_t>{1});
  MemoryFileSystem fs;

  const Written written = Write(fs, "/", tensors, 1000, 1, 1);

  std::string order;
  for (const SafetensorsEntry& entry : written.files[0].header.entries) {
    order += entry.name;
  }
  EXPECT_EQ(order, "dbeac");
}

TEST(SafetensorsSinkTest, SubByteElementsAreRefused) {
  Manifest manifest;
  ASSERT_OK(manifest.Add({"quantised", DType::kF4, {2, 3}, {}}));
  MemoryFileSystem fs;

  EXPECT_THAT(SafetensorsSink::Create(fs, "/", manifest, {{"model.safetensors", {0}, {}}}, 1),
              IsKind(ErrorKind::kUnsupported, HasSubstr("\"quantised\"")));
}

TEST(SafetensorsSinkTest, NothingIsCreatedBeforeTheFirstWrite) {
  RandomGeometry random(64);
  const auto tensors = RandomTensors(3, &random);
  MemoryFileSystem fs;
  ASSERT_OK(SafetensorsSink::Create(
      fs, "/", tensors->manifest(),
      PlanSafetensorsFiles(tensors->manifest(), AllOf(tensors->manifest()), "model", 1, {}), 1));
  EXPECT_TRUE(fs.List("/").value().empty());
}

TEST(SafetensorsSinkTest, AnExistingFileIsNotReplaced) {
  RandomGeometry random(65);
  const auto tensors = RandomTensors(3, &random);
  MemoryFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/model.safetensors", "precious"));
  ASSERT_OK_AND_ASSIGN(const auto sink, SafetensorsSink::Create(fs, "/", tensors->manifest(),
                                                                {{"model.safetensors", {0, 1, 2}, {}}}, 1));
  EXPECT_THAT(Transfer(*tensors, *sink, {}), IsKind(ErrorKind::kExists));
  EXPECT_EQ(ReadSmallFile(fs, "/model.safetensors", 100, "test").value(), "precious");
}

TEST(PlanSafetensorsFilesTest, TensorsFillFilesInOrder) {
  Manifest manifest;
  for (const int64_t bytes : {60, 40, 1, 500, 0, 99}) {
    ASSERT_OK(manifest.Add({absl::StrCat("t", manifest.size()), DType::kU8, {bytes}, {}}));
  }
  const auto plan = PlanSafetensorsFiles(manifest, AllOf(manifest), "model", 100, {});

  ASSERT_EQ(plan.size(), 4u);
  EXPECT_THAT(plan[0].tensors, ElementsAre(0, 1));
  EXPECT_THAT(plan[1].tensors, ElementsAre(2));
  EXPECT_THAT(plan[2].tensors, ElementsAre(3));
  EXPECT_THAT(plan[3].tensors, ElementsAre(4, 5));
  EXPECT_EQ(plan[3].name, "model-00004-of-00004.safetensors");
}

TEST(PlanSafetensorsFilesTest, OneFileHasNoNumberAndNoTensorsNoFile) {
  Manifest manifest;
  ASSERT_OK(manifest.Add({"a", DType::kU8, {7}, {}}));

  EXPECT_EQ(PlanSafetensorsFiles(manifest, {0}, "model", 1, {})[0].name, "model.safetensors");
  EXPECT_TRUE(PlanSafetensorsFiles(manifest, {}, "model", 1, {}).empty());
}

}  // namespace
}  // namespace waypoint
