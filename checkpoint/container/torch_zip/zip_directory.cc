#include "checkpoint/container/torch_zip/zip_directory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/unfolded_bytes.h"
#include "checkpoint/container/torch_zip/zip_end.h"
#include "checkpoint/container/torch_zip/zip_records.h"

namespace waypoint {
namespace {

// Read at once around a local header: it, its name, its extra field, and the descriptor before it.
constexpr int64_t kWindowBytes = 4096;

struct Central {
  absl::string_view name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc32 = 0;
  int64_t stored_bytes = 0;
  int64_t bytes = 0;
  int64_t local_begin = 0;

  int64_t data_begin = 0;
};

// The 64-bit values of an extra field, nothing when it has none.  False where the fields do not fill it exactly, or it
// has two of them.
bool FindExtra64(absl::string_view extra, absl::string_view* values, bool* found) {
  *found = false;
  while (!extra.empty()) {
    if (extra.size() < 4 || extra.size() - 4 < ZipU16(extra, 2)) {
      return false;
    }
    const uint16_t size = ZipU16(extra, 2);
    if (ZipU16(extra, 0) == kZipExtra64) {
      if (*found) {
        return false;
      }
      *found = true;
      *values = extra.substr(4, size);
    }
    extra.remove_prefix(4 + size);
  }
  return true;
}

// No case: such names are one where case does not count.
int CompareNames(absl::string_view a, absl::string_view b) {
  const size_t common = std::min(a.size(), b.size());
  for (size_t i = 0; i < common; ++i) {
    const int x = static_cast<unsigned char>(absl::ascii_tolower(a[i]));
    const int y = static_cast<unsigned char>(absl::ascii_tolower(b[i]));
    if (x != y) {
      return x - y;
    }
  }
  return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
}

// What is wrong with a name, or empty.
std::string NameProblem(absl::string_view name) {
  if (name.find('\0') != absl::string_view::npos || absl::StrContains(name, '\\')) {
    return "holds a NUL or a backslash";
  }
  if (!CheckUtf8(name, "name").ok()) {
    return "is not UTF-8";
  }
  absl::ConsumeSuffix(&name, "/");
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || part == "." || part == "..") {
      return "is no plain relative path";
    }
  }
  return "";
}

}  // namespace

class ZipDirectoryReader {
 public:
  ZipDirectoryReader(const ReadableFile& file, const Limits& limits)
      : file_(file), limits_(limits), unfolded_(limits, file.size_bytes()) {}

  absl::StatusOr<ZipDirectory> Read() {
    WAYPOINT_ASSIGN_OR_RETURN(end_, ReadZipEnd(file_));
    WAYPOINT_RETURN_IF_ERROR(ReadCentral());
    std::sort(entries_.begin(), entries_.end(),
              [](const Central& a, const Central& b) { return a.local_begin < b.local_begin; });
    WAYPOINT_RETURN_IF_ERROR(CheckNames());
    WAYPOINT_RETURN_IF_ERROR(CheckLocals());
    return Finish();
  }

 private:
  absl::Status Error(absl::string_view problem) const {
    return MakeError(ErrorKind::kZip, absl::StrCat(QuotedPath(file_.path()), ": ", problem));
  }
  absl::Status Error(const Central& entry, absl::string_view problem) const {
    return Error(absl::StrCat("entry ", Quoted(entry.name), " at ", entry.local_begin, ": ", problem));
  }

