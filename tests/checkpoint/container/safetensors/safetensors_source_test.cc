#include "checkpoint/container/safetensors/safetensors_source.h"

#include <cstring>

#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kPath[] = "/model.safetensors";

struct T {
  std::string name;
  DType dtype;
  Dims shape;
};

// A file of random bytes in this order, without padding: elements need not be aligned.
struct File {
  File(const std::vector<T>& tensors, uint64_t seed, int64_t alignment = 1) {
    for (const T& tensor : tensors) {
      header.entries.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
    }
    bytes = BuildSafetensorsHeader(&header.entries, {}, alignment);
    header.data_begin = static_cast<int64_t>(bytes.size());
    header.file_bytes = header.entries.back().end;
    RandomGeometry random(seed);
    while (static_cast<int64_t>(bytes.size()) < header.file_bytes) {
      bytes.push_back(static_cast<char>(random.engine()()));
    }
  }

  std::unique_ptr<SafetensorsSource> Open(FileSystem& fs, const SafetensorsSourceOptions& options,
                                          bool digests = false) const {
    ChunkDigests chunks;
    for (size_t begin = 0; digests && begin < bytes.size(); begin += kDigestChunkBytes) {
      chunks.digests.push_back(Xxh3(absl::MakeConstSpan(bytes).subspan(begin, kDigestChunkBytes)));
    }
    EXPECT_OK(RemoveTree(fs, kPath));
    EXPECT_OK(WriteSmallFile(fs, kPath, bytes));
    auto source = SafetensorsSource::Create(fs, {{kPath, header, chunks}}, options);
    EXPECT_OK(source);
    return std::move(source).value();
  }

  std::string Tensor(int index) const {
    return bytes.substr(header.entries[index].begin, header.entries[index].end - header.entries[index].begin);
  }

  SafetensorsHeader header;
  std::string bytes;
};

std::string Text(const std::vector<char>& bytes) { return std::string(bytes.begin(), bytes.end()); }

TEST(SafetensorsSourceTest, UnalignedElementsAndSubByteTensors) {
  MemoryFileSystem fs;
  const File file({{"a", DType::kU8, {3}},
                   {"b", DType::kF64, {5}},
                   {"q", DType::kF4, {3, 2}},
                   {"s", DType::kF32, {}},
                   {"six", DType::kF6E2M3, {4, 3}},
                   {"e", DType::kI64, {0, 3}},
                   {"c", DType::kF16, {7, 3}}},
                  71);
  for (const int64_t window_bytes : {1, 5, 7, 8, 100, 1 << 20}) {
    SafetensorsSourceOptions options;
    options.window_bytes = window_bytes;
    const auto source = file.Open(fs, options, window_bytes % 2 == 0);
    for (int i = 0; i < 7; ++i) {
      ASSERT_OK_AND_ASSIGN(const std::vector<char> bytes, ReadWhole(*source, i));
      EXPECT_EQ(Text(bytes), file.Tensor(i)) << i << " with a window of " << window_bytes;
    }
  }
}

