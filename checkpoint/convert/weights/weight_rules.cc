#include "checkpoint/convert/weights/weight_rules.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr size_t kSpelledOut = 10;

// Problems by kind, to be told in one error.
class Problems {
 public:
  void Add(ErrorKind kind, std::string text) {
    for (Group& group : groups_) {
      if (group.kind == kind) {
        ++group.count;
        if (group.texts.size() < kSpelledOut) {
          group.texts.push_back(std::move(text));
        }
        return;
      }
    }
    groups_.push_back({kind, 1, {std::move(text)}});
  }

  absl::Status ToStatus(absl::string_view what) const {
    if (groups_.empty()) {
      return absl::OkStatus();
    }
    // What is missing or has another shape explains the rest.
    const Group* first = &groups_[0];
    for (const ErrorKind kind : {ErrorKind::kMissing, ErrorKind::kShape, ErrorKind::kDType, ErrorKind::kExtra}) {
      const auto it = std::find_if(groups_.begin(), groups_.end(), [kind](const Group& g) { return g.kind == kind; });
      if (it != groups_.end()) {
        first = &*it;
        break;
      }
    }
    std::vector<std::string> parts;
    for (const Group& group : groups_) {
      parts.push_back(absl::StrCat(group.count, " ", Title(group.kind), ": ", absl::StrJoin(group.texts, ", "),
                                   group.count > group.texts.size() ? ", ..." : ""));
    }
    return MakeError(first->kind, absl::StrCat(what, ": ", absl::StrJoin(parts, "; ")));
  }

 private:
  struct Group {
    ErrorKind kind;
    size_t count;
    std::vector<std::string> texts;
  };

  static absl::string_view Title(ErrorKind kind) {
    switch (kind) {
      case ErrorKind::kMissing:
        return "missing";
      case ErrorKind::kExtra:
        return "that nothing expects";
      case ErrorKind::kShape:
        return "of another shape";
      case ErrorKind::kDType:
        return "of an unusable element type";
      case ErrorKind::kDupKey:
        return "claimed twice";
      default:
        return "wrong";
    }
  }

  std::vector<Group> groups_;
};

}  // namespace

void WeightRules::Add(std::string native, std::vector<std::string> external, RelayoutPtr relayout) {
  rules_.push_back({std::move(native), std::move(external), std::move(relayout)});
}

void WeightRules::IgnoreExternal(std::string pattern, std::string reason) {
  ignored_.push_back({std::move(pattern), std::move(reason)});
}

void WeightRules::AddCopy(std::string native, std::string external, bool emit) {
  copies_.push_back({std::move(native), std::move(external), emit});
}

bool MatchesPattern(absl::string_view text, absl::string_view pattern) {
  // Greedy with one step back: correct because what "*" takes never contains a dot.
  size_t t = 0;
  size_t p = 0;
  size_t star = absl::string_view::npos;
  size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != absl::string_view::npos && text[star_text] != '.') {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') {
    ++p;
  }
  return p == pattern.size();
}

