#ifndef CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SOURCE_H_
#define CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SOURCE_H_

// The tensors of one or more safetensors files, read by box.
//
// Reads go through a RunReader.  Where a file has digests, whole chunks are read and checked, but for those of which a
// transfer needs too little (RunReaderOptions::max_over_read).  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/container/run_reader.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct SafetensorsFile {
  std::string path;
  SafetensorsHeader header;
  // Empty: nothing to check.
  ChunkDigests digests;
  // Instead of digests: sees the chunks that are read.
  std::shared_ptr<ChunkRecorder> recorder = nullptr;
};

using SafetensorsSourceOptions = RunReaderOptions;

class SafetensorsSource : public TensorSource {
 public:
  // E_DUP_KEY when two files hold a tensor of the same name.
  static absl::StatusOr<std::unique_ptr<SafetensorsSource>> Create(FileSystem& fs, std::vector<SafetensorsFile> files,
                                                                   const SafetensorsSourceOptions& options);

  // In the order of files and offsets.
  const Manifest& manifest() const override { return manifest_; }
  // Errors: E_IO, E_TRUNCATED, E_CHECKSUM; messages name the file and the offset.
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  bool CanCast(int64_t tensor) const override;
  int64_t ScratchBytes(int64_t block_bytes) const override { return reader_->ScratchBytes(block_bytes); }

  void Expect(RequestList requests) override;
  ReadStats stats() const override { return {reader_->bytes_read(), reader_->bytes_unchecked()}; }

 private:
  struct Place {
    int64_t file = 0;
    int64_t begin = 0;
  };

  explicit SafetensorsSource(std::vector<SafetensorsFile> files) : files_(std::move(files)) {}

  // The runs of a request in its file.
  void AddRuns(const ReadRequest& request, std::vector<FileRun>& runs) const;
  absl::Status CheckDigests(int64_t file, int64_t begin, absl::Span<const char> data) const;

  std::vector<SafetensorsFile> files_;  // without the headers' entries; not changed after Create
  Manifest manifest_;
  std::vector<Place> places_;  // by tensor
  bool checked_ = false;       // some file has digests, or a recorder
  std::unique_ptr<RunReader> reader_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SOURCE_H_
