#ifndef CHECKPOINT_FORMAT_SHARED_JOB_STATE_H_
#define CHECKPOINT_FORMAT_SHARED_JOB_STATE_H_

// The state of a whole job as one rank sees it: whole tensors, of which it can read what it holds itself and what
// others have staged for it.  Read is thread-safe; Stage not.

#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "checkpoint/plan/job_layout.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct StagedPart {
  int64_t tensor = 0;  // of the job
  Box box;
  char* data = nullptr;  // row-major
};

class JobState : public TensorSource {
 public:
  // `mine` is borrowed: this rank's part.
  JobState(TensorSource& mine, std::shared_ptr<const JobLayout> layout);

  const Manifest& manifest() const override { return layout_->tensors(); }
  // E_RANK for what this rank neither holds nor was given.
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  int64_t ScratchBytes(int64_t block_bytes) const override { return mine_.ScratchBytes(block_bytes); }

  const JobLayout& layout() const { return *layout_; }
  // Replaces what was staged before.  The memory is borrowed until the next call.
  void Stage(const std::vector<StagedPart>& parts);
  // A read of what this rank holds, straight from its own source: `box` lies in one of its boxes.
  ReadRequest Own(int64_t tensor, const Box& box, const StridedSpan& to) const;
  absl::Status ReadOwn(absl::Span<const ReadRequest> requests) { return mine_.Read(requests); }

 private:
  TensorSource& mine_;
  const std::shared_ptr<const JobLayout> layout_;
  std::vector<int64_t> own_index_;  // by tensor of the job; -1 for none
  absl::flat_hash_map<int64_t, std::vector<StagedPart>> staged_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_SHARED_JOB_STATE_H_
