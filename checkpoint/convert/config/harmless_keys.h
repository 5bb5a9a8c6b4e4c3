#ifndef CHECKPOINT_CONVERT_CONFIG_HARMLESS_KEYS_H_
#define CHECKPOINT_CONVERT_CONFIG_HARMLESS_KEYS_H_

// Keys of a config.json that change neither weights nor logits of a causal language model: they are carried through a
// conversion as they are, and need no declaration.
//
// By full path: a key of the same name deeper inside, or in another section, is unknown until it is listed there.  A
// key that is harmless for some values only says which; another value is refused.  Thread-safe.

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "checkpoint/base/json.h"
#include "checkpoint/convert/config/json_path.h"

namespace waypoint {

struct HarmlessKey {
  const char* path;
  // The one harmless value as JSON text (null is always harmless); nullptr: any value.
  const char* value;
  const char* reason;
};

// What every transformers config may hold, at the root of config.json, and what models of the same root (llama,
// mistral, qwen2, ...) add to it.
absl::Span<const HarmlessKey> TransformersRootKeys();

class HarmlessKeys {
 public:
  HarmlessKeys() = default;

  // Lists the keys below `prefix` ("" for the root, "text_config").
  HarmlessKeys& Add(absl::string_view prefix, absl::Span<const HarmlessKey> keys);

  // The entry at the path or above it; nullptr when there is none.
  const HarmlessKey* Find(const JsonPath& path) const;
  const std::map<JsonPath, HarmlessKey>& keys() const { return keys_; }

 private:
  std::map<JsonPath, HarmlessKey> keys_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_HARMLESS_KEYS_H_
