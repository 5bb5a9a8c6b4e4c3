#ifndef CHECKPOINT_FORMAT_DISTRIBUTED_BOX_SOURCE_H_
#define CHECKPOINT_FORMAT_DISTRIBUTED_BOX_SOURCE_H_

// Whole tensors over boxes that lie in many files: a read of any box goes to the stored boxes that it needs.
// Thread-safe.

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/plan/read_plan.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

class BoxSource : public TensorSource {
 public:
  // A box that `files` holds as its tensor number `entry`.
  struct Entry {
    int64_t entry = 0;
    Box box;
  };
  // `entries` by tensor.  Errors: as ReadPlan::Create.
  static absl::StatusOr<std::unique_ptr<BoxSource>> Create(Manifest tensors, std::unique_ptr<SafetensorsSource> files,
                                                           std::vector<std::vector<Entry>> entries);

  const Manifest& manifest() const override { return manifest_; }
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  bool CanCast(int64_t tensor) const override;
  int64_t ScratchBytes(int64_t block_bytes) const override { return files_->ScratchBytes(block_bytes); }

  void Expect(RequestList requests) override;
  ReadStats stats() const override { return files_->stats(); }

 private:
  // What the stored boxes give of a request.
  void AddStored(const ReadRequest& request, std::vector<ReadRequest>& stored) const;

  BoxSource(Manifest tensors, std::unique_ptr<SafetensorsSource> files)
      : manifest_(std::move(tensors)), files_(std::move(files)) {}

  const Manifest manifest_;
  const std::unique_ptr<SafetensorsSource> files_;
  std::vector<ReadPlan> plans_;                 // by tensor
  std::vector<std::vector<int64_t>> entry_of_;  // by tensor, by stored box
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_DISTRIBUTED_BOX_SOURCE_H_
