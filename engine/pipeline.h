#ifndef ENGINE_PIPELINE_H_
#define ENGINE_PIPELINE_H_

// The forward and backward pass of one step over the stages of a pipeline, in the order of GPipe (arXiv 1811.06965):
// all micro-batches forward, then all backward, last one first.  With one stage each micro-batch goes forward and
// backward before the next one, so that only one's activations are held.

#include "absl/status/statusor.h"
#include "engine/collectives.h"
#include "engine/data.h"
#include "models/decoder/decoder_module.h"

namespace waypoint::engine {

// Adds the gradients of `weight` times the mean loss over `batch` to the parameters'.  Returns that mean on the last
// stage, 0 on all others.  batch.inputs has a multiple of micro_batches rows.
// Errors: those of Forward and of ProcessGroups.  May throw what libtorch throws.
absl::StatusOr<double> RunForwardBackward(models::DecoderModule& model, ProcessGroups& groups, const Batch& batch,
                                          int micro_batches, double weight);

}  // namespace waypoint::engine

#endif  // ENGINE_PIPELINE_H_
