#include "checkpoint/container/torch_zip/zip_end.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/zip_records.h"

namespace waypoint {
namespace {

constexpr absl::string_view kEndBytes = "PK\x05\x06";

struct Place {
  const ReadableFile& file;

  absl::Status Error(absl::string_view problem) const {
    return MakeError(ErrorKind::kZip, absl::StrCat(QuotedPath(file.path()), ": ", problem));
  }
};

// The offset of the end record in the file.
absl::StatusOr<int64_t> FindEnd(const Place& place, absl::string_view tail, int64_t tail_begin) {
  size_t found = absl::string_view::npos;
  for (size_t at = tail.find(kEndBytes); at != absl::string_view::npos; at = tail.find(kEndBytes, at + 1)) {
    if (tail.size() - at >= static_cast<size_t>(kZipEndBytes) &&
        at + kZipEndBytes + ZipU16(tail, at + 20) == tail.size()) {
      if (found != absl::string_view::npos) {
        return place.Error(
            absl::StrCat("two end records close the archive, at ", tail_begin + found, " and at ", tail_begin + at));
      }
      found = at;
    }
  }
  if (found == absl::string_view::npos) {
    return place.Error(absl::StrCat("no end record closes the archive of ", place.file.size_bytes(),
                                    " bytes; the file is cut short or has bytes behind its end"));
  }
  if (tail.find(kEndBytes, found + 1) != absl::string_view::npos) {
    return place.Error("the archive's comment holds what looks like an end record");
  }
  return tail_begin + static_cast<int64_t>(found);
}

}  // namespace

absl::StatusOr<ZipEnd> ReadZipEnd(const ReadableFile& file) {
  const Place place = {file};
  const int64_t records_bytes = kZipEnd64Bytes + kZipLocator64Bytes + kZipEndBytes;
  const int64_t tail_begin = std::max<int64_t>(0, file.size_bytes() - kZipMaxCommentBytes - records_bytes);
  std::string tail(file.size_bytes() - tail_begin, '\0');
  WAYPOINT_RETURN_IF_ERROR(file.Read(tail_begin, absl::MakeSpan(&tail[0], tail.size())));

  WAYPOINT_ASSIGN_OR_RETURN(const int64_t end_offset, FindEnd(place, tail, tail_begin));
  const absl::string_view classic = absl::string_view(tail).substr(end_offset - tail_begin);
  const uint16_t entries_here = ZipU16(classic, 8);
  const uint16_t entries = ZipU16(classic, 10);
  const uint32_t bytes = ZipU32(classic, 12);
  const uint32_t begin = ZipU32(classic, 16);
  if ((ZipU16(classic, 4) != 0 && ZipU16(classic, 4) != kZipIn64Short) ||
      (ZipU16(classic, 6) != 0 && ZipU16(classic, 6) != kZipIn64Short)) {
    return place.Error("the archive is in several parts");
  }
  if (entries_here != entries) {
    return place.Error(absl::StrCat("the end record counts ", entries_here, " and ", entries, " entries"));
  }

  ZipEnd end;
  const int64_t locator_offset = end_offset - kZipLocator64Bytes;
  const bool has_64 =
      locator_offset >= tail_begin && ZipU32(tail, locator_offset - tail_begin) == kZipLocator64Signature;
  if (!has_64) {
    if (ZipU16(classic, 4) != 0 || ZipU16(classic, 6) != 0 || entries == kZipIn64Short || bytes == kZipIn64 ||
        begin == kZipIn64) {
      return place.Error("the end record points to a 64-bit one, which is not there");
    }
    end.directory_begin = begin;
    end.entries = entries;
    end.directory_end = end_offset;
    if (end.directory_begin + int64_t{bytes} != end.directory_end) {
      return place.Error(absl::StrCat("the directory is said to lie at ", begin, " with ", bytes,
                                      " bytes, the end record follows at ", end_offset));
    }
    return end;
  }

  const absl::string_view locator = absl::string_view(tail).substr(locator_offset - tail_begin);
  const int64_t end64_offset = locator_offset - kZipEnd64Bytes;
  if (end64_offset < tail_begin || ZipU32(tail, end64_offset - tail_begin) != kZipEnd64Signature ||
      ZipU64(locator, 8) != static_cast<uint64_t>(end64_offset) || ZipU32(locator, 4) != 0 || ZipU32(locator, 16) > 1) {
    return place.Error(absl::StrCat("the locator at ", locator_offset, " points to ", ZipU64(locator, 8),
                                    "; a 64-bit end record must stand right before it, at ", end64_offset));
  }
  const absl::string_view end64 = absl::string_view(tail).substr(end64_offset - tail_begin);
  if (ZipU64(end64, 4) != static_cast<uint64_t>(kZipEnd64Bytes - 12)) {
    return place.Error(
        absl::StrCat("the 64-bit end record has ", ZipU64(end64, 4), " bytes, must have ", kZipEnd64Bytes - 12));
  }
  if (ZipU32(end64, 16) != 0 || ZipU32(end64, 20) != 0) {
    return place.Error("the archive is in several parts");
  }
  const uint64_t entries64 = ZipU64(end64, 32);
  const uint64_t bytes64 = ZipU64(end64, 40);
  const uint64_t begin64 = ZipU64(end64, 48);
  if (ZipU64(end64, 24) != entries64 || (entries != kZipIn64Short && entries != entries64) ||
      (bytes != kZipIn64 && bytes != bytes64) || (begin != kZipIn64 && begin != begin64)) {
    return place.Error(absl::StrCat("the end records disagree: ", entries, " entries in ", bytes, " bytes at ", begin,
                                    ", and ", entries64, " entries in ", bytes64, " bytes at ", begin64));
  }
  int64_t directory_bytes = 0;
  int64_t sum = 0;
  if (!CheckedToInt64(entries64, &end.entries) || !CheckedToInt64(bytes64, &directory_bytes) ||
      !CheckedToInt64(begin64, &end.directory_begin) || !CheckedAdd(end.directory_begin, directory_bytes, &sum) ||
      sum != end64_offset) {
    return place.Error(absl::StrCat("the directory is said to lie at ", begin64, " with ", bytes64,
                                    " bytes, the end record follows at ", end64_offset));
  }
  end.directory_end = end64_offset;
  return end;
}

}  // namespace waypoint
