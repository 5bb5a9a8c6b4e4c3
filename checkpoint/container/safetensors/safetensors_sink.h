#ifndef CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SINK_H_
#define CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SINK_H_

// Writes safetensors files: header first, every size known before the first byte, blocks in any order.
//
// A block is an aligned range of one file; the sink adds the header to the blocks that it lies in, makes the digest of
// every chunk while the bytes pass, and writes past the page cache.  Nothing is created before the first Write. Equal
// input gives equal bytes.  Thread-safe as TensorSink says.

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/shared_sink.h"

namespace waypoint {

// A file to write: tensors by their index in the sink's manifest.  Wider elements come first in the file, so that every
// element is aligned to its size; otherwise the order is kept.
struct SafetensorsFilePlan {
  std::string name;  // plain file name
  std::vector<int64_t> tensors;
  std::map<std::string, std::string> metadata;
  // The header is padded so that data begins at a multiple of this.
  int64_t data_alignment = 8;
};

struct WrittenFile {
  std::string name;
  int64_t size_bytes = 0;
  ChunkDigests digests;
  SafetensorsHeader header;
};

class SafetensorsSink : public SharedSink {
 public:
  // block_bytes is rounded up to whole digest chunks; chunk_bytes is a multiple of kDirectAlignment.
  // Errors: E_UNSUPPORTED for elements that are no whole bytes.
  static absl::StatusOr<std::unique_ptr<SafetensorsSink>> Create(FileSystem& fs, std::string directory,
                                                                 Manifest manifest,
                                                                 std::vector<SafetensorsFilePlan> files,
                                                                 int64_t block_bytes,
                                                                 int64_t chunk_bytes = kDigestChunkBytes);

  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override;
  absl::Status Write(int64_t index, absl::Span<char> data) override;
  // Syncs and closes every file (not the directory).
  absl::Status Finish() override;

  // Complete after Finish, and where several processes write, after SetBlockSums.
  std::vector<WrittenFile> written_files() const;

  absl::Status CreateFiles() override;
  void JoinFiles() override { joins_ = true; }
  // Digests, 8 bytes a chunk.
  std::string BlockSums(int64_t begin, int64_t end) override;
  absl::Status SetBlockSums(int64_t begin, int64_t end, absl::string_view sums) override;

 private:
  struct File {
    WrittenFile written;
    std::string header_bytes;
    std::vector<int64_t> entry_tensors;  // entry -> tensor
    std::unique_ptr<WritableFile> open;
  };
  struct Range {
    int64_t file = 0;
    int64_t begin = 0;
    int64_t bytes = 0;
  };

  SafetensorsSink(FileSystem& fs, std::string directory, Manifest manifest)
      : fs_(fs), directory_(std::move(directory)), manifest_(std::move(manifest)) {}

  absl::StatusOr<WritableFile*> OpenFile(File& file);
  // The digests of a block, as they lie in their file's table.
  absl::Span<uint64_t> DigestsOfBlock(int64_t index);

  FileSystem& fs_;
  const std::string directory_;
  const Manifest manifest_;
  std::vector<File> files_;
  std::vector<Range> blocks_;
  bool shared_ = false;  // CreateFiles was called
  bool joins_ = false;
  std::mutex mutex_;  // guards File::open while files are created
};

// PlanShardFiles with the extension ".safetensors".
std::vector<SafetensorsFilePlan> PlanSafetensorsFiles(const Manifest& manifest, const std::vector<int64_t>& tensors,
                                                      const std::string& stem, int64_t max_file_bytes,
                                                      const std::map<std::string, std::string>& metadata);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SINK_H_
