#include "checkpoint/container/torch_zip/zip_directory.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/container/torch_zip/zip_entry_stream.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/torch_bytes.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

class ZipDirectoryTest : public ::testing::Test {
 protected:
  absl::StatusOr<ZipDirectory> Read(const std::string& bytes, const Limits& limits = Limits()) {
    fs_ = std::make_unique<MemoryFileSystem>();
    EXPECT_OK(WriteSmallFile(*fs_, "/x.pth", bytes));
    file_ = fs_->OpenForRead("/x.pth", OpenOptions()).value();
    return ZipDirectory::Read(*file_, limits);
  }

  std::unique_ptr<MemoryFileSystem> fs_;
  std::unique_ptr<ReadableFile> file_;
};

// What torch.save writes, small.
std::vector<ZipItem> Items() {
  return {{"a/data.pkl", "pickle"}, {"a/data/0", std::string(96, 'x')}, {"a/version", "3\n"}};
}

// The offset of the n-th record with this signature, n from 0.
size_t RecordAt(const std::string& bytes, const std::string& signature, int n) {
  size_t at = bytes.find(signature);
  for (; n > 0; --n) {
    at = bytes.find(signature, at + 1);
  }
  return at;
}

TEST_F(ZipDirectoryTest, EveryWayToWriteAnEntryIsRead) {
  for (const bool descriptor : {true, false}) {
    for (const bool wide : {true, false}) {
      for (const bool deflated : {true, false}) {
        for (const bool end64 : {true, false}) {
          std::vector<ZipItem> items = Items();
          for (ZipItem& item : items) {
            item.descriptor = descriptor;
            item.wide = wide;
            item.deflated = deflated;
          }
          ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, Read(ZipBytes(items, end64)));
          EXPECT_EQ(zip.top(), "a");
          ASSERT_EQ(zip.entries().size(), 3u);
          const ZipEntry* entry = zip.Find("data/0");
          ASSERT_NE(entry, nullptr);
          ASSERT_OK_AND_ASSIGN(const std::string data, ReadZipEntry(*file_, *entry, 1000, "limit"));
          EXPECT_EQ(data, std::string(96, 'x'));
          EXPECT_EQ(zip.Find("data/1"), nullptr);
          EXPECT_EQ(zip.Find("DATA/0"), nullptr);
        }
      }
    }
  }
}

TEST_F(ZipDirectoryTest, FoldersAndCommentsAreSkipped) {
  std::vector<ZipItem> items = Items();
  items.insert(items.begin(), {"a/", "", false});
  ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, Read(ZipBytes(items, true, "a comment")));
  EXPECT_EQ(zip.entries().size(), 3u);
  items[0].data = "not empty";
  EXPECT_THAT(Read(ZipBytes(items)), IsKind(ErrorKind::kZip));
}

TEST_F(ZipDirectoryTest, BytesBeforeBetweenAndBehindAreRefused) {
  const std::string good = ZipBytes(Items());
  EXPECT_THAT(Read("xx" + good), IsKind(ErrorKind::kZip));
  EXPECT_THAT(Read(good + "x"), IsKind(ErrorKind::kZip, HasSubstr("end record")));
  EXPECT_THAT(Read(ZipBytes(Items(), true, ZipBytes(Items(), false))), IsKind(ErrorKind::kZip));
  EXPECT_THAT(Read(ZipBytes(Items(), true, std::string("PK\x05\x06", 4))), IsKind(ErrorKind::kZip));
  EXPECT_THAT(Read(ZipBytes({})), IsKind(ErrorKind::kZip, HasSubstr("empty")));
}

TEST_F(ZipDirectoryTest, NamesAreCheckedAndOccurOnce) {
  for (const std::string& name :
       {std::string("x"), std::string("b/x"), std::string("a/../x"), std::string("/a/x"), std::string("a//x"),
        std::string("a/./x"), std::string("a\\x"), std::string("a/x\0y", 5), std::string("a/\xFF"),
        std::string("a/version"), std::string("a/VERSION"), std::string()}) {
    std::vector<ZipItem> items = Items();
    items.push_back({name, "data"});
    EXPECT_THAT(Read(ZipBytes(items)), IsKind(ErrorKind::kZip)) << name;
  }
}

