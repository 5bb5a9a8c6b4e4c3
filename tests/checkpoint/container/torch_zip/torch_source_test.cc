#include "checkpoint/container/torch_zip/torch_source.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/container/torch_zip/crc_ledger.h"
#include "checkpoint/container/torch_zip/inflated_file.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_bytes.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/torch_bytes.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

// int32 elements 0, 1, 2, ...
std::string Count(int64_t elements) {
  std::string bytes;
  for (int64_t i = 0; i < elements; ++i) {
    bytes += LittleEndian(i, 4);
  }
  return bytes;
}

class TorchSourceTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<TorchSource>> Open(const std::vector<std::string>& files,
                                                    const TorchSourceOptions& options = TorchSourceOptions()) {
    std::vector<TorchContents> contents;
    for (const std::string& bytes : files) {
      const std::string path = absl::StrCat("/", contents.size(), "-", ++opened_, ".pth");
      EXPECT_OK(WriteSmallFile(fs_, path, bytes));
      const auto file = fs_.OpenForRead(path, OpenOptions()).value();
      WAYPOINT_ASSIGN_OR_RETURN(TorchContents one, ReadTorchFile(*file, Limits()));
      contents.push_back(std::move(one));
    }
    return TorchSource::Create(fs_, std::move(contents), options);
  }

  MemoryFileSystem fs_;
  int opened_ = 0;
};

std::string File(const std::vector<std::pair<std::string, PickledTensor>>& tensors,
                 const std::vector<std::string>& storages, bool deflated = false) {
  std::vector<std::pair<std::string, std::string>> items;
  for (const auto& [name, tensor] : tensors) {
    items.emplace_back(name, tensor.ToString());
  }
  std::vector<ZipItem> zip = TorchItems(Pickle(PickleDict(items)), storages);
  for (ZipItem& item : zip) {
    item.deflated = deflated;
  }
  return ZipBytes(zip);
}

std::vector<int32_t> ReadAll(TorchSource& source, int64_t tensor) {
  const TensorMeta& meta = source.manifest()[tensor];
  std::vector<int32_t> out(meta.num_elements());
  EXPECT_OK(source.Read(
      {{tensor, Box::Whole(meta.shape), StridedSpan::Contiguous(reinterpret_cast<char*>(out.data()), 4, meta.shape)}}));
  return out;
}

// Any strides, any box, any destination.
TEST_F(TorchSourceTest, BoxesOfStridedTensorsAreWhatTheStridesSay) {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int64_t>(random() % n); };
  constexpr int64_t kElements = 600;
  for (int round = 0; round < 300; ++round) {
    PickledTensor tensor;
    tensor.type = "IntStorage";
    tensor.numel = kElements;
    tensor.shape.clear();
    tensor.strides.clear();
    const int rank = static_cast<int>(below(4));
    int64_t reach = 0;
    for (int d = 0; d < rank; ++d) {
      tensor.shape.push_back(1 + below(5));
      tensor.strides.push_back(below(3) == 0 ? 1 : below(30));
      reach += (tensor.shape[d] - 1) * tensor.strides[d];
    }
    tensor.offset = below(static_cast<int>(kElements - reach));
    TorchSourceOptions options;
    options.reader.window_bytes = 4 + below(300);
    options.reader.gap_bytes = below(100);
    ASSERT_OK_AND_ASSIGN(const auto source, Open({File({{"t", tensor}}, {Count(kElements)}, round % 3 == 0)}, options));

    Box box;
    StridedSpan to;
    to.element_bytes = 4;
    int64_t room = 4;
    for (int d = 0; d < rank; ++d) {
      box.offsets.push_back(below(static_cast<int>(tensor.shape[d])));
      box.sizes.push_back(1 + below(static_cast<int>(tensor.shape[d] - box.offsets[d])));
      to.strides.push_back(room);
      room *= box.sizes[d] + below(2);
    }
    to.sizes = box.sizes;
    std::vector<int32_t> memory(room / 4, -1);
    to.data = reinterpret_cast<char*>(memory.data());
    ASSERT_OK(source->Read({{0, box, to}}));

    Dims index(rank, 0);
    while (true) {
      int64_t wanted = tensor.offset;
      int64_t at = 0;
      for (int d = 0; d < rank; ++d) {
        wanted += (box.offsets[d] + index[d]) * tensor.strides[d];
        at += index[d] * to.strides[d] / 4;
      }
      ASSERT_EQ(memory[at], wanted) << "round " << round;
      int d = rank - 1;
      while (d >= 0 && ++index[d] == box.sizes[d]) {
        index[d--] = 0;
      }
      if (d < 0) {
        break;
      }
    }
  }
}

