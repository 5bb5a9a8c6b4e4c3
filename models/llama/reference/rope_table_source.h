#ifndef MODELS_LLAMA_REFERENCE_ROPE_TABLE_SOURCE_H_
#define MODELS_LLAMA_REFERENCE_ROPE_TABLE_SOURCE_H_

// Another source's tensors and, behind them, tables of rotary frequencies: theta^(-2i/d), float32, as the rope.freqs of
// Llama 1 and 2 files.  Source: meta-llama/llama, model.py, precompute_freqs_cis.  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint::models {

class RopeTableSource : public TensorSource {
 public:
  // `inner` is borrowed.  One table for each name.  E_DUP_KEY when the inner source has a tensor of such a name.
  static absl::StatusOr<std::unique_ptr<RopeTableSource>> Create(TensorSource& inner,
                                                                 const std::vector<std::string>& names, double theta,
                                                                 int64_t head_size);

  const Manifest& manifest() const override { return manifest_; }
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  bool CanCast(int64_t tensor) const override { return tensor < inner_.manifest().size() && inner_.CanCast(tensor); }
  int64_t ScratchBytes(int64_t block_bytes) const override { return inner_.ScratchBytes(block_bytes); }
  ReadStats stats() const override { return inner_.stats(); }

 private:
  explicit RopeTableSource(TensorSource& inner) : inner_(inner) {}

  TensorSource& inner_;
  Manifest manifest_;
  std::vector<float> table_;
};

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_ROPE_TABLE_SOURCE_H_
