// libFuzzer target: any bytes as a safetensors file; an accepted header must be sound and survive a rewrite.
// Built and run by tests/fuzz/run.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "checkpoint/container/safetensors/header.h"

namespace waypoint {
namespace {

void Require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

void Check(absl::string_view file) {
  const int64_t file_bytes = static_cast<int64_t>(file.size());
  const absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(file, file_bytes, "fuzz", Limits());
  if (!header.ok()) {
    return;
  }
  int64_t end = header->data_begin;
  for (const SafetensorsEntry& entry : header->entries) {
    Require(entry.begin == end && *TensorBytes(entry.dtype, entry.shape) == entry.end - entry.begin);
    end = entry.end;
  }
  Require(end == file_bytes);

  std::vector<SafetensorsEntry> entries = header->entries;
  const std::string bytes = BuildSafetensorsHeader(&entries, header->metadata);
  const int64_t data_bytes = file_bytes - header->data_begin;
  const absl::StatusOr<SafetensorsHeader> again =
      ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()) + data_bytes, "fuzz", Limits());
  Require(again.ok() && again->metadata == header->metadata && again->entries.size() == entries.size());
}

}  // namespace
}  // namespace waypoint

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  waypoint::Check(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
