#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_FILE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_FILE_H_

// Lists a file of torch.save (.pth, .pt, .bin), of any PyTorch, without running it.
//
//   archive/data.pkl    what the file holds, as a pickle (pickle_machine.h)
//   archive/data/0      the elements of storage "0", little-endian
//   archive/version     "3\n"
//   archive/byteorder   "little"; newer files only
//
// Everything that is needed to read tensors is checked here: the archive, the pickle, each storage against its record,
// each tensor against its storage.  Data is not read.  Source: torch/serialization.py, `_save`, `_legacy_save`.
// Does not link libtorch.  Thread-safe.

#include "absl/status/statusor.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Errors, in this order of checks: E_TRUNCATED (an empty file), E_HEADER (another kind of file, which is named),
// those of ZipDirectory::Read, E_UNSUPPORTED (TorchScript, a later version, big-endian data), E_CHECKSUM, those of
// RunPickle, E_STORAGE (a storage without record, or of another size), those of ListTensors.  For a file of the format
// before 1.6, those of ReadLegacyFile.
absl::StatusOr<TorchContents> ReadTorchFile(const ReadableFile& file, const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_FILE_H_
