#ifndef CHECKPOINT_FORMAT_FILE_CHECKS_H_
#define CHECKPOINT_FORMAT_FILE_CHECKS_H_

// The files of an opened checkpoint of somebody else's format: what a list beside them says, and what they are.
// Thread-safe.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {

// For Open: a file of tensors, with a recorder where options ask for one.  Errors: E_NO_MEMORY.
absl::StatusOr<CheckpointFile> TensorFile(absl::string_view name, const std::string& path, int64_t size_bytes,
                                          const LoadOptions& options);
// For Open: a file that was read whole.
absl::StatusOr<CheckpointFile> TextFile(absl::string_view name, const std::string& path, absl::string_view contents,
                                        const LoadOptions& options);

// Reads the files, one after the other, and compares their MD5; of several shares of the work, those of one.  Of
// `transfer`, cancelled and progress count.
// Errors: E_CHECKSUM naming the first that differs, E_IO, E_UNSUPPORTED (md5.h), those of `cancelled`.
absl::Status CheckListed(FileSystem& fs, const std::vector<ListedFile>& listed, const TransferOptions& transfer,
                         int share = 0, int shares = 1);

// Names, sizes and, where they have recorders, digests.  What nobody read so far is read.
// Errors: E_IO, E_TRUNCATED when a file is shorter than it was.
absl::StatusOr<std::vector<ConvertedFile>> DescribeFiles(FileSystem& fs, const std::vector<CheckpointFile>& files);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_FILE_CHECKS_H_
