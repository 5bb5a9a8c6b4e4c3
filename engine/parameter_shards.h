#ifndef ENGINE_PARAMETER_SHARDS_H_
#define ENGINE_PARAMETER_SHARDS_H_

// What one rank updates of the parameters that its part of the model has, and how data ranks divide that (ZeRO,
// arXiv 1910.02054).
//
//   mesh.zero   parameters              gradients after a step    updated, optimizer's state
//   NONE        all                     summed, all               all
//   OPTIMIZER   all                     summed, own part          own part; then gathered
//   WEIGHTS     own part between steps  summed, own part          own part; gathered when a step begins
//
// Frozen parameters are divided like the others; nothing of them is summed, updated or gathered after a step.
//
// The part of data rank d of D is, of each parameter's elements in row-major order, part d of D: every formula of the
// optimizer is elementwise, so that the parts together get the same bits as the whole would.
//
//   WAYPOINT_RETURN_IF_ERROR(shards->BeginStep());
//   ... forward, backward ...
//   WAYPOINT_RETURN_IF_ERROR(shards->ReduceGradients());
//   WAYPOINT_ASSIGN_OR_RETURN(const double squares, shards->SumOfSquaredGradients());
//   ... update of shards->updated() ...
//   WAYPOINT_RETURN_IF_ERROR(shards->EndStep());
//
// All ranks make the same calls.  Errors: those of ProcessGroups.  May throw what libtorch throws.  One thread.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "engine/collectives.h"
#include "engine/config.pb.h"
#include "models/decoder/decoder_module.h"

namespace waypoint::engine {

class ParameterShards {
 public:
  // `model`'s parameters have their first values.  With WEIGHTS they are taken apart: the model has none outside of a
  // step.  Those that do not require gradients are frozen.  Both are borrowed.
  ParameterShards(models::DecoderModule& model, ProcessGroups& groups, MeshConfig::Zero zero);

  // Names of the model's parameters; leaves whose gradients ReduceGradients sets.  A part of a matrix has two
  // dimensions as the matrix has, [1, elements].  Frozen ones are there too, without requires_grad.
  const std::vector<std::pair<std::string, at::Tensor>>& updated() const { return updated_; }

  absl::Status BeginStep();
  // Sums over data ranks, and over both stages that hold tied embeddings.
  absl::Status ReduceGradients();
  // Over all ranks, every element of the model once.
  absl::StatusOr<double> SumOfSquaredGradients();
  // After the update.
  absl::Status EndStep();
  // After updated() was filled from a checkpoint.
  absl::Status ShareLoaded();

  // The weights as a checkpoint sees them: boxes of global tensors.
  LiveState Weights() const;
  // Adds a tensor of the elements of updated()'s `parameter`, such as a moment, under a name of its own.
  void AppendLike(const std::string& parameter, const std::string& name, const at::Tensor& tensor,
                  LiveState& state) const;

 private:
  // Parameters that are sent together: all of them frozen, or none.
  struct Bucket {
    std::vector<size_t> parameters;
    int64_t elements = 0;
    // Of a data rank's part; shorter ones are padded.
    int64_t part_elements = 0;
  };

  const at::Tensor& parameter(size_t index) const { return model_.parameters()[index].second; }
  // The elements of a parameter that data rank `data` updates.
  models::IndexRange RangeOf(size_t index, int data) const;
  bool divided() const { return zero_ != MeshConfig::NONE; }
  std::vector<Bucket> MakeBuckets(bool frozen) const;
  void AppendBoxes(size_t index, models::IndexRange range, const std::string& name, const at::Tensor& values,
                   LiveState& state) const;
  absl::Status SumTiedGradients();
  absl::Status SumBucket(const Bucket& bucket);
  absl::Status SumBucketToParts(const Bucket& bucket);
  absl::Status GatherWeights(const std::vector<Bucket>& buckets);

  models::DecoderModule& model_;
  ProcessGroups& groups_;
  const MeshConfig::Zero zero_;  // NONE with one data rank
  std::vector<std::pair<std::string, at::Tensor>> updated_;
  std::map<std::string, size_t> index_of_;
  std::vector<Bucket> trained_;
  std::vector<Bucket> frozen_;
};

}  // namespace waypoint::engine

#endif  // ENGINE_PARAMETER_SHARDS_H_
