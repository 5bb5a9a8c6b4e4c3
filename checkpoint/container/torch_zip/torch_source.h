#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SOURCE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SOURCE_H_

// The tensors of one or more files of torch.save, read by box from where they lie in the files.
//
//   WAYPOINT_ASSIGN_OR_RETURN(TorchContents contents, ReadTorchFile(*file, limits));
//   WAYPOINT_ASSIGN_OR_RETURN(auto source, TorchSource::Create(fs, {std::move(contents)}, {}));
//
// A tensor is what its strides say; whoever reads sees it row-major.  Reads go through a RunReader, strided ones in
// batches of bounded size; compressed records are decompressed on the way.
//
// The CRC-32 of a record, where the writer computed one, covers all of its bytes:
// - A record that is one tensor (or several, each of them all of it) is checked when the last of its bytes was read.
//   Whoever reads such a tensor by boxes and leaves some out gets UNCHECKED bytes, unless verify_whole is set.
// - A record of several tensors, or with bytes of none, is read through before its first byte is given out, so that
//   leaving out a tensor leaves nothing unchecked.
// Thread-safe.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/container/run_reader.h"
#include "checkpoint/container/torch_zip/crc_ledger.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct TorchSourceOptions {
  RunReaderOptions reader;
  // Check the CRC-32 of records.
  bool verify = true;
  // Read every record through before its first byte is given out.  Reads everything twice, and for ranks that take
  // boxes much more than what they take.
  bool verify_whole = false;
  // expand_file_bytes and expand_file_factor hold for all files together.
  Limits limits;
  // By file, or empty: see the chunks that are read.
  std::vector<std::shared_ptr<ChunkRecorder>> recorders;
};

class TorchSource : public TensorSource {
 public:
  // The contents must be those of ReadTorchFile.  E_DUP_KEY when two files hold a tensor of the same name, E_LIMIT for
  // files that together unfold to too much.
  static absl::StatusOr<std::unique_ptr<TorchSource>> Create(FileSystem& fs, std::vector<TorchContents> files,
                                                             const TorchSourceOptions& options);
  ~TorchSource() override;

  // In the order of files and of the data in them.
  const Manifest& manifest() const override { return manifest_; }
  // Errors: E_IO, E_TRUNCATED, E_CHECKSUM, E_ZIP (compressed data); messages name the file, the record and the offset.
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  bool CanCast(int64_t tensor) const override;
  int64_t ScratchBytes(int64_t block_bytes) const override;

  ReadStats stats() const override { return {reader_->bytes_read(), 0}; }

 private:
  struct Record;
  struct Place {
    int64_t record = 0;  // position in records_
    int64_t begin = 0;   // of the first element, in the run file
    Dims strides;
  };

  TorchSource(std::vector<TorchContents> files, std::vector<std::shared_ptr<ChunkRecorder>> recorders);

  absl::Status AddTensors(const TorchContents& contents, std::vector<TorchTensor> tensors, size_t first_record,
                          bool verify_whole);
  // Sees what was read of a file.
  absl::Status CheckWindow(int64_t file, int64_t begin, absl::Span<const char> data);
  // Reads a record through, once.
  absl::Status CheckWhole(Record& record);

  std::vector<TorchContents> files_;                       // without tensors and values; not changed after Create
  std::vector<std::shared_ptr<ChunkRecorder>> recorders_;  // by file, or empty
  Manifest manifest_;
  std::vector<Place> places_;                     // by tensor
  std::vector<std::unique_ptr<Record>> records_;  // of one file together, by data_begin
  std::vector<size_t> first_record_;              // by file, and the end
  std::unique_ptr<RunReader> reader_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_SOURCE_H_
