#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_DIRECTORY_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_DIRECTORY_H_

// The directory of a zip archive, believed only where everything that describes an entry says the same.
//
//   +--------+------+------------+--------+------+-----+-----------+--------+---------+-----+
//   | local  | data | descriptor | local  | data | ... | directory | 64-bit | 64-bit  | end |
//   | header |      | (flag 8)   | header |      |     |           | end    | locator |     |
//   +--------+------+------------+--------+------+-----+-----------+--------+---------+-----+
//
// Two readers must not see two archives: entries fill the file up to the directory without a gap, no name occurs twice
// (case not counting), local header, descriptor and directory agree, and the end records agree.  What torch.save writes
// is accepted as it is: CRC and sizes 0 in the local header, descriptors of 16 bytes, or of 24 where the local header
// has a 64-bit field whose second size is 0, a 64-bit end record even in small files.  Names are valid UTF-8 and
// relative, and all lie in one top folder. Sources: PKWARE APPNOTE 6.3.9, sections 4.3 to 4.5; for torch.save,
// caffe2/serialize/inline_container.cc and miniz. Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct ZipEntry {
  absl::string_view name;  // without the top folder; in the directory's memory
  bool deflated = false;
  // 0: the writer did not compute it.
  uint32_t crc32 = 0;
  int64_t data_begin = 0;  // in the file
  int64_t stored_bytes = 0;
  int64_t bytes = 0;  // after decompression
};

class ZipDirectory {
 public:
  // Does the file begin as an archive?
  static bool Recognises(absl::string_view start);

  // Reads the directory and every local header and descriptor, no data.  Errors: E_ZIP, E_LIMIT (zip_entries,
  // zip_directory_bytes, expand_bytes, expand_file_bytes), E_IO; messages name the entry and the offset.
  static absl::StatusOr<ZipDirectory> Read(const ReadableFile& file, const Limits& limits);

  // In the order of their data; folders left out.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  // nullptr when there is none.
  const ZipEntry* Find(absl::string_view name) const;
  // The folder that holds all entries, without the slash.
  absl::string_view top() const { return top_; }

 private:
  friend class ZipDirectoryReader;

  std::unique_ptr<std::string> names_;  // the directory's bytes, which names point into
  absl::string_view top_;
  std::vector<ZipEntry> entries_;
  std::vector<uint32_t> by_name_;  // positions in entries_
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_DIRECTORY_H_
