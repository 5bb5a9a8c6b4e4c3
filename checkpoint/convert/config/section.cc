#include "checkpoint/convert/config/section.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/convert/config/native_coverage.h"

namespace waypoint {

using google::protobuf::Message;

void Section::ImportOne(const Declaration& declaration, ImportContext context, Message* message) {
  context.Restrict(declaration.primitive->external_claims());
  declaration.primitive->Import(context, message);
}

void Section::ExportOne(const Declaration& declaration, const Message& message, ExportContext context) {
  context.Restrict(declaration.primitive->external_claims());
  context.set_declaration(declaration.key);
  declaration.primitive->Export(message, context);
}

void Section::Import(ImportContext context, Message* message) const {
  for (const Declaration& declaration : declarations_) {
    ImportOne(declaration, context, message);
  }
}

void Section::Export(const Message& message, ExportContext context) const {
  for (const Declaration& declaration : declarations_) {
    ExportOne(declaration, message, context);
  }
}

Declaration* SectionBuilder::FindKey(absl::string_view key) {
  for (Declaration& declaration : section_.declarations_) {
    if (declaration.key == key) {
      return &declaration;
    }
  }
  return nullptr;
}

SectionBuilder& SectionBuilder::Add(std::string key, PrimitivePtr primitive) {
  if (FindKey(key) != nullptr) {
    problems_.push_back(absl::StrCat("key \"", key, "\" is added, but it is there: use Replace"));
  } else {
    section_.declarations_.push_back({std::move(key), std::move(primitive)});
  }
  return *this;
}

SectionBuilder& SectionBuilder::Replace(absl::string_view key, PrimitivePtr primitive) {
  Declaration* found = FindKey(key);
  if (found == nullptr) {
    problems_.push_back(absl::StrCat("key \"", key, "\" is replaced, but it is not there: use Add"));
  } else {
    found->primitive = std::move(primitive);
  }
  return *this;
}

SectionBuilder& SectionBuilder::Remove(absl::string_view key) {
  std::vector<Declaration>& all = section_.declarations_;
  for (auto it = all.begin(); it != all.end(); ++it) {
    if (it->key == key) {
      all.erase(it);
      return *this;
    }
  }
  problems_.push_back(absl::StrCat("key \"", key, "\" is removed, but it is not there"));
  return *this;
}

absl::StatusOr<Section> SectionBuilder::Build() const {
  std::vector<std::string> problems = problems_;
  std::vector<NamedClaim> claims;
  for (const Declaration& declaration : section_.declarations_) {
    if (const absl::Status status = declaration.primitive->Check(*section_.message_); !status.ok()) {
      problems.push_back(absl::StrCat("\"", declaration.key, "\": ", status.message()));
    }
    for (NativeClaim& claim : declaration.primitive->native_claims()) {
      claims.push_back({declaration.key, std::move(claim)});
    }
  }
  for (std::string& problem : CheckArchitectureOptions(*section_.message_)) {
    problems.push_back(std::move(problem));
  }
  for (std::string& problem : CheckNativeCoverage(*section_.message_, claims)) {
    problems.push_back(std::move(problem));
  }
  if (!problems.empty()) {
    return absl::InternalError(
        absl::StrCat("section of ", section_.message_->full_name(), ": ", absl::StrJoin(problems, "; ")));
  }
  return section_;
}

}  // namespace waypoint
