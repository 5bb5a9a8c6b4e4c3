#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_RECORDS_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_RECORDS_H_

// The records of a zip archive, field by field.  Source: PKWARE APPNOTE 6.3.9, sections 4.3.7 to 4.3.16 and 4.5.3.
// Thread-safe.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace waypoint {

inline constexpr uint32_t kZipLocalSignature = 0x04034b50;
inline constexpr uint32_t kZipDescriptorSignature = 0x08074b50;
inline constexpr uint32_t kZipCentralSignature = 0x02014b50;
inline constexpr uint32_t kZipEnd64Signature = 0x06064b50;
inline constexpr uint32_t kZipLocator64Signature = 0x07064b50;
inline constexpr uint32_t kZipEndSignature = 0x06054b50;

inline constexpr int64_t kZipLocalBytes = 30;
inline constexpr int64_t kZipCentralBytes = 46;
inline constexpr int64_t kZipEnd64Bytes = 56;
inline constexpr int64_t kZipLocator64Bytes = 20;
inline constexpr int64_t kZipEndBytes = 22;
inline constexpr int64_t kZipMaxCommentBytes = 65535;

inline constexpr uint16_t kZipFlagDescriptor = 0x0008;
inline constexpr uint16_t kZipFlagUtf8 = 0x0800;
// How hard the compressor tried; says nothing about the data.
inline constexpr uint16_t kZipFlagEffort = 0x0006;
inline constexpr uint16_t kZipMethodStored = 0;
inline constexpr uint16_t kZipMethodDeflated = 8;
inline constexpr uint16_t kZipExtra64 = 0x0001;
// "The value is in the 64-bit record."
inline constexpr uint32_t kZipIn64 = 0xFFFFFFFF;
inline constexpr uint16_t kZipIn64Short = 0xFFFF;

// `bytes` holds at least offset + sizeof(T).
template <typename T>
T ZipField(absl::string_view bytes, size_t offset) {
  T value = 0;
  for (size_t i = sizeof(T); i-- > 0;) {
    value = static_cast<T>(value << 8 | static_cast<unsigned char>(bytes[offset + i]));
  }
  return value;
}

inline void AppendZipField(uint64_t value, int width, std::string* out) {
  for (int i = 0; i < width; ++i) {
    out->push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  }
}

inline uint16_t ZipU16(absl::string_view bytes, size_t offset) { return ZipField<uint16_t>(bytes, offset); }
inline uint32_t ZipU32(absl::string_view bytes, size_t offset) { return ZipField<uint32_t>(bytes, offset); }
inline uint64_t ZipU64(absl::string_view bytes, size_t offset) { return ZipField<uint64_t>(bytes, offset); }

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_RECORDS_H_
