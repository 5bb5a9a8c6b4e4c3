// Any bytes as a pickle, and its listing.
//
// Built without Bazel, because the library must be instrumented too (each command on one line):
//
//   sources="checkpoint/base/error.cc checkpoint/base/dtype.cc checkpoint/base/json.cc checkpoint/base/json_parser.cc
//     checkpoint/tensor/box.cc checkpoint/container/torch_zip/pickle_globals.cc
//     checkpoint/container/torch_zip/pickle_tree.cc checkpoint/container/torch_zip/pickle_builder.cc
//     checkpoint/container/torch_zip/pickle_machine.cc checkpoint/container/torch_zip/torch_listing.cc"
//   clang++-14 -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS
//     -I. tests/fuzz/pickle_machine_fuzzer.cc ${sources}
//     $(pkg-config --libs absl_statusor absl_str_format absl_raw_hash_set absl_hash) -o pickle_machine_fuzzer
//   ./pickle_machine_fuzzer -dict=tests/fuzz/pickle.dict -max_len=65536 -timeout=2 -rss_limit_mb=512 corpus/

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
