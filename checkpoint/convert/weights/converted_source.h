#ifndef CHECKPOINT_CONVERT_WEIGHTS_CONVERTED_SOURCE_H_
#define CHECKPOINT_CONVERT_WEIGHTS_CONVERTED_SOURCE_H_

// A TensorSource whose tensors are expressions over another source's tensors.
//
// A read is rewritten, region by region, to reads of the inputs straight into the caller's memory; only casts that the
// inner source does not make (TensorSource::CanCast) need scratch.  A conversion of a conversion is composed and
// simplified when it is made, so there is never a chain.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/convert/weights/expression.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct ConvertedTensor {
  std::string name;
  Expr expression;
};

// Thread-safe.
class ConvertedSource : public TensorSource {
 public:
  // `inner` is borrowed or owned.  Expressions refer to inner->manifest().
  static absl::StatusOr<std::unique_ptr<ConvertedSource>> Create(TensorSource* inner,
                                                                 std::vector<ConvertedTensor> tensors);
  static absl::StatusOr<std::unique_ptr<ConvertedSource>> Create(std::unique_ptr<TensorSource> inner,
                                                                 std::vector<ConvertedTensor> tensors);

  const Manifest& manifest() const override { return manifest_; }
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  int64_t ScratchBytes(int64_t block_bytes) const override;
  void Expect(RequestList requests) override;
  ReadStats stats() const override { return inner_->stats(); }

  // Over the innermost source, in the order of the manifest.
  const std::vector<ConvertedTensor>& tensors() const { return tensors_; }
  TensorSource& innermost() const { return *inner_; }

 private:
  ConvertedSource(TensorSource* inner, std::unique_ptr<TensorSource> owned) : inner_(inner), owned_(std::move(owned)) {}
  absl::Status Init(std::vector<ConvertedTensor> tensors);

  TensorSource* inner_;  // not a ConvertedSource
  std::unique_ptr<TensorSource> owned_;
  std::vector<ConvertedTensor> tensors_;
  Manifest manifest_;
  // Largest number of input bytes that a cast needs for one byte of output; 0 without casts of our own.
  double cast_expansion_ = 0;
  BufferPool scratch_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_WEIGHTS_CONVERTED_SOURCE_H_
