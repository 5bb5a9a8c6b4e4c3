#ifndef MODELS_LLAMA_REFERENCE_SHARD_WRITER_H_
#define MODELS_LLAMA_REFERENCE_SHARD_WRITER_H_

// Writes a directory of Meta's reference code, or of one with the same layout under other names: files of weights,
// params.json, assets.  One thread; the sink as TensorSink says.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/container/torch_zip/torch_sink.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/shared/shared_write.h"
#include "models/llama/reference/export_plan.h"
#include "models/llama/reference/rope_table_source.h"
#include "models/llama/reference/sidecars.h"

namespace waypoint::models {

// What the files look like, beside the plan.
struct ShardStyle {
  // As many files as the plan's layout says.  Their folders are the prefixes.
  ShardSet set;
  PickledWrapper wrapper;
  bool emit_rope_freqs = false;
};

class ShardWriter : public CheckpointWriter {
 public:
  // `state` is the whole model's: of several ranks, that of `together`, which is null for one.
  // Errors: E_REQUEST for an asset with the name of a file that is to be written, E_SHAPE for a state that is not the
  // planned model, those of PlanExport and TorchSink::Create.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                  ReferenceExport plan, ShardStyle style,
                                                                  std::unique_ptr<SharedWrite> together,
                                                                  TensorSource& state, const std::vector<Asset>& assets,
                                                                  const SaveOptions& options);

  TensorSource& source() override;
  TensorSink& sink() override { return *sink_; }
  absl::StatusOr<TransferStats> Write(const TransferOptions& options) override;
  std::vector<std::string> PlanLines() const override;
  absl::Status Finish() override;
  std::vector<std::string> notes() const override { return plan_.notes; }
  std::map<std::string, std::string> ExternalConfigs() const override { return {{kParamsName, plan_.params_text}}; }
  FormatOptionValues ReadBackOptions() const override { return plan_.read_back; }

 private:
  ShardWriter(FileSystem& fs, std::string directory, std::vector<Asset> assets, ReferenceExport plan, ShardStyle style)
      : fs_(fs),
        directory_(std::move(directory)),
        assets_(std::move(assets)),
        plan_(std::move(plan)),
        style_(std::move(style)) {}

  // The output is stored as the embedding's own elements.
  bool SharesOutput() const { return plan_.facts.tied && plan_.layout.embedding_dim == 0; }
  absl::Status PlanTensors(TensorSource& state, const SaveOptions& options);
  std::vector<TorchFilePlan> PlanFiles();
  // params.json last: without it nothing reads the directory but with the model's name.
  absl::Status WriteSmallFiles();

  FileSystem& fs_;
  const std::string directory_;
  const std::vector<Asset> assets_;
  ReferenceExport plan_;
  const ShardStyle style_;
  std::unique_ptr<SharedWrite> together_;  // null: alone
  std::unique_ptr<ConvertedSource> converted_;
  std::unique_ptr<RopeTableSource> with_tables_;  // null without rope.freqs
  std::unique_ptr<TorchSink> sink_;
};

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_SHARD_WRITER_H_
