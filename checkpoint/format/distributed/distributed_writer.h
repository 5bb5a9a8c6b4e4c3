#ifndef CHECKPOINT_FORMAT_DISTRIBUTED_DISTRIBUTED_WRITER_H_
#define CHECKPOINT_FORMAT_DISTRIBUTED_DISTRIBUTED_WRITER_H_

// One rank's side of writing the distributed format.  One thread; the sink as TensorSink says.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/distributed/box_sink.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/plan/save_plan.h"

namespace waypoint {

class DistributedWriter : public CheckpointWriter {
 public:
  // All ranks call it: they tell each other what they hold, and each makes the same plan, or takes the cached one.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                  const CheckpointMetadata& metadata,
                                                                  TensorSource& state, const std::vector<Asset>& assets,
                                                                  const SaveOptions& options);

  TensorSource& source() override { return *source_; }
  TensorSink& sink() override { return *sink_; }
  // What this rank writes.
  std::vector<std::string> PlanLines() const override;
  void SetConversion(Conversion conversion) override { conversion_ = std::move(conversion); }
  absl::Status Finish() override;
  std::vector<std::string> notes() const override { return notes_; }

 private:
  DistributedWriter(FileSystem& fs, std::string directory, CheckpointMetadata metadata, std::vector<Asset> assets,
                    const SaveOptions& options)
      : fs_(fs),
        directory_(std::move(directory)),
        metadata_(std::move(metadata)),
        assets_(std::move(assets)),
        coordinator_(options.coordinator == nullptr ? &alone_ : options.coordinator),
        timeout_(options.coordination_timeout) {}

  absl::StatusOr<std::string> WriteRecords();
  absl::Status Seal(const std::vector<std::string>& rank_seals, const std::vector<FileRecord>& assets);

  FileSystem& fs_;
  const std::string directory_;
  const CheckpointMetadata metadata_;
  const std::vector<Asset> assets_;
  absl::optional<Conversion> conversion_;
  LocalCoordinator alone_;
  Coordinator* const coordinator_;
  const absl::Duration timeout_;
  std::unique_ptr<ConvertedSource> source_;
  std::shared_ptr<const SavePlan> plan_;
  std::unique_ptr<BoxSink> sink_;
  std::vector<std::string> notes_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_DISTRIBUTED_DISTRIBUTED_WRITER_H_
