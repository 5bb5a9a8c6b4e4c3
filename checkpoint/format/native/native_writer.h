#ifndef CHECKPOINT_FORMAT_NATIVE_NATIVE_WRITER_H_
#define CHECKPOINT_FORMAT_NATIVE_NATIVE_WRITER_H_

// Writes the native format.  One thread; the sink as TensorSink says.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/shared/shared_write.h"

namespace waypoint {

class NativeWriter : public CheckpointWriter {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                  const CheckpointMetadata& metadata,
                                                                  TensorSource& state, const std::vector<Asset>& assets,
                                                                  const SaveOptions& options);

  TensorSource& source() override { return *source_; }
  TensorSink& sink() override { return *sink_; }
  std::vector<std::string> PlanLines() const override;
  absl::StatusOr<TransferStats> Write(const TransferOptions& options) override;
  void SetConversion(Conversion conversion) override { conversion_ = std::move(conversion); }
  absl::Status Finish() override;
  std::vector<std::string> notes() const override { return notes_; }

 private:
  NativeWriter(FileSystem& fs, std::string directory, CheckpointMetadata metadata, std::vector<Asset> assets)
      : fs_(fs), directory_(std::move(directory)), metadata_(std::move(metadata)), assets_(std::move(assets)) {}

  absl::Status Seal();

  FileSystem& fs_;
  const std::string directory_;
  const CheckpointMetadata metadata_;
  const std::vector<Asset> assets_;
  absl::optional<Conversion> conversion_;
  std::unique_ptr<SharedWrite> shared_;  // null: alone
  std::unique_ptr<ConvertedSource> source_;
  std::unique_ptr<SafetensorsSink> sink_;
  std::vector<std::string> notes_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_NATIVE_NATIVE_WRITER_H_