absl::StatusOr<ImportPlan> PlanImport(const WeightRules& rules, const Manifest& parameters, const Manifest& external,
                                      DType joined) {
  ImportPlan plan;
  Problems problems;
  absl::flat_hash_map<std::string, const WeightRule*> by_native;
  absl::flat_hash_set<std::string> claimed;
  for (const WeightRule& rule : rules.rules()) {
    if (!by_native.emplace(rule.native, &rule).second) {
      problems.Add(ErrorKind::kDupKey, Quoted(rule.native));
    }
    for (const std::string& name : rule.external) {
      if (!claimed.insert(name).second) {
        problems.Add(ErrorKind::kDupKey, Quoted(name));
      }
    }
  }

  for (const TensorMeta& parameter : parameters.tensors()) {
    const auto it = by_native.find(parameter.name);
    if (it == by_native.end()) {
      problems.Add(ErrorKind::kMissing, absl::StrCat(Quoted(parameter.name), " (no rule makes it)"));
      continue;
    }
    const WeightRule& rule = *it->second;
    // What the external tensors must look like follows from the native one.
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<Expr> wanted, rule.relayout->Export(Ref(parameter, 0)));
    if (wanted.size() != rule.external.size()) {
      return MakeError(ErrorKind::kUnknown,
                       absl::StrCat("the rule of ", Quoted(rule.native), " names ", rule.external.size(),
                                    " tensors, its re-layout makes ", wanted.size()));
    }
    std::vector<Expr> inputs;
    for (size_t i = 0; i < wanted.size(); ++i) {
      std::string name = rule.external[i];
      int64_t index = external.Find(name);
      if (index < 0 && rule.external.size() == 1) {
        // safetensors keeps one name of two that share a tensor, the alphabetically first.
        for (const WeightRules::Copy& copy : rules.copies()) {
          if (copy.native == rule.native && external.Find(copy.external) >= 0) {
            plan.notes.push_back(absl::StrCat("took ", Quoted(copy.external), " for ", Quoted(name),
                                              ", which is not stored: the config ties the two"));
            name = copy.external;
            index = external.Find(name);
            break;
          }
        }
      }
      if (index < 0) {
        problems.Add(ErrorKind::kMissing, Quoted(name));
      } else if (external[index].shape != wanted[i]->shape()) {
        problems.Add(ErrorKind::kShape, absl::StrCat(Quoted(name), " is ", ShapeString(external[index].shape),
                                                     ", the config wants ", ShapeString(wanted[i]->shape())));
      } else if (!IsCastable(external[index].dtype)) {
        problems.Add(ErrorKind::kDType, absl::StrCat(Quoted(name), " is ", DTypeName(external[index].dtype),
                                                     ", weights are F16, BF16, F32 or F64"));
      } else if (joined == DType::kInvalid && !inputs.empty() && inputs[0]->dtype() != external[index].dtype) {
        problems.Add(ErrorKind::kDType,
                     absl::StrCat(Quoted(name), " is ", DTypeName(external[index].dtype), ", ",
                                  Quoted(rule.external[0]), " of the same native tensor is ",
                                  DTypeName(inputs[0]->dtype()), "; convert with --dtype, which casts both"));
      } else {
        inputs.push_back(Ref(external[index], index));
      }
    }
    const auto is_other = [&inputs](const Expr& input) { return input->dtype() != inputs[0]->dtype(); };
    if (std::any_of(inputs.begin(), inputs.end(), is_other)) {
      for (Expr& input : inputs) {
        WAYPOINT_ASSIGN_OR_RETURN(input, Cast(input, joined));
      }
    }
    if (inputs.size() == wanted.size()) {
      WAYPOINT_ASSIGN_OR_RETURN(Expr native, rule.relayout->Import(inputs));
      plan.tensors.push_back({parameter.name, std::move(native)});
    }
  }

  absl::flat_hash_map<std::string, int64_t> ignored_counts;
  for (int64_t i = 0; i < external.size(); ++i) {
    const std::string& name = external[i].name;
    if (claimed.contains(name)) {
      continue;
    }
    const auto copy = std::find_if(rules.copies().begin(), rules.copies().end(),
                                   [&name](const WeightRules::Copy& c) { return c.external == name; });
    if (copy != rules.copies().end()) {
      const auto rule = by_native.find(copy->native);
      const int64_t original = rule == by_native.end() ? -1 : external.Find(rule->second->external[0]);
      if (original >= 0 &&
          (external[original].shape != external[i].shape || external[original].dtype != external[i].dtype)) {
        problems.Add(ErrorKind::kShape, absl::StrCat(Quoted(name), " is ", ShapeString(external[i].shape), " ",
                                                     DTypeName(external[i].dtype), " and should be a copy of ",
                                                     Quoted(external[original].name)));
      } else if (original >= 0) {
        plan.copies.push_back({name, Ref(external[original], original)});
      }
      continue;
    }
    const auto ignored = std::find_if(rules.ignored().begin(), rules.ignored().end(),
                                      [&name](const IgnoredTensors& t) { return MatchesPattern(name, t.pattern); });
    if (ignored != rules.ignored().end()) {
      ++ignored_counts[ignored->pattern];
    } else {
      problems.Add(ErrorKind::kExtra, Quoted(name));
    }
  }
  for (const IgnoredTensors& ignored : rules.ignored()) {
    const auto count = ignored_counts.find(ignored.pattern);
    if (count != ignored_counts.end()) {
      // The target may hold such tensors all the same, made anew.
      plan.notes.push_back(absl::StrCat("did not read ", count->second, count->second == 1 ? " tensor " : " tensors ",
                                        Quoted(ignored.pattern), ": ", ignored.reason));
    }
  }
  WAYPOINT_RETURN_IF_ERROR(problems.ToStatus("the tensors do not fit the config"));
  return plan;
}

absl::StatusOr<ExportPlan> PlanExport(const WeightRules& rules, const Manifest& native) {
  ExportPlan plan;
  Problems problems;
  absl::flat_hash_set<std::string> used;
  absl::flat_hash_set<std::string> made;
  for (const WeightRule& rule : rules.rules()) {
    const int64_t index = native.Find(rule.native);
    if (index < 0) {
      problems.Add(ErrorKind::kMissing, Quoted(rule.native));
      continue;
    }
    used.insert(rule.native);
    const auto exported = rule.relayout->Export(Ref(native[index], index));
    if (!exported.ok()) {
      problems.Add(ErrorKind::kShape, absl::StrCat(Quoted(rule.native), " ", ShapeString(native[index].shape), ": ",
                                                   exported.status().message()));
      continue;
    }
    int64_t elements = 0;
    for (const Expr& part : *exported) {
      elements += NumElements(part->shape());
    }
    if (elements != native[index].num_elements()) {
      problems.Add(ErrorKind::kShape, absl::StrCat(Quoted(rule.native), " ", ShapeString(native[index].shape),
                                                   ": the format takes only ", elements, " of its elements"));
    }
    for (size_t i = 0; i < exported->size(); ++i) {
      if (!made.insert(rule.external[i]).second) {
        problems.Add(ErrorKind::kDupKey, Quoted(rule.external[i]));
      }
      plan.tensors.push_back({rule.external[i], (*exported)[i]});
    }
  }
  for (const WeightRules::Copy& copy : rules.copies()) {
    const int64_t index = native.Find(copy.native);
    if (copy.emit && index >= 0) {
      plan.tensors.push_back({copy.external, Ref(native[index], index)});
    }
  }
  int64_t state_tensors = 0;
  for (const TensorMeta& tensor : native.tensors()) {
    if (used.contains(tensor.name)) {
      continue;
    }
    if (tensor.name.find('/') != std::string::npos) {
      ++state_tensors;
    } else {
      problems.Add(ErrorKind::kExtra, Quoted(tensor.name));
    }
  }
  if (state_tensors > 0) {
    plan.notes.push_back(
        absl::StrCat("left out ", state_tensors, " tensors of optimizer state: this format holds weights only"));
  }
  WAYPOINT_RETURN_IF_ERROR(problems.ToStatus("the tensors do not fit the format"));
  return plan;
}

}  // namespace waypoint
