#ifndef CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_WRITER_H_
#define CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_WRITER_H_

// Writes a Hugging Face directory: model.safetensors or pytorch_model.bin, or several of them and an index.  In .bin
// files tensors of one expression (tied weights that are stored twice) share one storage.  Many ranks write safetensors
// together, .bin files by rank 0.  One thread; the sink as TensorSink says.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/external/hugging_face_family.h"
#include "checkpoint/format/shared/shared_write.h"

namespace waypoint {

// What format options may say: "--weights bin".
std::vector<FormatOption> HuggingFaceWriterOptions();

class HuggingFaceWriter : public CheckpointWriter {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(const HuggingFaceFamily& family, FileSystem& fs,
                                                                  const std::string& directory,
                                                                  const CheckpointMetadata& metadata,
                                                                  TensorSource& state, const std::vector<Asset>& assets,
                                                                  const SaveOptions& options);

  TensorSource& source() override { return *source_; }
  TensorSink& sink() override { return *sink_; }
  std::vector<std::string> PlanLines() const override;
  absl::StatusOr<TransferStats> Write(const TransferOptions& options) override;
  absl::Status Finish() override;
  std::map<std::string, std::string> ExternalConfigs() const override { return {{"config.json", config_text_}}; }
  std::vector<std::string> notes() const override { return notes_; }

 private:
  HuggingFaceWriter(FileSystem& fs, std::string directory, std::vector<Asset> assets)
      : fs_(fs), directory_(std::move(directory)), assets_(std::move(assets)) {}

  int64_t BlockBytes(const SaveOptions& options) const;
  // A note where the length that the config says is no longer the original's.
  void NoteLength(const Json& original, const Json& config);
  absl::Status PlanSafetensors(const SaveOptions& options);
  absl::Status PlanBin(const SaveOptions& options);
  absl::Status WriteSmallFiles();

  FileSystem& fs_;
  const std::string directory_;
  const std::vector<Asset> assets_;
  std::string config_text_;
  std::unique_ptr<SharedWrite> together_;  // null: alone
  std::unique_ptr<ConvertedSource> source_;
  // Tensors that share the storage of another: name, and the other's place in source_.
  std::vector<std::pair<std::string, int64_t>> shared_;
  std::unique_ptr<SharedSink> sink_;
  // Empty for a single file.
  std::string index_name_;
  std::map<std::string, std::string> weight_map_;
  std::vector<std::string> notes_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_WRITER_H_
