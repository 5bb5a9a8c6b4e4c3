#ifndef TESTS_TESTING_MEMORY_SOURCE_H_
#define TESTS_TESTING_MEMORY_SOURCE_H_

// A TensorSource over bytes in memory.  One thread adds, then thread-safe.

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

class MemorySource : public TensorSource {
 public:
  template <typename T>
  void Add(const std::string& name, DType dtype, Dims shape, const std::vector<T>& elements) {
    TensorMeta meta;
    meta.name = name;
    meta.dtype = dtype;
    meta.shape = std::move(shape);
    const absl::Status status = manifest_.Add(meta);
    if (!status.ok() || meta.num_bytes() != static_cast<int64_t>(elements.size() * sizeof(T))) {
      std::abort();
    }
    const char* bytes = reinterpret_cast<const char*>(elements.data());
    bytes_.emplace_back(bytes, bytes + elements.size() * sizeof(T));
  }

  const Manifest& manifest() const override { return manifest_; }

  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    for (const ReadRequest& request : requests) {
      const TensorMeta& meta = manifest_[request.tensor];
      if (!Contains(meta.shape, request.box)) {
        return MakeError(ErrorKind::kRequest, absl::StrCat("box outside of \"", meta.name, "\""));
      }
      char* data = const_cast<char*>(bytes_[request.tensor].data());
      if (DTypeBytes(meta.dtype) == 0) {
        std::memcpy(request.to.data, data, bytes_[request.tensor].size());
        continue;
      }
      if (request.cast != nullptr) {
        Cast(request, data);
        continue;
      }
      StridedSpan from = StridedSpan::Contiguous(data, DTypeBytes(meta.dtype), meta.shape);
      for (int dim = 0; dim < request.box.rank(); ++dim) {
        from = from.Narrow(dim, request.box.offsets[dim], request.box.sizes[dim]);
      }
      CopyStrided(from, request.to);
    }
    return absl::OkStatus();
  }

  bool CanCast(int64_t tensor) const override { return casts_ && tensor % 2 == 0; }
  // From now on casts every other tensor while it is read.
  void CastOnRead() { casts_ = true; }

 private:
  // Element by element.
  void Cast(const ReadRequest& request, const char* data) const {
    const TensorMeta& meta = manifest_[request.tensor];
    Dims index(request.box.rank(), 0);
    for (int64_t i = 0; i < request.box.num_elements(); ++i) {
      int64_t from = 0;
      char* to = request.to.data;
      for (int d = 0; d < request.box.rank(); ++d) {
        from = from * meta.shape[d] + request.box.offsets[d] + index[d];
        to += index[d] * request.to.strides[d];
      }
      request.cast->Apply(data + from * DTypeBytes(meta.dtype), to, request.to.element_bytes, 1);
      for (int d = request.box.rank() - 1; d >= 0 && ++index[d] == request.box.sizes[d]; --d) {
        index[d] = 0;
      }
    }
  }

  bool casts_ = false;
  Manifest manifest_;
  std::vector<std::vector<char>> bytes_;
};

}  // namespace waypoint

#endif  // TESTS_TESTING_MEMORY_SOURCE_H_
