#ifndef CHECKPOINT_CONVERT_CONFIG_JSON_PATH_H_
#define CHECKPOINT_CONVERT_CONFIG_JSON_PATH_H_

// Places inside a JSON document, by object keys: "rope_scaling.factor" is {"rope_scaling", "factor"}.
//
// Declarations write paths as dotted text.  Documents of unknown origin may hold keys with dots in them; those are
// single segments, so a path is a list and text is only its display.  Thread-safe.

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "checkpoint/base/json.h"

namespace waypoint {

using JsonPath = std::vector<std::string>;

// "" is the empty path, the document itself.
JsonPath ParseJsonPath(absl::string_view dotted);
std::string JsonPathText(const JsonPath& path);
JsonPath JoinPaths(const JsonPath& prefix, const JsonPath& rest);
// Whether `path` is `prefix` or lies below it.
bool HasPrefix(const JsonPath& path, const JsonPath& prefix);

// The value at the path, JSON null included; nullptr when the document does not reach there.
const Json* FindJson(const Json& document, const JsonPath& path);

// Makes the objects on the way; a value that is there keeps its place among its siblings.  False when something on the
// way is there and is no object.
bool SetJson(const JsonPath& path, Json value, Json* document);

// Removes the value, and each object on the way that becomes empty by it.
void EraseJson(const JsonPath& path, Json* document);

// For messages: compact, cut at about 80 bytes.
std::string JsonText(const Json& value);

// The highest places of the document that no claim covers.  A claim covers all below it; an object is entered only when
// a claim or a path in `enter` lies below it, so one unknown object is one place.
std::vector<std::pair<JsonPath, const Json*>> UnclaimedJson(const Json& document, const std::set<JsonPath>& claims,
                                                            const std::set<JsonPath>& enter);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_JSON_PATH_H_
