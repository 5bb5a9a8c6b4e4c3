#ifndef MODELS_LLAMA_REFERENCE_REFERENCE_WRITER_H_
#define MODELS_LLAMA_REFERENCE_REFERENCE_WRITER_H_

// Writes a directory of Meta's reference code.  One thread; the sink as TensorSink says.

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/container/torch_zip/torch_sink.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"
#include "models/llama/reference/export_plan.h"
#include "models/llama/reference/rope_table_source.h"

namespace waypoint::models {

class ReferenceWriter : public CheckpointWriter {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                  const CheckpointMetadata& metadata,
                                                                  TensorSource& state, const std::vector<Asset>& assets,
                                                                  const SaveOptions& options);

  TensorSource& source() override;
  TensorSink& sink() override { return *sink_; }
  std::vector<std::string> PlanLines() const override;
  // params.json last: without it nothing takes the directory for a checkpoint.
  absl::Status Finish() override;
  std::vector<std::string> notes() const override { return plan_.notes; }

 private:
  ReferenceWriter(FileSystem& fs, std::string directory, std::vector<Asset> assets)
      : fs_(fs), directory_(std::move(directory)), assets_(std::move(assets)) {}

  absl::Status PlanTensors(TensorSource& state, const SaveOptions& options, bool emit_rope_freqs);
  std::vector<TorchFilePlan> PlanFiles();

  FileSystem& fs_;
  const std::string directory_;
  const std::vector<Asset> assets_;
  ReferenceExport plan_;
  std::unique_ptr<ConvertedSource> converted_;
  std::unique_ptr<RopeTableSource> with_tables_;  // null without rope.freqs
  std::unique_ptr<TorchSink> sink_;
};

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_REFERENCE_WRITER_H_
