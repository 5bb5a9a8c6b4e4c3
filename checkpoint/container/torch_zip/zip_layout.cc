#include "checkpoint/container/torch_zip/zip_layout.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/container/torch_zip/zip_records.h"

namespace waypoint {
namespace {

constexpr int64_t kExtraHeaderBytes = 4;
constexpr uint16_t kVersion64 = 45;  // APPNOTE 4.4.3.2: needs 64-bit fields
constexpr absl::string_view kPaddingId = "FB";

void Put16(uint64_t value, std::string* out) { AppendZipField(value, 2, out); }
void Put32(uint64_t value, std::string* out) { AppendZipField(value, 4, out); }
void Put64(uint64_t value, std::string* out) { AppendZipField(value, 8, out); }

bool IsWide(int64_t value) { return value >= int64_t{kZipIn64}; }

// The value, or the mark that it stands in a 64-bit field.
uint64_t Narrow(int64_t value) { return IsWide(value) ? kZipIn64 : static_cast<uint64_t>(value); }

int64_t LocalExtra64Bytes(int64_t bytes) { return IsWide(bytes) ? kExtraHeaderBytes + 16 : 0; }

int64_t DescriptorBytes(int64_t bytes) { return bytes == 0 ? 0 : IsWide(bytes) ? 24 : 16; }

int64_t CentralExtra64Bytes(const ZipLayout::Entry& entry) {
  const int64_t values = (IsWide(entry.bytes) ? 16 : 0) + (IsWide(entry.local_begin) ? 8 : 0);
  return values == 0 ? 0 : kExtraHeaderBytes + values;
}

uint16_t Flags(const ZipLayout::Entry& entry) {
  return static_cast<uint16_t>(kZipFlagUtf8 | (entry.bytes == 0 ? 0 : kZipFlagDescriptor));
}

// Version to Date, which both headers have.
void PutCommon(const ZipLayout::Entry& entry, bool wide, std::string* out) {
  Put16(wide ? kVersion64 : 0, out);
  Put16(Flags(entry), out);
  Put16(kZipMethodStored, out);
  Put32(0, out);  // time and date
}

}  // namespace

absl::Status ZipLayout::Add(std::string name, int64_t bytes) {
  Entry entry;
  entry.name = std::move(name);
  entry.bytes = bytes;
  entry.local_begin = end_;
  const int64_t header_bytes =
      kZipLocalBytes + static_cast<int64_t>(entry.name.size()) + LocalExtra64Bytes(bytes) + kExtraHeaderBytes;
  // Room for what follows: no later sum can overflow.
  int64_t unpadded = 0;
  int64_t room = 0;
  if (!CheckedAdd(end_, header_bytes, &unpadded) || !CheckedAdd(unpadded, bytes, &room) ||
      !CheckedAdd(room, directory_bytes_ + (int64_t{1} << 20), &room)) {
    return MakeError(ErrorKind::kOverflow, absl::StrCat("an archive of ", end_, " bytes has no room for entry ",
                                                        Quoted(entry.name), " of ", bytes, " bytes"));
  }
  entry.data_begin = AlignUp(unpadded, kTorchDataAlignment);
  entry.end = entry.data_end() + DescriptorBytes(bytes);
  end_ = entry.end;
  central_bytes_ += kZipCentralBytes + static_cast<int64_t>(entry.name.size()) + CentralExtra64Bytes(entry);
  directory_bytes_ = central_bytes_ + kZipEnd64Bytes + kZipLocator64Bytes + kZipEndBytes;
  entries_.push_back(std::move(entry));
  return absl::OkStatus();
}

std::string ZipLayout::LocalHeader(size_t index) const {
  const Entry& entry = entries_[index];
  const bool wide = IsWide(entry.bytes);
  const int64_t extra_bytes =
      entry.data_begin - entry.local_begin - kZipLocalBytes - static_cast<int64_t>(entry.name.size());
  std::string out;
  Put32(kZipLocalSignature, &out);
  PutCommon(entry, wide, &out);
  Put32(0, &out);  // CRC
  Put32(wide ? kZipIn64 : 0, &out);
  Put32(wide ? kZipIn64 : 0, &out);
  Put16(entry.name.size(), &out);
  Put16(extra_bytes, &out);
  out += entry.name;
  if (wide) {
    Put16(kZipExtra64, &out);
    Put16(16, &out);
    Put64(entry.bytes, &out);
    Put64(entry.bytes, &out);
  }
  const int64_t padding_bytes = extra_bytes - LocalExtra64Bytes(entry.bytes) - kExtraHeaderBytes;
  out.append(kPaddingId.data(), kPaddingId.size());
  Put16(padding_bytes, &out);
  out.append(padding_bytes, 'Z');
  return out;
}

std::string ZipLayout::Descriptor(size_t index, uint32_t crc32) const {
  const Entry& entry = entries_[index];
  std::string out;
  if (entry.bytes == 0) {
    return out;
  }
  const int width = IsWide(entry.bytes) ? 8 : 4;
  Put32(kZipDescriptorSignature, &out);
  Put32(crc32, &out);
  AppendZipField(entry.bytes, width, &out);
  AppendZipField(entry.bytes, width, &out);
  return out;
}

std::string ZipLayout::Directory(absl::Span<const uint32_t> crc32s) const {
  std::string out;
  out.reserve(directory_bytes_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    const int64_t extra_bytes = CentralExtra64Bytes(entry);
    Put32(kZipCentralSignature, &out);
    Put16(0, &out);  // made by
    PutCommon(entry, extra_bytes > 0, &out);
    Put32(crc32s[i], &out);
    Put32(Narrow(entry.bytes), &out);
    Put32(Narrow(entry.bytes), &out);
    Put16(entry.name.size(), &out);
    Put16(extra_bytes, &out);
    Put64(0, &out);  // comment, disk, internal attributes, half of the external ones
    Put16(0, &out);
    Put32(Narrow(entry.local_begin), &out);
    out += entry.name;
    if (extra_bytes > 0) {
      Put16(kZipExtra64, &out);
      Put16(extra_bytes - kExtraHeaderBytes, &out);
      if (IsWide(entry.bytes)) {
        Put64(entry.bytes, &out);
        Put64(entry.bytes, &out);
      }
      if (IsWide(entry.local_begin)) {
        Put64(entry.local_begin, &out);
      }
    }
  }
  const uint64_t count = entries_.size();
  Put32(kZipEnd64Signature, &out);
  Put64(kZipEnd64Bytes - 12, &out);
  Put16(kVersion64, &out);
  Put16(kVersion64, &out);
  Put64(0, &out);  // disks
  Put64(count, &out);
  Put64(count, &out);
  Put64(central_bytes_, &out);
  Put64(end_, &out);
  Put32(kZipLocator64Signature, &out);
  Put32(0, &out);
  Put64(end_ + central_bytes_, &out);
  Put32(1, &out);
  const uint64_t short_count = count >= kZipIn64Short ? kZipIn64Short : count;
  Put32(kZipEndSignature, &out);
  Put32(0, &out);
  Put16(short_count, &out);
  Put16(short_count, &out);
  Put32(Narrow(central_bytes_), &out);
  Put32(Narrow(end_), &out);
  Put16(0, &out);
  return out;
}

}  // namespace waypoint
