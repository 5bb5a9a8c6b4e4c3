#include "checkpoint/convert/config/native_coverage.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoint/convert/config/options.pb.h"

namespace waypoint {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

void CollectUnmarked(const Descriptor& message, std::set<const Descriptor*>* visited,
                     std::vector<std::string>* unmarked) {
  if (!visited->insert(&message).second) {
    return;
  }
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    // The key and value of a map carry no options of their own.
    if (!message.options().map_entry() && !field.options().HasExtension(architecture)) {
      unmarked->push_back(field.full_name());
    }
    if (field.message_type() != nullptr) {
      CollectUnmarked(*field.message_type(), visited, unmarked);
    }
  }
}

bool IsPrefix(absl::string_view prefix, absl::string_view path) {
  return absl::ConsumePrefix(&path, prefix) && (path.empty() || path[0] == '.');
}

class Coverage {
 public:
  explicit Coverage(const std::vector<NamedClaim>& claims) : claims_(claims), used_(claims.size(), false) {}

  std::vector<std::string> Run(const Descriptor& root) {
    Visit(root, "", {});
    std::vector<std::string> problems;
    if (!missing_.empty()) {
      problems.push_back(absl::StrCat(missing_.size(), missing_.size() == 1 ? " field is" : " fields are",
                                      " claimed by no declaration: ", absl::StrJoin(missing_, ", ")));
    }
    problems.insert(problems.end(), twice_.begin(), twice_.end());
    for (size_t i = 0; i < claims_.size(); ++i) {
      if (!used_[i]) {
        problems.push_back(absl::StrCat("\"", claims_[i].declaration, "\" claims \"", claims_[i].claim.path,
                                        "\", which is no field that it can claim that way"));
      }
    }
    return problems;
  }

 private:
  // `open` are the messages that this path is inside of.
  void Visit(const Descriptor& message, const std::string& prefix, std::set<const Descriptor*> open) {
    open.insert(&message);
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      const std::string path = prefix.empty() ? field.name() : absl::StrCat(prefix, ".", field.name());
      const Descriptor* type = field.message_type();
      const bool enterable =
          type != nullptr && !field.is_repeated() && type->field_count() > 0 && open.count(type) == 0;
      const std::vector<size_t> covering = Covering(path, type == nullptr);
      Use(path, covering);
      // Below a recursive claim, only a second claim would be of interest, and it would be one too many.
      if (enterable && (covering.empty() || AnyBelow(path))) {
        Visit(*type, path, open);
      } else if (covering.empty()) {
        missing_.push_back(type == nullptr ? path : absl::StrCat(path, " (needs a recursive claim)"));
      }
    }
  }

  // Claims of this field: exact ones where `scalar`, and recursive ones at it or above.
  std::vector<size_t> Covering(const std::string& path, bool scalar) const {
    std::vector<size_t> covering;
    for (size_t i = 0; i < claims_.size(); ++i) {
      const NativeClaim& claim = claims_[i].claim;
      if (claim.recursive ? IsPrefix(claim.path, path) : scalar && claim.path == path) {
        covering.push_back(i);
      }
    }
    return covering;
  }

  bool AnyBelow(const std::string& path) const {
    return std::any_of(claims_.begin(), claims_.end(), [&](const NamedClaim& named) {
      return named.claim.path != path && IsPrefix(path, named.claim.path);
    });
  }

  void Use(const std::string& path, const std::vector<size_t>& covering) {
    for (const size_t i : covering) {
      used_[i] = true;
    }
    if (covering.size() > 1) {
      std::vector<std::string> names;
      for (const size_t i : covering) {
        names.push_back(absl::StrCat("\"", claims_[i].declaration, "\""));
      }
      twice_.push_back(absl::StrCat("\"", path, "\" is claimed by ", absl::StrJoin(names, " and ")));
    }
  }

  const std::vector<NamedClaim>& claims_;
  std::vector<bool> used_;
  std::vector<std::string> missing_;
  std::vector<std::string> twice_;
};

}  // namespace

std::vector<std::string> CheckArchitectureOptions(const Descriptor& root) {
  std::set<const Descriptor*> visited;
  std::vector<std::string> unmarked;
  CollectUnmarked(root, &visited, &unmarked);
  if (unmarked.empty()) {
    return {};
  }
  return {absl::StrCat(unmarked.size(), unmarked.size() == 1 ? " field lacks" : " fields lack",
                       " the option (waypoint.architecture): ", absl::StrJoin(unmarked, ", "))};
}

std::vector<std::string> CheckNativeCoverage(const Descriptor& root, const std::vector<NamedClaim>& claims) {
  return Coverage(claims).Run(root);
}

}  // namespace waypoint
