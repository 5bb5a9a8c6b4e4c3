#include "checkpoint/convert/config/json_path.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/visible_text.h"

namespace waypoint {
namespace {

// Whether the sorted set holds a path strictly below `path`.
bool HasBelow(const std::set<JsonPath>& paths, const JsonPath& path) {
  // Paths are ordered like dictionaries, so all that have a prefix follow it at once.
  const auto next = paths.upper_bound(path);
  return next != paths.end() && HasPrefix(*next, path);
}

void CollectUnclaimed(const Json& value, JsonPath* path, const std::set<JsonPath>& claims,
                      const std::set<JsonPath>& enter, std::vector<std::pair<JsonPath, const Json*>>* found) {
  if (claims.count(*path) > 0) {
    return;
  }
  const bool descend =
      value.is_object() && !value.empty() && (path->empty() || HasBelow(claims, *path) || HasBelow(enter, *path));
  if (!descend) {
    if (!path->empty()) {
      found->emplace_back(*path, &value);
    }
    return;
  }
  for (auto it = value.begin(); it != value.end(); ++it) {
    path->push_back(it.key());
    CollectUnclaimed(it.value(), path, claims, enter, found);
    path->pop_back();
  }
}

}  // namespace

JsonPath ParseJsonPath(absl::string_view dotted) {
  if (dotted.empty()) {
    return {};
  }
  return absl::StrSplit(dotted, '.');
}

std::string JsonPathText(const JsonPath& path) { return absl::StrJoin(path, "."); }

JsonPath JoinPaths(const JsonPath& prefix, const JsonPath& rest) {
  JsonPath joined = prefix;
  joined.insert(joined.end(), rest.begin(), rest.end());
  return joined;
}

bool HasPrefix(const JsonPath& path, const JsonPath& prefix) {
  return path.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), path.begin());
}

const Json* FindJson(const Json& document, const JsonPath& path) {
  const Json* value = &document;
  for (const std::string& key : path) {
    if (!value->is_object()) {
      return nullptr;
    }
    const auto it = value->find(key);
    if (it == value->end()) {
      return nullptr;
    }
    value = &it.value();
  }
  return value;
}

bool SetJson(const JsonPath& path, Json value, Json* document) {
  Json* target = document;
  for (const std::string& key : path) {
    if (target->is_null()) {
      *target = Json::object();
    }
    if (!target->is_object()) {
      return false;
    }
    target = &(*target)[key];
  }
  *target = std::move(value);
  return true;
}

void EraseJson(const JsonPath& path, Json* document) {
  if (path.empty() || FindJson(*document, path) == nullptr) {
    return;
  }
  JsonPath parent(path.begin(), path.end() - 1);
  Json* holder = const_cast<Json*>(FindJson(*document, parent));
  holder->erase(path.back());
  if (holder->empty() && !parent.empty()) {
    EraseJson(parent, document);
  }
}

std::string JsonText(const Json& value) {
  constexpr size_t kShown = 80;
  const std::string text = VisibleText(value.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (text.size() <= kShown) {
    return text;
  }
  size_t cut = kShown;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) {
    --cut;  // not inside a UTF-8 sequence
  }
  return absl::StrCat(text.substr(0, cut), "... (", text.size(), " bytes)");
}

std::vector<std::pair<JsonPath, const Json*>> UnclaimedJson(const Json& document, const std::set<JsonPath>& claims,
                                                            const std::set<JsonPath>& enter) {
  std::vector<std::pair<JsonPath, const Json*>> found;
  JsonPath path;
  CollectUnclaimed(document, &path, claims, enter, &found);
  return found;
}

}  // namespace waypoint
