#ifndef TESTS_TESTING_SAFETENSORS_BYTES_H_
#define TESTS_TESTING_SAFETENSORS_BYTES_H_

// Safetensors files byte by byte, good and broken, without the library's own writer.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace waypoint {

// Any length field before any header before any data.
inline std::string SafetensorsBytes(uint64_t declared, absl::string_view header, absl::string_view data) {
  std::string out;
  for (int i = 0; i < 8; ++i) {
    out.push_back(static_cast<char>(declared >> (8 * i) & 0xFF));
  }
  return absl::StrCat(out, header, data);
}

// With the true length.
inline std::string SafetensorsBytes(absl::string_view header, absl::string_view data) {
  return SafetensorsBytes(header.size(), header, data);
}

// `size` bytes that are not all equal.
inline std::string SomeBytes(size_t size) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    out[i] = static_cast<char>(i);
  }
  return out;
}

// {"name": {F32, [elements]}} back to back.
struct FloatTensor {
  std::string name;
  int64_t elements = 0;
};
inline std::string FloatFile(const std::vector<FloatTensor>& tensors) {
  std::vector<std::string> entries;
  int64_t end = 0;
  for (const FloatTensor& tensor : tensors) {
    entries.push_back(absl::StrCat("\"", tensor.name, "\":{\"dtype\":\"F32\",\"shape\":[", tensor.elements,
                                   "],\"data_offsets\":[", end, ",", end + 4 * tensor.elements, "]}"));
    end += 4 * tensor.elements;
  }
  return SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries, ","), "}"), SomeBytes(end));
}

}  // namespace waypoint

#endif  // TESTS_TESTING_SAFETENSORS_BYTES_H_