TEST_F(ZipDirectoryTest, ContradictionsAreRefused) {
  const std::string local = "PK\x03\x04";
  const std::string descriptor = "PK\x07\x08";
  const std::string central = "PK\x01\x02";
  const std::string end64 = "PK\x06\x06";
  const std::string locator = "PK\x06\x07";
  const std::string end = "PK\x05\x06";
  struct Case {
    const char* what;
    std::string signature;
    int n;
    size_t field;
    std::string value;
  };
  const std::vector<Case> cases = {
      {"local signature", local, 1, 0, "PKxx"},
      {"local flags", local, 1, 6, LittleEndian(0x0800, 2)},
      {"local method", local, 1, 8, LittleEndian(8, 2)},
      {"local crc", local, 1, 14, LittleEndian(1, 4)},
      {"local stored size", local, 1, 18, LittleEndian(95, 4)},
      {"local size", local, 1, 22, LittleEndian(95, 4)},
      {"local name length", local, 1, 26, LittleEndian(9, 2)},
      {"local extra length", local, 1, 28, LittleEndian(0xFFF0, 2)},
      {"local name", local, 1, 30, "b"},
      {"descriptor signature", descriptor, 1, 0, "xxxx"},
      {"descriptor crc", descriptor, 1, 4, LittleEndian(1, 4)},
      {"descriptor stored size", descriptor, 1, 8, LittleEndian(95, 4)},
      {"descriptor size", descriptor, 1, 12, LittleEndian(97, 4)},
      {"central signature", central, 1, 0, "PKxx"},
      {"encrypted", central, 1, 8, LittleEndian(0x0809, 2)},
      {"method", central, 1, 10, LittleEndian(12, 2)},
      {"stored, two sizes", central, 1, 20, LittleEndian(95, 4)},
      {"size past the directory", central, 1, 24, LittleEndian(0x7FFFFFFF, 4)},
      {"marker without 64-bit field", central, 1, 24, LittleEndian(0xFFFFFFFF, 4)},
      {"central name length", central, 1, 28, LittleEndian(7, 2)},
      {"central extra length", central, 1, 30, LittleEndian(0xFFFF, 2)},
      {"other part", central, 1, 34, LittleEndian(1, 2)},
      {"local header of another entry", central, 1, 42, LittleEndian(0, 4)},
      {"local header in data", central, 1, 42, LittleEndian(70, 4)},
      {"64-bit count", end64, 0, 32, LittleEndian(4, 8)},
      {"64-bit count here", end64, 0, 24, LittleEndian(4, 8)},
      {"64-bit directory size", end64, 0, 40, LittleEndian(1, 8)},
      {"64-bit directory offset", end64, 0, 48, LittleEndian(1, 8)},
      {"64-bit record size", end64, 0, 4, LittleEndian(45, 8)},
      {"64-bit part", end64, 0, 16, LittleEndian(1, 4)},
      {"locator offset", locator, 0, 8, LittleEndian(0, 8)},
      {"locator parts", locator, 0, 16, LittleEndian(2, 4)},
      {"no locator", locator, 0, 0, "xxxx"},
      {"count", end, 0, 10, LittleEndian(2, 2)},
      {"count here", end, 0, 8, LittleEndian(2, 2)},
      {"directory size", end, 0, 12, LittleEndian(1, 4)},
      {"directory offset", end, 0, 16, LittleEndian(1, 4)},
      {"part", end, 0, 4, LittleEndian(1, 2)},
  };
  for (const Case& c : cases) {
    std::string bytes = ZipBytes(Items());
    bytes.replace(RecordAt(bytes, c.signature, c.n) + c.field, c.value.size(), c.value);
    EXPECT_THAT(Read(bytes), IsKind(ErrorKind::kZip, HasSubstr("\"/x.pth\""))) << c.what;
  }
}

TEST_F(ZipDirectoryTest, FewerEntriesThanThereAreIsRefused) {
  std::string bytes = ZipBytes(Items(), false);
  const size_t end = RecordAt(bytes, "PK\x05\x06", 0);
  bytes.replace(end + 8, 4, LittleEndian(0x00020002, 4));
  EXPECT_THAT(Read(bytes), IsKind(ErrorKind::kZip, HasSubstr("behind its 2 entries")));
}

TEST_F(ZipDirectoryTest, WideFieldsMustAgree) {
  std::vector<ZipItem> items = Items();
  items[1].wide = true;
  const std::string good = ZipBytes(items);
  const size_t local_extra = RecordAt(good, "PK\x03\x04", 1) + 30 + items[1].name.size();
  const size_t central_extra = RecordAt(good, "PK\x01\x02", 1) + 46 + items[1].name.size();
  for (const auto& [at, value] :
       std::vector<std::pair<size_t, std::string>>{{local_extra + 4, LittleEndian(95, 8)},
                                                   {local_extra + 12, LittleEndian(1, 8)},
                                                   {local_extra + 2, LittleEndian(12, 2)},
                                                   {central_extra + 4, LittleEndian(uint64_t{1} << 63, 8)},
                                                   {central_extra + 12, LittleEndian(95, 8)},
                                                   {central_extra + 2, LittleEndian(8, 2)},
                                                   {central_extra + 2, LittleEndian(17, 2)}}) {
    std::string bytes = good;
    bytes.replace(at, value.size(), value);
    EXPECT_THAT(Read(bytes), IsKind(ErrorKind::kZip)) << at;
  }
}

