#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_LAYOUT_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_LAYOUT_H_

// Where the entries of an archive lie and what stands around them, known before a byte of data is.
//
//   ZipLayout layout;
//   WAYPOINT_RETURN_IF_ERROR(layout.Add("archive/data.pkl", 1234));
//   layout.LocalHeader(0), layout.Descriptor(0, crc32), layout.Directory(crc32s)
//
// As torch.save writes: nothing is compressed, data begins at multiples of 64 by means of an extra field "FB", CRC and
// sizes stand in a descriptor behind the data (an empty entry has none), and a 64-bit end record is always there.
// Unlike it, a 64-bit field in a local header always has both sizes, as APPNOTE 4.5.3 wants: miniz writes one that has
// only the offset.  Times are zero, so that equal input gives equal bytes.
// Sources: PKWARE APPNOTE 6.3.9, sections 4.3 and 4.5; caffe2/serialize/inline_container.cc, getPadding.
// Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace waypoint {

inline constexpr int64_t kTorchDataAlignment = 64;

class ZipLayout {
 public:
  struct Entry {
    std::string name;
    int64_t local_begin = 0;
    int64_t data_begin = 0;
    int64_t bytes = 0;
    int64_t end = 0;  // of the descriptor

    int64_t data_end() const { return data_begin + bytes; }
  };

  // Behind the entries so far.  The name has less than 65,536 bytes.  E_OVERFLOW when the file leaves 63 bits.
  absl::Status Add(std::string name, int64_t bytes);

  const std::vector<Entry>& entries() const { return entries_; }
  int64_t directory_begin() const { return end_; }
  // Of everything.
  int64_t file_bytes() const { return end_ + directory_bytes_; }

  // [local_begin, data_begin).
  std::string LocalHeader(size_t entry) const;
  // [data_end, end).
  std::string Descriptor(size_t entry, uint32_t crc32) const;
  // [directory_begin, file_bytes): directory and end records; one CRC per entry.
  std::string Directory(absl::Span<const uint32_t> crc32s) const;

 private:
  std::vector<Entry> entries_;
  int64_t end_ = 0;              // of the last entry
  int64_t central_bytes_ = 0;    // of the directory without end records
  int64_t directory_bytes_ = 0;  // with them
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_LAYOUT_H_