  absl::Status ReadCentral() {
    const int64_t bytes = end_.directory_end - end_.directory_begin;
    if (end_.entries > limits_.zip_entries || bytes > limits_.zip_directory_bytes) {
      return MakeError(ErrorKind::kLimit,
                       absl::StrCat(QuotedPath(file_.path()), ": directory of ", end_.entries, " entries and ", bytes,
                                    " bytes is over zip_entries = ", limits_.zip_entries,
                                    " or zip_directory_bytes = ", limits_.zip_directory_bytes));
    }
    if (end_.entries == 0) {
      return Error("the archive is empty");
    }
    if (end_.entries > bytes / kZipCentralBytes) {
      return Error(absl::StrCat("a directory of ", bytes, " bytes cannot hold ", end_.entries, " entries"));
    }
    names_ = std::make_unique<std::string>(bytes, '\0');
    WAYPOINT_RETURN_IF_ERROR(file_.Read(end_.directory_begin, absl::MakeSpan(&(*names_)[0], names_->size())));
    absl::string_view rest = *names_;
    entries_.reserve(end_.entries);
    for (int64_t i = 0; i < end_.entries; ++i) {
      WAYPOINT_RETURN_IF_ERROR(ReadCentralEntry(&rest));
    }
    if (!rest.empty()) {
      return Error(absl::StrCat("the directory has ", rest.size(), " bytes behind its ", end_.entries, " entries"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadCentralEntry(absl::string_view* rest) {
    const int64_t offset = end_.directory_end - static_cast<int64_t>(rest->size());
    const absl::string_view fixed = *rest;
    if (rest->size() < static_cast<size_t>(kZipCentralBytes) || ZipU32(fixed, 0) != kZipCentralSignature) {
      return Error(
          absl::StrCat("no directory entry at ", offset, "; ", entries_.size(), " of ", end_.entries, " were read"));
    }
    const size_t name_bytes = ZipU16(fixed, 28);
    const size_t extra_bytes = ZipU16(fixed, 30);
    const size_t comment_bytes = ZipU16(fixed, 32);
    rest->remove_prefix(kZipCentralBytes);
    if (rest->size() < name_bytes + extra_bytes + comment_bytes) {
      return Error(absl::StrCat("directory entry at ", offset, " leaves the directory"));
    }
    Central entry;
    entry.name = rest->substr(0, name_bytes);
    entry.flags = ZipU16(fixed, 8);
    entry.method = ZipU16(fixed, 10);
    entry.crc32 = ZipU32(fixed, 16);
    entry.local_begin = ZipU32(fixed, 42);
    absl::string_view extra64;
    bool has_extra64 = false;
    if (!FindExtra64(rest->substr(name_bytes, extra_bytes), &extra64, &has_extra64)) {
      return Error(entry, "extra field of the directory is malformed");
    }
    rest->remove_prefix(name_bytes + extra_bytes + comment_bytes);

    // Those that do not fit stand in the extra field, in this order, and nothing else does.
    uint64_t values[3] = {ZipU32(fixed, 24), ZipU32(fixed, 20), ZipU32(fixed, 42)};
    bool any = false;
    for (uint64_t& value : values) {
      if (value != kZipIn64) {
        continue;
      }
      any = true;
      if (extra64.size() < 8) {
        return Error(entry, "a size or offset is said to be in a 64-bit field, which has no room for it");
      }
      value = ZipU64(extra64, 0);
      extra64.remove_prefix(8);
    }
    if (!extra64.empty() || any != has_extra64) {
      return Error(entry, "64-bit field of the directory holds what no size or offset refers to");
    }
    if (!CheckedToInt64(values[0], &entry.bytes) || !CheckedToInt64(values[1], &entry.stored_bytes) ||
        !CheckedToInt64(values[2], &entry.local_begin)) {
      return Error(
          entry, absl::StrCat("sizes ", values[0], " and ", values[1], " or offset ", values[2], " is beyond 63 bits"));
    }
    if (ZipU16(fixed, 34) != 0) {
      return Error(entry, "lies in another part of the archive");
    }
    WAYPOINT_RETURN_IF_ERROR(CheckMethod(entry));
    entries_.push_back(entry);
    return absl::OkStatus();
  }

  absl::Status CheckMethod(const Central& entry) {
    const uint16_t harmless = kZipFlagDescriptor | kZipFlagUtf8 | kZipFlagEffort;
    if ((entry.flags & ~harmless) != 0) {
      return Error(entry, absl::StrCat("flags ", entry.flags, " ask for encryption or other things that are not read"));
    }
    if (entry.method == kZipMethodStored) {
      if (entry.bytes != entry.stored_bytes) {
        return Error(entry, absl::StrCat("is stored with ", entry.stored_bytes, " bytes, but has ", entry.bytes));
      }
    } else if (entry.method == kZipMethodDeflated) {
      return Annotate(unfolded_.Add(entry.stored_bytes, entry.bytes),
                      absl::StrCat(QuotedPath(file_.path()), ": entry ", Quoted(entry.name)));
    } else {
      return Error(entry, absl::StrCat("compression method ", entry.method,
                                       " is not read; only stored and deflated entries are"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckNames() {
    by_name_.resize(entries_.size());
    for (size_t i = 0; i < entries_.size(); ++i) {
      const absl::string_view name = entries_[i].name;
      by_name_[i] = static_cast<uint32_t>(i);
      if (const std::string problem = NameProblem(name); !problem.empty()) {
        return Error(entries_[i], absl::StrCat("name ", problem));
      }
      if (absl::EndsWith(name, "/") && entries_[i].bytes != 0) {
        return Error(entries_[i], "is named like a folder, but has data");
      }
      const size_t slash = name.find('/');
      if (slash == absl::string_view::npos) {
        return Error(entries_[i], "lies in no folder; PyTorch keeps all entries in one");
      }
      if (i == 0) {
        top_ = name.substr(0, slash);
      } else if (name.substr(0, slash) != top_) {
        return Error(entries_[i], absl::StrCat("lies not in folder ", Quoted(top_), " as the first entry does"));
      }
    }
    std::sort(by_name_.begin(), by_name_.end(),
              [this](uint32_t a, uint32_t b) { return CompareNames(entries_[a].name, entries_[b].name) < 0; });
    for (size_t i = 1; i < by_name_.size(); ++i) {
      const Central& a = entries_[by_name_[i - 1]];
      const Central& b = entries_[by_name_[i]];
      if (CompareNames(a.name, b.name) == 0) {
        return Error(b, absl::StrCat("has the same name as ", Quoted(a.name), " at ", a.local_begin,
                                     a.name == b.name ? "" : " where case does not count"));
      }
    }
    return absl::OkStatus();
  }

  // `bytes` of the file at `offset`; valid until the next call.
  absl::StatusOr<absl::string_view> Peek(int64_t offset, int64_t bytes) {
    if (offset < window_begin_ || offset + bytes > window_begin_ + static_cast<int64_t>(window_.size())) {
      window_begin_ = offset;
      window_.resize(std::min(std::max(bytes, kWindowBytes), end_.directory_begin - offset));
      WAYPOINT_RETURN_IF_ERROR(file_.Read(offset, absl::MakeSpan(&window_[0], window_.size())));
    }
    return absl::string_view(window_).substr(offset - window_begin_, bytes);
  }

  // Walks over the file as a reader does that has no directory.
  absl::Status CheckLocals() {
    int64_t at = 0;
    for (Central& entry : entries_) {
      if (entry.local_begin != at) {
        return Error(entry, entry.local_begin < at ? absl::StrCat("overlaps what ends at ", at)
                                                   : absl::StrCat("leaves a gap from ", at));
      }
      const auto left = [&] { return end_.directory_begin - at; };
      if (left() < kZipLocalBytes) {
        return Error(entry, "local header runs into the directory");
      }
      WAYPOINT_ASSIGN_OR_RETURN(absl::string_view local, Peek(at, kZipLocalBytes));
      const int64_t name_bytes = ZipU16(local, 26);
      const int64_t extra_bytes = ZipU16(local, 28);
      const int64_t header_bytes = kZipLocalBytes + name_bytes + extra_bytes;
      if (ZipU32(local, 0) != kZipLocalSignature || left() < header_bytes) {
        return Error(entry, "has no local header, or one that runs into the directory");
      }
      WAYPOINT_ASSIGN_OR_RETURN(local, Peek(at, header_bytes));
      absl::string_view extra64;
      bool has_extra64 = false;
      if (!FindExtra64(local.substr(kZipLocalBytes + name_bytes), &extra64, &has_extra64)) {
        return Error(entry, "extra field of the local header is malformed");
      }
      WAYPOINT_RETURN_IF_ERROR(CheckLocal(entry, local, local.substr(kZipLocalBytes, name_bytes), extra64));
      at += header_bytes;
      entry.data_begin = at;
      if (left() < entry.stored_bytes) {
        return Error(entry, absl::StrCat("data of ", entry.stored_bytes, " bytes at ", at, " runs into the directory"));
      }
      at += entry.stored_bytes;
      if ((entry.flags & kZipFlagDescriptor) != 0) {
        WAYPOINT_ASSIGN_OR_RETURN(const int64_t bytes, CheckDescriptor(entry, at, has_extra64));
        at += bytes;
      }
    }
    if (at != end_.directory_begin) {
      return Error(absl::StrCat("the last entry ends at ", at, ", the directory begins at ", end_.directory_begin));
    }
    return absl::OkStatus();
  }

  absl::Status CheckLocal(const Central& entry, absl::string_view local, absl::string_view name,
                          absl::string_view extra64) const {
    if (name != entry.name) {
      return Error(entry, absl::StrCat("is named ", Quoted(name), " in its local header"));
    }
    if (ZipU16(local, 6) != entry.flags || ZipU16(local, 8) != entry.method) {
      return Error(entry, "has other flags or another method in its local header");
    }
    const bool described = (entry.flags & kZipFlagDescriptor) != 0;
    const auto agrees = [described](uint64_t local_value, uint64_t central_value) {
      return local_value == central_value || (described && local_value == 0);
    };
    if (!agrees(ZipU32(local, 14), entry.crc32)) {
      return Error(entry, "has another CRC in its local header");
    }
    // miniz: the sizes, or the offset, or all three, and zeros or markers in the short fields.
    const bool has_sizes = extra64.size() == 16 || extra64.size() == 24;
    const bool has_offset = extra64.size() == 8 || extra64.size() == 24;
    if (!extra64.empty() && !has_sizes && !has_offset) {
      return Error(entry, absl::StrCat("64-bit field of the local header has ", extra64.size(), " bytes"));
    }
    if (has_sizes && (!agrees(ZipU64(extra64, 0), entry.bytes) || !agrees(ZipU64(extra64, 8), entry.stored_bytes))) {
      return Error(entry, absl::StrCat("has sizes ", ZipU64(extra64, 0), " and ", ZipU64(extra64, 8),
                                       " in the 64-bit field of its local header, the directory says ", entry.bytes,
                                       " and ", entry.stored_bytes));
    }
    if (has_offset && ZipU64(extra64, extra64.size() - 8) != static_cast<uint64_t>(entry.local_begin)) {
      return Error(entry, absl::StrCat("has offset ", ZipU64(extra64, extra64.size() - 8), " in its local header"));
    }
    const uint32_t bytes = ZipU32(local, 22);
    const uint32_t stored_bytes = ZipU32(local, 18);
    if (!(agrees(bytes, entry.bytes) || (has_sizes && bytes == kZipIn64)) ||
        !(agrees(stored_bytes, entry.stored_bytes) || (has_sizes && stored_bytes == kZipIn64))) {
      return Error(entry,
                   absl::StrCat("has sizes ", bytes, " and ", stored_bytes, " in its local header, the directory says ",
                                entry.bytes, " and ", entry.stored_bytes));
    }
    return absl::OkStatus();
  }

  // The bytes of the descriptor.
  absl::StatusOr<int64_t> CheckDescriptor(const Central& entry, int64_t at, bool wide) {
    const int64_t bytes = wide ? 24 : 16;
    if (end_.directory_begin - at < bytes) {
      return Error(entry, absl::StrCat("data descriptor at ", at, " runs into the directory"));
    }
    WAYPOINT_ASSIGN_OR_RETURN(const absl::string_view descriptor, Peek(at, bytes));
    const uint64_t stored_bytes = wide ? ZipU64(descriptor, 8) : ZipU32(descriptor, 8);
    const uint64_t entry_bytes = wide ? ZipU64(descriptor, 16) : ZipU32(descriptor, 12);
    if (ZipU32(descriptor, 0) != kZipDescriptorSignature) {
      return Error(entry, absl::StrCat("has no data descriptor at ", at));
    }
    if (ZipU32(descriptor, 4) != entry.crc32 || stored_bytes != static_cast<uint64_t>(entry.stored_bytes) ||
        entry_bytes != static_cast<uint64_t>(entry.bytes)) {
      return Error(entry, absl::StrCat("data descriptor at ", at, " has CRC ", ZipU32(descriptor, 4), " and sizes ",
                                       stored_bytes, " and ", entry_bytes, ", the directory says ", entry.crc32, ", ",
                                       entry.stored_bytes, " and ", entry.bytes));
    }
    return bytes;
  }

  ZipDirectory Finish() {
    ZipDirectory directory;
    std::vector<uint32_t> position(entries_.size(), UINT32_MAX);
    for (size_t i = 0; i < entries_.size(); ++i) {
      const Central& entry = entries_[i];
      if (absl::EndsWith(entry.name, "/")) {
        continue;
      }
      position[i] = static_cast<uint32_t>(directory.entries_.size());
      directory.entries_.push_back({entry.name.substr(top_.size() + 1), entry.method == kZipMethodDeflated, entry.crc32,
                                    entry.data_begin, entry.stored_bytes, entry.bytes});
    }
    for (const uint32_t i : by_name_) {
      if (position[i] != UINT32_MAX) {
        directory.by_name_.push_back(position[i]);
      }
    }
    directory.top_ = top_;
    directory.names_ = std::move(names_);
    return directory;
  }

  const ReadableFile& file_;
  const Limits& limits_;
  UnfoldedBytes unfolded_;
  ZipEnd end_;
  std::unique_ptr<std::string> names_;
  absl::string_view top_;
  std::vector<Central> entries_;  // by local_begin, once read
  std::vector<uint32_t> by_name_;
  std::string window_;
  int64_t window_begin_ = 0;
};

bool ZipDirectory::Recognises(absl::string_view start) {
  return absl::StartsWith(start, "PK\x03\x04") || absl::StartsWith(start, "PK\x05\x06");
}

absl::StatusOr<ZipDirectory> ZipDirectory::Read(const ReadableFile& file, const Limits& limits) {
  return ZipDirectoryReader(file, limits).Read();
}

const ZipEntry* ZipDirectory::Find(absl::string_view name) const {
  const auto it = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [this](uint32_t i, absl::string_view wanted) { return CompareNames(entries_[i].name, wanted) < 0; });
  return it != by_name_.end() && entries_[*it].name == name ? &entries_[*it] : nullptr;
}

}  // namespace waypoint