TEST_F(ZipDirectoryTest, TruncatedArchivesAreRefused) {
  const std::string good = ZipBytes(Items());
  for (size_t size = 0; size < good.size(); ++size) {
    ASSERT_THAT(Read(good.substr(0, size)), IsKind(ErrorKind::kZip)) << size;
  }
}

TEST_F(ZipDirectoryTest, DamagedDataIsNoticed) {
  for (const bool deflated : {false, true}) {
    std::vector<ZipItem> items = Items();
    items[1].deflated = deflated;
    std::string bytes = ZipBytes(items);
    ASSERT_OK_AND_ASSIGN(const ZipDirectory good, Read(bytes));
    bytes[good.Find("data/0")->data_begin + 1] ^= 1;
    ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, Read(bytes));
    const absl::Status status = ReadZipEntry(*file_, *zip.Find("data/0"), 1000, "limit").status();
    EXPECT_THAT(GetErrorKind(status), AnyOf(ErrorKind::kChecksum, deflated ? ErrorKind::kZip : ErrorKind::kChecksum))
        << status;
  }
}

TEST_F(ZipDirectoryTest, AMissingCrcIsNotCompared) {
  std::vector<ZipItem> items = Items();
  items[1].crc = false;
  ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, Read(ZipBytes(items)));
  EXPECT_OK(ReadZipEntry(*file_, *zip.Find("data/0"), 1000, "limit"));
}

TEST_F(ZipDirectoryTest, LimitsAreNamed) {
  Limits limits;
  limits.zip_entries = 2;
  EXPECT_THAT(Read(ZipBytes(Items()), limits), IsKind(ErrorKind::kLimit, HasSubstr("zip_entries")));
  limits = Limits();
  limits.zip_directory_bytes = 100;
  EXPECT_THAT(Read(ZipBytes(Items()), limits), IsKind(ErrorKind::kLimit, HasSubstr("zip_directory_bytes")));
  limits = Limits();
  limits.expand_bytes = 1000;
  std::vector<ZipItem> items = Items();
  items[1] = {"a/data/0", std::string(100'000, '\0'), true, false, true};
  EXPECT_THAT(Read(ZipBytes(items), limits), IsKind(ErrorKind::kLimit, HasSubstr("expand_bytes")));
  ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, Read(ZipBytes(items)));
  EXPECT_THAT(ReadZipEntry(*file_, *zip.Find("data/0"), 99'999, "pickle_bytes"),
              IsKind(ErrorKind::kLimit, HasSubstr("pickle_bytes")));
}

// Each record may unfold to 1000 bytes, three of them would be over what the file may.
TEST_F(ZipDirectoryTest, CompressedRecordsAreLimitedTogether) {
  std::vector<ZipItem> items = Items();
  for (int i = 1; i <= 3; ++i) {
    items.push_back({absl::StrCat("a/data/", i), std::string(1000, '\0'), true, false, true});
  }
  Limits limits;
  limits.expand_bytes = 1000;
  limits.expand_file_bytes = 2999;
  limits.expand_file_factor = 1;
  EXPECT_THAT(Read(ZipBytes(items), limits),
              IsKind(ErrorKind::kLimit, AllOf(HasSubstr("\"a/data/3\""), HasSubstr("expand_file_bytes = 2999"))));
  limits.expand_file_factor = 64;
  EXPECT_OK(Read(ZipBytes(items), limits));
  limits.expand_file_factor = 1;
  limits.expand_file_bytes = 3000;
  EXPECT_OK(Read(ZipBytes(items), limits));
}

TEST_F(ZipDirectoryTest, CompressedDataEndsWhereItSays) {
  std::vector<ZipItem> items = Items();
  items[1].deflated = true;
  const std::string good = ZipBytes(items);
  ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, Read(good));
  for (const int64_t bytes : {95, 97}) {
    ZipEntry entry = *zip.Find("data/0");
    entry.bytes = bytes;
    EXPECT_THAT(ReadZipEntry(*file_, entry, 1000, "limit"), IsKind(ErrorKind::kZip)) << bytes;
  }
  ZipEntry entry = *zip.Find("data/0");
  entry.stored_bytes -= 1;
  EXPECT_THAT(ReadZipEntry(*file_, entry, 1000, "limit"), IsKind(ErrorKind::kZip));
}

}  // namespace
}  // namespace waypoint