// Each of the files alone is within the limits.
TEST_F(TorchSourceTest, FilesAreLimitedTogether) {
  PickledTensor tensor;
  tensor.shape = {8 << 20};
  tensor.strides = {0};
  std::vector<std::string> files;
  for (int i = 0; i < 8; ++i) {
    files.push_back(File({{absl::StrCat("t", i), tensor}}, {SomeBytes(96)}));
  }
  EXPECT_OK(Open(files));
  files.push_back(File({{"t8", tensor}}, {SomeBytes(96)}));
  EXPECT_THAT(Open(files), IsKind(ErrorKind::kLimit, AllOf(HasSubstr("the files of"), HasSubstr("expand_file_bytes"))));
  TorchSourceOptions options;
  options.limits.expand_file_bytes = int64_t{1} << 30;
  EXPECT_OK(Open(files, options));
}

TEST_F(TorchSourceTest, WhatRepeatsIsCopiedInMemory) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 600;
  tensor.shape = {3, 1000, 200};
  tensor.strides = {200, 0, 1};
  ASSERT_OK_AND_ASSIGN(const auto source, Open({File({{"t", tensor}}, {Count(600)})}));

  const std::vector<int32_t> read = ReadAll(*source, 0);

  for (int64_t i = 0; i < static_cast<int64_t>(read.size()); ++i) {
    ASSERT_EQ(read[i], i / 200'000 * 200 + i % 200);
  }
}

