// Archives of any size, read by the strict reader from a file that has no data.

#include "checkpoint/container/torch_zip/zip_layout.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "checkpoint/container/torch_zip/zip_directory.h"
#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// Zeros, but for some stretches.
class SparseFile : public ReadableFile {
 public:
  explicit SparseFile(int64_t size_bytes) : size_bytes_(size_bytes) {}

  void Put(int64_t at, std::string bytes) { stretches_[at] = std::move(bytes); }

  const std::string& path() const override { return path_; }
  int64_t size_bytes() const override { return size_bytes_; }
  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    const int64_t end = offset + static_cast<int64_t>(out.size());
    std::fill(out.begin(), out.end(), '\0');
    for (const auto& [at, bytes] : stretches_) {
      const int64_t from = std::max(offset, at);
      const int64_t to = std::min(end, at + static_cast<int64_t>(bytes.size()));
      if (from < to) {
        std::memcpy(out.data() + (from - offset), bytes.data() + (from - at), to - from);
      }
    }
    return absl::OkStatus();
  }

 private:
  const std::string path_ = "sparse.pth";
  const int64_t size_bytes_;
  std::map<int64_t, std::string> stretches_;
};

ZipLayout LayoutOf(const std::vector<int64_t>& sizes) {
  ZipLayout layout;
  for (const int64_t bytes : sizes) {
    EXPECT_OK(layout.Add(absl::StrCat("archive/data/", layout.entries().size()), bytes));
  }
  return layout;
}

void ExpectReads(const ZipLayout& layout) {
  SparseFile file(layout.file_bytes());
  std::vector<uint32_t> crc32s;
  for (size_t i = 0; i < layout.entries().size(); ++i) {
    const ZipLayout::Entry& entry = layout.entries()[i];
    crc32s.push_back(entry.bytes == 0 ? 0 : static_cast<uint32_t>(0x89abcdef + i));
    file.Put(entry.local_begin, layout.LocalHeader(i));
    file.Put(entry.data_end(), layout.Descriptor(i, crc32s[i]));
    EXPECT_EQ(layout.LocalHeader(i).size(), entry.data_begin - entry.local_begin);
    EXPECT_EQ(layout.Descriptor(i, 1).size(), entry.end - entry.data_end());
    EXPECT_EQ(entry.data_begin % kTorchDataAlignment, 0);
  }
  const std::string directory = layout.Directory(crc32s);
  ASSERT_EQ(layout.directory_begin() + static_cast<int64_t>(directory.size()), layout.file_bytes());
  file.Put(layout.directory_begin(), directory);

  ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, ZipDirectory::Read(file, {}));

  EXPECT_EQ(zip.top(), "archive");
  ASSERT_EQ(zip.entries().size(), layout.entries().size());
  for (size_t i = 0; i < zip.entries().size(); ++i) {
    EXPECT_EQ(absl::StrCat("archive/", zip.entries()[i].name), layout.entries()[i].name);
    EXPECT_EQ(zip.entries()[i].data_begin, layout.entries()[i].data_begin);
    EXPECT_EQ(zip.entries()[i].bytes, layout.entries()[i].bytes);
    EXPECT_EQ(zip.entries()[i].crc32, crc32s[i]);
  }
}

TEST(ZipLayoutTest, Small) { ExpectReads(LayoutOf({0, 1, 63, 64, 65, 0, 1000})); }

TEST(ZipLayoutTest, EntriesBeyond4GiB) { ExpectReads(LayoutOf({10, 5 * kGiB, 10, 0, 200 * kGiB, 7})); }

TEST(ZipLayoutTest, SizesAroundTheMark) {
  for (const int64_t bytes : {4 * kGiB - 2, 4 * kGiB - 1, 4 * kGiB, 4 * kGiB + 1}) {
    SCOPED_TRACE(bytes);
    ExpectReads(LayoutOf({bytes}));
    ExpectReads(LayoutOf({bytes, 3}));
  }
}

TEST(ZipLayoutTest, OffsetsAroundTheMark) {
  for (int64_t bytes = 4 * kGiB - 320; bytes < 4 * kGiB; bytes += 3) {
    SCOPED_TRACE(bytes);
    ExpectReads(LayoutOf({bytes / 2, bytes - bytes / 2, 5, 5}));
  }
}

TEST(ZipLayoutTest, MoreEntriesThan16BitsCount) {
  for (const int64_t count : {65'534, 65'535, 65'536}) {
    const ZipLayout layout = LayoutOf(std::vector<int64_t>(count, 0));
    std::string directory = layout.Directory(std::vector<uint32_t>(count, 0));
    ASSERT_GE(directory.size(), 22u);
    const std::string short_count = directory.substr(directory.size() - 14, 2);
    EXPECT_EQ(short_count, count == 65'534 ? "\xfe\xff" : "\xff\xff");
  }
}

TEST(ZipLayoutTest, BeyondWhat63BitsCount) {
  ZipLayout layout = LayoutOf({INT64_MAX / 2});

  EXPECT_THAT(layout.Add("archive/more", INT64_MAX / 2 + 1), IsKind(ErrorKind::kOverflow));
  EXPECT_THAT(layout.Add("archive/more", INT64_MAX), IsKind(ErrorKind::kOverflow));
}

}  // namespace
}  // namespace waypoint
