// Any bytes as an archive: what is accepted must be what a second, forward reading of the file finds.
// Built and run by tests/fuzz/run.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/zip_directory.h"
#include "checkpoint/container/torch_zip/zip_entry_stream.h"

namespace {

void Require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

class BytesFile : public waypoint::ReadableFile {
 public:
  explicit BytesFile(absl::string_view bytes) : bytes_(bytes) {}
  const std::string& path() const override { return path_; }
  int64_t size_bytes() const override { return static_cast<int64_t>(bytes_.size()); }
  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    // The reader must not ask for what is not there.
    Require(offset >= 0 && offset <= size_bytes() && static_cast<int64_t>(out.size()) <= size_bytes() - offset);
    if (!out.empty()) {
      std::memcpy(out.data(), bytes_.data() + offset, out.size());
    }
    return absl::OkStatus();
  }

 private:
  const std::string path_ = "fuzz";
  const absl::string_view bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace waypoint;
  const BytesFile file(absl::string_view(reinterpret_cast<const char*>(data), size));
  Limits limits;
  limits.expand_bytes = 1 << 20;
  limits.expand_file_bytes = 4 << 20;
  const absl::StatusOr<ZipDirectory> zip = ZipDirectory::Read(file, limits);
  if (!zip.ok()) {
    Require(GetErrorKind(zip.status()) != ErrorKind::kUnknown);
    return 0;
  }
  int64_t end = 0;
  for (const ZipEntry& entry : zip->entries()) {
    // Disjoint, in order, inside of the file.
    Require(entry.data_begin >= end && entry.stored_bytes >= 0 && entry.bytes >= 0);
    end = entry.data_begin + entry.stored_bytes;
    Require(end <= static_cast<int64_t>(size));
    Require(zip->Find(entry.name) == &entry);
    const absl::StatusOr<std::string> contents = ReadZipEntry(file, entry, limits.expand_bytes, "expand_bytes");
    Require(!contents.ok() || static_cast<int64_t>(contents->size()) == entry.bytes);
    Require(contents.ok() || GetErrorKind(contents.status()) != ErrorKind::kUnknown);
  }
  return 0;
}
