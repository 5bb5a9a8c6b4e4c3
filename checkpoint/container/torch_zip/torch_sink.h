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
// CRC-32 of what the block has of each, past the page cache.  A record's CRC stands in the file behind it: it is added
// to the block where all of the record was seen by then, and else, a few bytes a record, when the file is completed,
// with the archive's directory.  Nothing is created before the first Write.  Equal input gives equal bytes. Thread-safe
// as TensorSink says.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/container/torch_zip/pickle_writer.h"
#include "checkpoint/container/torch_zip/zip_layout.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/shared_sink.h"

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

class TorchSink : public SharedSink {
 public:
  // block_bytes is rounded up to kDirectAlignment.  Names of the manifest only tell its tensors apart: two files may
  // hold the same key.
  // Errors: E_UNSUPPORTED for elements that PyTorch has no storage for, E_DUP_KEY and E_UTF8 for keys, E_PATH for a
  // folder or file name that is not plain.
  static absl::StatusOr<std::unique_ptr<TorchSink>> Create(FileSystem& fs, std::string directory, Manifest manifest,
                                                           std::vector<TorchFilePlan> files, int64_t block_bytes);
  ~TorchSink() override;

  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override;
  absl::Status Write(int64_t index, absl::Span<char> data) override;
  // Completes, syncs and closes every file (not the directory).  Of several processes, completes none.
  absl::Status Finish() override;

  absl::Status CreateFiles() override;
  void JoinFiles() override { mode_ = Mode::kJoins; }
  // CRC-32 of the part of each record that lies in a block, 4 bytes each.
  std::string BlockSums(int64_t begin, int64_t end) override;
  absl::Status SetBlockSums(int64_t begin, int64_t end, absl::string_view sums) override;
  absl::Status Complete() override;

 private:
  struct Record;
  struct File;
  enum class Mode { kAlone, kCreates, kJoins };
  struct Range {
    int64_t file = 0;
    int64_t begin = 0;
    int64_t bytes = 0;

    int64_t end() const { return begin + bytes; }
  };

  TorchSink(FileSystem& fs, std::string directory, Manifest manifest);

  absl::Status AddFile(TorchFilePlan plan, int64_t block_bytes);
  absl::StatusOr<WritableFile*> OpenFile(File& file);
  // Calls back with what each of the blocks has of records of tensors.
  void ForEachPart(int64_t begin_block, int64_t end_block,
                   absl::FunctionRef<void(Record& record, uint32_t& crc32)> visit);

  FileSystem& fs_;
  const std::string directory_;
  const Manifest manifest_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<Range> blocks_;
  Mode mode_ = Mode::kAlone;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SINK_H_
