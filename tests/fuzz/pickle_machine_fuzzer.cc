// Any bytes as a pickle, and its listing.
// Built and run by tests/fuzz/run.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "checkpoint/base/error.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/pickle_machine.h"
#include "checkpoint/container/torch_zip/torch_listing.h"

namespace {

void Require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

void Try(absl::string_view bytes, const waypoint::PickleOptions& options) {
  using namespace waypoint;
  const Limits limits;
  const absl::StatusOr<PickleTree> tree = RunPickle(bytes, "fuzz", options, limits);
  if (!tree.ok()) {
    Require(GetErrorKind(tree.status()) != ErrorKind::kUnknown);
    return;
  }
  Require(tree->consumed > 0 && tree->consumed <= static_cast<int64_t>(bytes.size()));
  // Every step takes a byte and makes one value at most, next to the three constants.
  Require(tree->nodes.size() <= bytes.size() + 3);
  TorchContents contents;
  contents.file_bytes = int64_t{1} << 40;  // so that storages may be large
  for (const PickleStorage& storage : tree->storages) {
    const absl::StatusOr<int64_t> storage_bytes = StorageBytes(storage);
    if (!storage_bytes.ok()) {
      return;
    }
    contents.storages.push_back({std::string(storage.key), 0, *storage_bytes, *storage_bytes, false, 0});
  }
  const absl::Status listed = ListTensors(*tree, "fuzz", limits, &contents);
  if (!listed.ok()) {
    Require(GetErrorKind(listed) != ErrorKind::kUnknown);
    return;
  }
  for (const TorchTensor& tensor : contents.tensors) {
    // The last element is inside; the listing's own arithmetic is checked with wider integers.
    __int128 last = tensor.offset;
    bool empty = false;
    for (size_t d = 0; d < tensor.shape.size(); ++d) {
      Require(tensor.shape[d] >= 0 && tensor.strides[d] >= 0);
      empty = empty || tensor.shape[d] == 0;
      last += static_cast<__int128>(tensor.shape[d] - 1) * tensor.strides[d];
    }
    Require(empty || (last + 1) * DTypeBytes(tensor.dtype) <= contents.storages[tensor.storage].bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  Try(bytes, waypoint::PickleOptions());
  waypoint::PickleOptions legacy;
  legacy.legacy_ids = true;
  legacy.allow_rest = true;
  Try(bytes, legacy);
  return 0;
}
