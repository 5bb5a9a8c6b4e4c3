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
#include "checkpoint/container/torch_zip/crc_ledger.h"
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

TEST_F(TorchSourceTest, DamageIsFoundWhenTheLastByteWasRead) {
  PickledTensor tensor;
  tensor.type = "IntStorage";
  tensor.numel = 10'000;
  tensor.shape = {10'000};
  tensor.strides = {1};
  TorchSourceOptions options;
  options.reader.window_bytes = 4096;
  ASSERT_OK_AND_ASSIGN(const auto source, Open({Damaged(tensor, 10'000, 77)}, options));
  // Blocks in any order; the last one that was missing tells.
  std::vector<int64_t> blocks(10);
  for (int64_t i = 0; i < 10; ++i) {
    blocks[i] = i * 1000;
  }
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(3));
  std::vector<int32_t> out(1000);
  absl::Status status;
  for (const int64_t block : blocks) {
    ASSERT_OK(status);
    status = source->Read(
        {{0, Box{{block}, {1000}}, StridedSpan::Contiguous(reinterpret_cast<char*>(out.data()), 4, {1000})}});
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