TEST_F(TorchSourceTest, ARecorderSeesTheWholeFile) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 300'000;
  tensor.shape = {300'000};
  tensor.strides = {1};
  const std::string bytes = File({{"t", tensor}}, {Count(300'000)});
  TorchSourceOptions options;
  ASSERT_OK_AND_ASSIGN(const auto recorder, ChunkRecorder::Create(static_cast<int64_t>(bytes.size())));
  options.recorders = {recorder};
  ASSERT_OK_AND_ASSIGN(const auto source, Open({bytes}, options));

  EXPECT_EQ(ReadAll(*source, 0)[299'999], 299'999);

  ASSERT_OK_AND_ASSIGN(const auto file, fs_.OpenForRead(absl::StrCat("/0-", opened_, ".pth"), OpenOptions()));
  ASSERT_OK(recorder->Complete(*file));
  EXPECT_EQ(recorder->Digest(), FileDigest(bytes));
}

TEST_F(TorchSourceTest, ManySmallRunsGoInBatches) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 200'000;
  tensor.shape = {100'000};
  tensor.strides = {2};
  ASSERT_OK_AND_ASSIGN(const auto source, Open({File({{"t", tensor}}, {Count(200'000)})}));
  const std::vector<int32_t> read = ReadAll(*source, 0);
  for (int64_t i = 0; i < 100'000; ++i) {
    ASSERT_EQ(read[i], 2 * i);
  }
}

TEST_F(TorchSourceTest, TensorsOfSeveralFilesComeInTheOrderOfTheirData) {
  PickledTensor first;
  first.key = "1";
  PickledTensor second;
  ASSERT_OK_AND_ASSIGN(const auto source, Open({File({{"b", first}, {"a", second}}, {SomeBytes(96), SomeBytes(96)}),
                                                File({{"c", second}}, {SomeBytes(96)})}));
  ASSERT_EQ(source->manifest().size(), 3);
  EXPECT_EQ(source->manifest()[0].name, "a");
  EXPECT_EQ(source->manifest()[1].name, "b");
  EXPECT_EQ(source->manifest()[2].name, "c");
  EXPECT_THAT(Open({File({{"a", second}}, {SomeBytes(96)}), File({{"a", second}}, {SomeBytes(96)})}),
              IsKind(ErrorKind::kDupKey, HasSubstr("\"a\"")));
}

// A file of one storage with a flipped bit in it.
std::string Damaged(const PickledTensor& tensor, int64_t numel, int64_t element) {
  std::string bytes = File({{"t", tensor}}, {Count(numel)});
  const size_t at = bytes.find(Count(numel).substr(0, 64));
  bytes[at + 4 * element] ^= 1;
  return bytes;
}

TEST_F(TorchSourceTest, DamageIsFoundWhenAllBytesWereRead) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 10'000;
  tensor.shape = {10'000};
  tensor.strides = {1};
  TorchSourceOptions options;
  options.reader.window_bytes = 4096;
  ASSERT_OK_AND_ASSIGN(const auto source, Open({Damaged(tensor, 10'000, 77)}, options));
  // Blocks in any order; no single one can tell, all together do.
  std::vector<int64_t> blocks(10);
  for (int64_t i = 0; i < 10; ++i) {
    blocks[i] = i * 1000;
  }
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(3));
  std::vector<int32_t> out(1000);
  absl::Status status;
  for (size_t i = 0; status.ok() && i < blocks.size(); ++i) {
    status = source->Read(
        {{0, Box{{blocks[i]}, {1000}}, StridedSpan::Contiguous(reinterpret_cast<char*>(out.data()), 4, {1000})}});
    EXPECT_TRUE(status.ok() || i > 0);
  }
  EXPECT_THAT(status, IsKind(ErrorKind::kChecksum, HasSubstr("storage \"0\"")));
  // And stays.
  EXPECT_THAT(
      source->Read({{0, Box{{0}, {1000}}, StridedSpan::Contiguous(reinterpret_cast<char*>(out.data()), 4, {1000})}}),
      IsKind(ErrorKind::kChecksum));

  options.verify = false;
  ASSERT_OK_AND_ASSIGN(const auto trusting, Open({Damaged(tensor, 10'000, 77)}, options));
  EXPECT_EQ(ReadAll(*trusting, 0)[77], 76);
}

TEST_F(TorchSourceTest, ARecordWithBytesThatNoTensorCoversIsReadThroughFirst) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 10'000;
  tensor.shape = {10};
  tensor.strides = {1};
  ASSERT_OK_AND_ASSIGN(const auto source, Open({Damaged(tensor, 10'000, 9'999)}));
  std::vector<int32_t> out(10);
  EXPECT_THAT(source->Read({{0, Box::Whole(tensor.shape),
                             StridedSpan::Contiguous(reinterpret_cast<char*>(out.data()), 4, tensor.shape)}}),
              IsKind(ErrorKind::kChecksum));
}

absl::Status ReadBox(TorchSource& source, int64_t tensor, int64_t offset, int64_t elements) {
  std::vector<int32_t> out(elements);
  return source.Read({{tensor, Box{{offset}, {elements}},
                       StridedSpan::Contiguous(reinterpret_cast<char*>(out.data()), 4, {elements})}});
}

TEST_F(TorchSourceTest, ATensorLeftOutOfASharedStorageLeavesNothingUnchecked) {
  PickledTensor first;
  first.type = "IntStorage";
  first.numel = 10'000;
  first.shape = {5000};
  first.strides = {1};
  PickledTensor second = first;
  second.offset = 5000;
  // Together they touch every byte; the damage is in the second, and in the first.
  for (const int64_t element : {77, 7777}) {
    std::string bytes = File({{"a", first}, {"b", second}}, {Count(10'000)});
    bytes[bytes.find(Count(10'000).substr(0, 64)) + 4 * element] ^= 1;
    ASSERT_OK_AND_ASSIGN(const auto source, Open({bytes}));
    EXPECT_THAT(ReadBox(*source, 0, 0, 5000), IsKind(ErrorKind::kChecksum)) << element;
  }
}

TEST_F(TorchSourceTest, APartOfATensorIsCheckedOnlyWhereThatIsAskedFor) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 100'000;
  tensor.shape = {100'000};
  tensor.strides = {1};
  TorchSourceOptions options;
  ASSERT_OK_AND_ASSIGN(const auto by_boxes, Open({Damaged(tensor, 100'000, 77)}, options));
  EXPECT_OK(ReadBox(*by_boxes, 0, 50, 100));
  EXPECT_LE(by_boxes->stats().bytes_read, 3 * kDirectAlignment);

  options.verify_whole = true;
  ASSERT_OK_AND_ASSIGN(const auto whole, Open({Damaged(tensor, 100'000, 77)}, options));
  EXPECT_THAT(ReadBox(*whole, 0, 90'000, 100), IsKind(ErrorKind::kChecksum));
  ASSERT_OK_AND_ASSIGN(const auto good, Open({File({{"t", tensor}}, {Count(100'000)})}, options));
  EXPECT_EQ(ReadAll(*good, 0)[99'999], 99'999);
}

// Stored in few bytes, a compressed record reaches far in unpacked ones: no reason to skip those behind it.
TEST_F(TorchSourceTest, DamageBehindACompressedRecordIsFound) {
  PickledTensor zeros;
  zeros.type = "IntStorage";
  zeros.numel = 100'000;
  zeros.shape = {100'000};
  zeros.strides = {1};
  PickledTensor small = zeros;
  small.numel = 1000;
  small.shape = {1000};
  std::vector<std::pair<std::string, std::string>> tensors;
  std::vector<std::string> storages;
  for (int i = 0; i < 5; ++i) {
    PickledTensor& tensor = i == 0 ? zeros : small;
    tensor.key = absl::StrCat(i);
    tensors.emplace_back(absl::StrCat("t", i), tensor.ToString());
    storages.push_back(i == 0 ? std::string(400'000, '\0') : Count(1000));
  }
  std::vector<ZipItem> items = TorchItems(Pickle(PickleDict(tensors)), storages);
  for (ZipItem& item : items) {
    item.deflated = item.data.size() == 400'000;
  }
  std::string bytes = ZipBytes(items);
  bytes[bytes.rfind(Count(1000)) + 500] ^= 1;
  ASSERT_OK_AND_ASSIGN(const auto source, Open({bytes}));
  ASSERT_EQ(source->manifest()[4].name, "t4");

  EXPECT_OK(ReadBox(*source, 1, 0, 1000));
  EXPECT_THAT(ReadBox(*source, 4, 0, 1000), IsKind(ErrorKind::kChecksum, HasSubstr("storage \"4\"")));
}

// Counts what is read of a file.
class CountedFile : public ReadableFile {
 public:
  CountedFile(std::unique_ptr<ReadableFile> file, int64_t* bytes) : file_(std::move(file)), bytes_(bytes) {}
  const std::string& path() const override { return file_->path(); }
  int64_t size_bytes() const override { return file_->size_bytes(); }
  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    *bytes_ += static_cast<int64_t>(out.size());
    return file_->Read(offset, out);
  }

 private:
  const std::unique_ptr<ReadableFile> file_;
  int64_t* const bytes_;
};

TEST_F(TorchSourceTest, BlocksALittleOutOfOrderAreNotDecompressedFromTheBeginning) {
  const std::string data = SomeBytes(4 << 20);
  const std::string stored = RawDeflate(data);
  ASSERT_OK(WriteSmallFile(fs_, "/stored", stored));
  ZipEntry entry;
  entry.name = "data";
  entry.deflated = true;
  entry.stored_bytes = static_cast<int64_t>(stored.size());
  entry.bytes = static_cast<int64_t>(data.size());
  int64_t bytes_read = 0;
  const InflatedFile file(std::make_unique<CountedFile>(fs_.OpenForRead("/stored", {}).value(), &bytes_read), entry);
  constexpr int64_t kBlock = 16 << 10;
  // As three threads may come that pull a block each: 2, 1, 0, 5, 4, 3, ...
  std::string read(kBlock, '\0');
  const int64_t blocks = entry.bytes / kBlock / 3 * 3;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t block = i / 3 * 3 + 2 - i % 3;
    ASSERT_OK(file.Read(block * kBlock, absl::MakeSpan(&read[0], kBlock)));
    ASSERT_EQ(read, data.substr(block * kBlock, kBlock));
  }

  EXPECT_LE(bytes_read, 4 * entry.stored_bytes);
}

TEST_F(TorchSourceTest, ThreadsReadAtOnce) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 100'000;
  tensor.shape = {100'000};
  tensor.strides = {1};
  for (const bool deflated : {false, true}) {
    TorchSourceOptions options;
    options.reader.window_bytes = 10'000;
    ASSERT_OK_AND_ASSIGN(const auto source, Open({File({{"t", tensor}}, {Count(100'000)}, deflated)}, options));
    std::vector<int32_t> out(100'000, -1);
    std::vector<std::thread> threads;
    for (int64_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int64_t block = thread; block < 20; block += 4) {
          char* const to = reinterpret_cast<char*>(out.data() + block * 5000);
          EXPECT_OK(source->Read({{0, Box{{block * 5000}, {5000}}, StridedSpan::Contiguous(to, 4, {5000})}}));
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    for (int32_t i = 0; i < 100'000; ++i) {
      ASSERT_EQ(out[i], i);
    }
  }
}

TEST_F(TorchSourceTest, AFileThatChangedIsNotRead) {
  ASSERT_OK_AND_ASSIGN(const auto source, Open({File({{"t", PickledTensor()}}, {SomeBytes(96)})}));
  ASSERT_OK(fs_.RemoveFile("/0-1.pth"));
  ASSERT_OK(WriteSmallFile(fs_, "/0-1.pth", "short"));
  std::string out(96, '\0');
  EXPECT_THAT(source->Read({{0, Box::Whole({4, 6}), StridedSpan::Contiguous(&out[0], 4, {4, 6})}}),
              IsKind(ErrorKind::kTruncated));
}

TEST(CrcLedgerTest, StretchesInAnyOrderGiveTheCrcOfTheWhole) {
  std::mt19937 random(5);
  const std::string record = SomeBytes(1000);
  const uint32_t whole = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(record.data()), 1000));
  for (int round = 0; round < 100; ++round) {
    CrcLedger ledger(1000);
    absl::optional<uint32_t> seen;
    while (ledger.seen_bytes() < 1000) {
      ASSERT_FALSE(seen.has_value());
      const int64_t begin = random() % 1000;
      const int64_t end = std::min<int64_t>(1000, begin + 1 + random() % 300);
      seen = ledger.See(begin, absl::MakeConstSpan(record).subspan(begin, end - begin));
    }
    ASSERT_TRUE(seen.has_value());
    EXPECT_EQ(*seen, whole);
    EXPECT_FALSE(ledger.See(0, record).has_value());
  }
}

}  // namespace
}  // namespace waypoint