// A window that ends between two elements, at the border of a chunk.
TEST(SafetensorsSourceTest, ElementsAcrossChunksAndWindows) {
  MemoryFileSystem fs;
  const File probe({{"pad", DType::kU8, {100'000}}, {"w", DType::kF64, {80'000}}}, 72);
  for (int64_t shift = 0; shift < 8; ++shift) {
    const int64_t pad = kDigestChunkBytes - probe.header.data_begin - shift;
    const File file({{"pad", DType::kU8, {pad}}, {"w", DType::kF64, {80'000}}}, 73);
    for (const int64_t window_bytes : {int64_t{4096}, int64_t{100'000}, kDigestChunkBytes, kDigestChunkBytes + 3}) {
      SafetensorsSourceOptions options;
      options.window_bytes = window_bytes;
      const auto source = file.Open(fs, options, shift % 2 == 0);
      ASSERT_OK_AND_ASSIGN(const std::vector<char> bytes, ReadWhole(*source, 1));
      ASSERT_TRUE(Text(bytes) == file.Tensor(1)) << shift << " with a window of " << window_bytes;

      // A window never cuts what is cast while it is read.
      ASSERT_EQ(source->CanCast(1), shift == 0);
      ASSERT_FALSE(source->CanCast(0));
      if (source->CanCast(1)) {
        std::vector<float> cast(80'000);
        std::vector<float> wanted(cast.size());
        ElementCast to_float(DType::kF64, DType::kF32);
        char* const memory = reinterpret_cast<char*>(cast.data());
        ASSERT_OK(source->Read({{1, Box::Whole({80'000}), StridedSpan::Contiguous(memory, 4, {80'000}), &to_float}}));
        CastElements(DType::kF64, bytes.data(), DType::kF32, reinterpret_cast<char*>(wanted.data()), 80'000);
        ASSERT_EQ(std::memcmp(cast.data(), wanted.data(), 4 * wanted.size()), 0)
            << " with a window of " << window_bytes;
      }
    }
  }
}

TEST(SafetensorsSourceTest, SameElementsMayBeAskedForTwice) {
  MemoryFileSystem fs;
  const File file({{"a", DType::kF32, {40, 5}}, {"b", DType::kF32, {3}}}, 74);
  RandomGeometry random(75);
  for (int round = 0; round < 200; ++round) {
    SafetensorsSourceOptions options;
    options.window_bytes = random.Pick(1, 300);
    options.gap_bytes = random.Pick(0, 50);
    const auto source = file.Open(fs, options);
    std::vector<ReadRequest> requests;
    std::vector<std::vector<char>> memories(6);
    for (auto& memory : memories) {
      const Box box = random.BoxIn({40, 5});
      memory.resize(box.num_elements() * 4);
      requests.push_back({0, box, StridedSpan::Contiguous(memory.data(), 4, box.sizes)});
    }
    ASSERT_OK(source->Read(requests));
    const std::string whole = file.Tensor(0);
    for (size_t i = 0; i < requests.size(); ++i) {
      std::string wanted;
      ForEachIndex(requests[i].box.sizes, [&](const Dims& index) {
        wanted += whole.substr(FlatIndex({40, 5}, Shifted(requests[i].box, index)) * 4, 4);
      });
      ASSERT_EQ(Text(memories[i]), wanted) << requests[i].box.ToString();
    }
  }
}

TEST(SafetensorsSourceTest, RowsCostWhatTheyMeasure) {
  MemoryFileSystem fs;
  const File file({{"w", DType::kF32, {4000, 256}}}, 76);
  Box rows = Box::Whole(Dims{4000, 256});
  rows.offsets[0] = 1234;
  rows.sizes[0] = 10;

  const auto plain = file.Open(fs, {});
  ASSERT_OK(ReadBox(*plain, 0, rows));
  EXPECT_LE(plain->stats().bytes_read, 10 * 1024 + 2 * kDirectAlignment);

  const auto checked = file.Open(fs, {}, true);
  ASSERT_OK(ReadBox(*checked, 0, rows));
  EXPECT_LE(checked->stats().bytes_read, 2 * kDigestChunkBytes);
}

TEST(SafetensorsSourceTest, AWholeFileIsReadOnce) {
  MemoryFileSystem fs;
  const File file({{"a", DType::kF32, {300, 1000}}, {"b", DType::kU8, {77'777}}, {"c", DType::kU8, {200'001}}}, 77, 8);
  SafetensorsSourceOptions options;
  options.window_bytes = 3 * kDigestChunkBytes;
  const auto source = file.Open(fs, options, true);
  std::vector<std::vector<char>> memories;
  std::vector<ReadRequest> requests;
  for (int64_t i = 0; i < 3; ++i) {
    const TensorMeta& meta = source->manifest()[i];
    memories.emplace_back(meta.num_bytes());
    requests.push_back(
        {i, Box::Whole(meta.shape), StridedSpan::Contiguous(memories[i].data(), DTypeBytes(meta.dtype), meta.shape)});
  }

  ASSERT_OK(source->Read(requests));

  EXPECT_EQ(source->stats().bytes_read, file.header.file_bytes);
}

TEST(SafetensorsSourceTest, TinyNeighboursAreMergedAcrossGaps) {
  MemoryFileSystem fs;
  const File file({{"w", DType::kF32, {1000, 1000}}}, 78);
  Box column = Box::Whole(Dims{1000, 1000});
  column.offsets[1] = 500;
  column.sizes[1] = 1;
  SafetensorsSourceOptions options;

  options.gap_bytes = 8192;
  const auto merged = file.Open(fs, options);
  ASSERT_OK(ReadBox(*merged, 0, column));
  EXPECT_LE(merged->stats().bytes_read, file.header.file_bytes + 2 * kDirectAlignment);

  options.gap_bytes = 0;
  const auto apart = file.Open(fs, options);
  ASSERT_OK(ReadBox(*apart, 0, column));
  EXPECT_EQ(apart->stats().bytes_read, 4000);
}

TEST(SafetensorsSourceTest, ADamagedChunkIsNamed) {
  MemoryFileSystem fs;
  File file({{"first", DType::kF32, {100, 1000}}, {"second", DType::kF32, {250, 1000}}}, 79);
  const std::string good = file.bytes;
  for (size_t chunk = 0; chunk * kDigestChunkBytes < good.size(); ++chunk) {
    const auto source = file.Open(fs, {}, true);
    std::string bad = good;
    const size_t at = std::min(chunk * kDigestChunkBytes + 100'000, good.size() - 1);
    bad[at] = static_cast<char>(bad[at] ^ 4);
    ASSERT_OK(RemoveTree(fs, kPath));
    ASSERT_OK(WriteSmallFile(fs, kPath, bad));

    const absl::Status first = ReadWhole(*source, 0).status();
    const absl::Status second = ReadWhole(*source, 1).status();

    const char* damaged = chunk < 2 ? "\"first\"" : "\"second\"";
    EXPECT_THAT(chunk < 2 ? first : second,
                IsKind(ErrorKind::kChecksum,
                       AllOf(HasSubstr(kPath), HasSubstr(absl::StrCat("chunk ", chunk, " ")), HasSubstr(damaged))));
    if (chunk != 1) {
      EXPECT_OK(chunk < 2 ? second : first);  // the other tensor has no byte in the chunk
    }
  }
}

TEST(SafetensorsSourceTest, ADamagedHeaderIsFoundWithTheDataBesideIt) {
  MemoryFileSystem fs;
  const File file({{"first", DType::kF32, {10}}}, 80);
  const auto source = file.Open(fs, {}, true);
  std::string bad = file.bytes;
  bad[20] = static_cast<char>(bad[20] ^ 1);
  ASSERT_OK(RemoveTree(fs, kPath));
  ASSERT_OK(WriteSmallFile(fs, kPath, bad));

  EXPECT_THAT(ReadWhole(*source, 0), IsKind(ErrorKind::kChecksum, HasSubstr("chunk 0 at 0")));
}

TEST(SafetensorsSourceTest, AFileThatChangedItsSizeIsTruncated) {
  MemoryFileSystem fs;
  const File file({{"a", DType::kF32, {100}}}, 81);
  for (const int64_t bytes : {int64_t{0}, file.header.file_bytes - 1, file.header.file_bytes + 1}) {
    const auto source = file.Open(fs, {});
    std::string other = file.bytes;
    other.resize(bytes);
    ASSERT_OK(RemoveTree(fs, kPath));
    ASSERT_OK(WriteSmallFile(fs, kPath, other));
    EXPECT_THAT(ReadWhole(*source, 0), IsKind(ErrorKind::kTruncated, HasSubstr(kPath)));
  }
}

TEST(SafetensorsSourceTest, AFileThatWentAwayIsAnIoError) {
  MemoryFileSystem fs;
  const auto source = File({{"a", DType::kF32, {100}}}, 82).Open(fs, {});
  ASSERT_OK(RemoveTree(fs, kPath));
  EXPECT_THAT(ReadWhole(*source, 0), IsKind(ErrorKind::kIo, HasSubstr(kPath)));
}

TEST(SafetensorsSourceTest, TwoFilesMayNotHoldOneTensor) {
  MemoryFileSystem fs;
  const File file({{"a", DType::kF32, {100}}}, 83);
  EXPECT_THAT(SafetensorsSource::Create(fs, {{"/1", file.header, {}}, {"/2", file.header, {}}}, {}),
              IsKind(ErrorKind::kDupKey, AllOf(HasSubstr("\"/2\""), HasSubstr("\"a\""))));
}

TEST(SafetensorsSourceTest, ScratchOfLargeChunksIsAccountedFor) {
  MemoryFileSystem fs;
  File file({{"a", DType::kF32, {100}}}, 84);
  ChunkDigests digests;
  digests.chunk_bytes = int64_t{64} << 20;
  digests.digests = {0};
  ASSERT_OK_AND_ASSIGN(const auto source, SafetensorsSource::Create(fs, {{kPath, file.header, digests}}, {}));
  EXPECT_GE(source->ScratchBytes(4096), digests.chunk_bytes);
}

}  // namespace
}  // namespace waypoint
