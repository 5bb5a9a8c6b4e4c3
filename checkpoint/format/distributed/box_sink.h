#ifndef CHECKPOINT_FORMAT_DISTRIBUTED_BOX_SINK_H_
#define CHECKPOINT_FORMAT_DISTRIBUTED_BOX_SINK_H_

// Writes boxes of tensors, each an entry of its own, to one safetensors file.  As SafetensorsSink otherwise.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/plan/save_plan.h"

namespace waypoint {

class BoxSink : public TensorSink {
 public:
  // `boxes` are of `tensors`, the job's.  E_UNSUPPORTED for elements that are not whole bytes.
  static absl::StatusOr<std::unique_ptr<BoxSink>> Create(FileSystem& fs, std::string directory, std::string file_name,
                                                         const Manifest& tensors, const std::vector<PlannedBox>& boxes,
                                                         int64_t block_bytes);

  // The tensors that boxes are written of.
  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return file_->num_blocks(); }
  Block block(int64_t index) const override;
  absl::Status Write(int64_t index, absl::Span<char> data) override { return file_->Write(index, data); }
  absl::Status Finish() override { return file_->Finish(); }

  // Complete after Finish.
  WrittenFile written_file() const { return file_->written_files()[0]; }
  // Which box an entry of the file is; the tensor is an index into the job's.
  PlannedBox entry_box(const std::string& entry_name) const { return boxes_[file_->manifest().Find(entry_name)]; }

 private:
  BoxSink() = default;

  std::vector<PlannedBox> boxes_;   // by tensor of file_
  std::vector<int64_t> tensor_of_;  // the same: index into manifest_
  Manifest manifest_;
  std::unique_ptr<SafetensorsSink> file_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_DISTRIBUTED_BOX_SINK_H_
