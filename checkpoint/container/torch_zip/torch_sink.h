#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SINK_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SINK_H_

// Writes files that torch.load reads: every size known before the first byte, blocks in any order.
//
//   <folder>/data.pkl     what the file holds (pickle_writer.h)
//   <folder>/byteorder    "little"
//   <folder>/data/0 ...   the elements of each tensor, in the order of entries
//   <folder>/version      "3\n"
//
// A block is an aligned range of one file; the sink adds what stands around the records (zip_layout.h) and makes the
// digest of every chunk and the CRC-32 of every record while the bytes pass, past the page cache.  A record's CRC is
// known when the last of its bytes was seen, yet stands in the file behind them: until then the sink holds back the one
// chunk (at a boundary two) in which it stands.  A block holds back only what a record that began before it waits for,
// so blocks that come about in order keep at most two chunks per block that is still to come (ScratchBytes).  The
// archive's directory is written with the last block of a file.  Nothing is created before the first Write.  Equal
// input gives equal bytes.  Thread-safe as TensorSink says.

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/container/torch_zip/pickle_writer.h"
#include "checkpoint/container/torch_zip/zip_layout.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/tensor_sink.h"

namespace waypoint {

struct TorchFilePlan {
  struct Entry {
    std::string key;     // in the file's dict
    int64_t tensor = 0;  // index into the sink's manifest
  };

  std::string name;  // plain file name
  // In the order of the dict.  Keys of one tensor share one storage when loaded, as tied weights do.
  std::vector<Entry> entries;
  // Any plain name; torch.save takes the file's name without its last suffix, and "archive" for files in memory.
  std::string folder = "archive";
  // Around the entries.
  PickledWrapper wrapper = {};
};

struct WrittenTorchFile {
  std::string name;
  int64_t size_bytes = 0;
  ChunkDigests digests;
};

class TorchSink : public TensorSink {
 public:
  // block_bytes is rounded up to whole digest chunks; chunk_bytes is a multiple of kDirectAlignment.  Names of the
  // manifest only tell its tensors apart: two files may hold the same key.
  // Errors: E_UNSUPPORTED for elements that PyTorch has no storage for, E_DUP_KEY and E_UTF8 for keys, E_PATH for a
  // folder or file name that is not plain.
  static absl::StatusOr<std::unique_ptr<TorchSink>> Create(FileSystem& fs, std::string directory, Manifest manifest,
                                                           std::vector<TorchFilePlan> files, int64_t block_bytes,
                                                           int64_t chunk_bytes = kDigestChunkBytes);
  ~TorchSink() override;

  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override;
  absl::Status Write(int64_t index, absl::Span<char> data) override;
  int64_t ScratchBytes() const override;
  // Syncs and closes every file (not the directory).
  absl::Status Finish() override;

  // Complete after Finish.
  std::vector<WrittenTorchFile> written_files() const;

  // What waits for a CRC now; for tests.
  int64_t held_bytes() const;

 private:
  struct Record;
  struct Held;
  struct File;
  struct Range {
    int64_t file = 0;
    int64_t begin = 0;
    int64_t bytes = 0;

    int64_t end() const { return begin + bytes; }
  };

  TorchSink(FileSystem& fs, std::string directory, Manifest manifest);

  absl::Status AddFile(TorchFilePlan plan, int64_t block_bytes, int64_t chunk_bytes);
  absl::StatusOr<WritableFile*> OpenFile(File& file);

  FileSystem& fs_;
  const std::string directory_;
  const Manifest manifest_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<Range> blocks_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SINK_H_
