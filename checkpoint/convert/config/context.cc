#include "checkpoint/convert/config/context.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace waypoint {
namespace {

// A hostile file must not make a message of its own size.
constexpr size_t kShownProblems = 100;

bool IsUnder(absl::string_view path, const std::vector<std::string>& roots) {
  const JsonPath segments = ParseJsonPath(path);
  return std::any_of(roots.begin(), roots.end(),
                     [&](const std::string& root) { return HasPrefix(segments, ParseJsonPath(root)); });
}

}  // namespace

void Problems::Add(ErrorKind kind, std::string message) {
  internal_ = internal_ || kind == ErrorKind::kUnknown;
  unsupported_ = unsupported_ || kind == ErrorKind::kUnsupported;
  // Two declarations that read one key see the same mistake.
  if (messages_.empty() || messages_.back() != message) {
    messages_.push_back(std::move(message));
  }
}

void Problems::Add(const absl::Status& status, absl::string_view context) {
  if (!status.ok()) {
    Add(GetErrorKind(status),
        context.empty() ? std::string(status.message()) : absl::StrCat(context, " ", status.message()));
  }
}

absl::Status Problems::ToStatus(absl::string_view context) const {
  if (messages_.empty()) {
    return absl::OkStatus();
  }
  const size_t shown = std::min(messages_.size(), kShownProblems);
  std::string text =
      messages_.size() == 1
          ? absl::StrCat(context, ": ", messages_[0])
          : absl::StrCat(context, ": ", messages_.size(),
                         " problems: ", absl::StrJoin(messages_.begin(), messages_.begin() + shown, "; "));
  if (shown < messages_.size()) {
    absl::StrAppend(&text, "; and ", messages_.size() - shown, " more");
  }
  if (internal_) {
    return absl::InternalError(text);
  }
  return MakeError(unsupported_ ? ErrorKind::kUnsupported : ErrorKind::kConfig, text);
}

bool ImportContext::Allowed(absl::string_view path) {
  if (IsUnder(path, allowed_)) {
    return true;
  }
  log_->problems.Add(ErrorKind::kUnknown,
                     absl::StrCat("\"", FullPath(path), "\" is read by a declaration that does not claim it"));
  return false;
}

const Json* ImportContext::Find(absl::string_view path) {
  Claim(path);
  return Peek(path);
}

const Json* ImportContext::Peek(absl::string_view path) const {
  const Json* value = FindJson(document_, JoinPaths(prefix_, ParseJsonPath(path)));
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool ImportContext::IsNull(absl::string_view path) const {
  const Json* value = FindJson(document_, JoinPaths(prefix_, ParseJsonPath(path)));
  return value != nullptr && value->is_null();
}

void ImportContext::Claim(absl::string_view path) {
  if (Allowed(path)) {
    log_->claims[JoinPaths(prefix_, ParseJsonPath(path))].insert(log_->unit);
  }
}

ImportContext ImportContext::Child(const JsonPath& key) const {
  ImportContext child(document_, log_);
  child.prefix_ = JoinPaths(prefix_, key);
  return child;
}

const Json* ImportContext::Value() const { return FindJson(document_, prefix_); }

void ImportContext::AddProblem(absl::string_view path, absl::string_view message, ErrorKind kind) {
  log_->problems.Add(kind, absl::StrCat("\"", FullPath(path), "\" ", message));
}

void ImportContext::AddProblem(absl::string_view path, const absl::Status& status) {
  log_->problems.Add(status, absl::StrCat("\"", FullPath(path), "\""));
}

std::string ImportContext::FullPath(absl::string_view path) const {
  return JsonPathText(JoinPaths(prefix_, ParseJsonPath(path)));
}

void ExportContext::Set(absl::string_view path, Json value) {
  JsonPath full = JoinPaths(prefix_, ParseJsonPath(path));
  if (!IsUnder(path, allowed_)) {
    log_->problems.Add(ErrorKind::kUnknown, absl::StrCat("\"", JsonPathText(full), "\" is written by \"", declaration_,
                                                         "\", which does not claim it"));
    return;
  }
  if (value.is_null() && original_ != nullptr && FindJson(*original_, full) == nullptr) {
    return;
  }
  for (const ExportLog::Write& write : log_->writes) {
    if (write.path == full) {
      if (write.value != value) {
        log_->problems.Add(ErrorKind::kConfig,
                           absl::StrCat("\"", JsonPathText(full), "\" would be ", JsonText(write.value), " by \"",
                                        write.declaration, "\" and ", JsonText(value), " by \"", declaration_,
                                        "\"; the external format has one place for both"));
      }
      return;
    }
    if (HasPrefix(write.path, full) || HasPrefix(full, write.path)) {
      log_->problems.Add(ErrorKind::kUnknown,
                         absl::StrCat("\"", JsonPathText(full), "\" by \"", declaration_, "\" overlaps \"",
                                      JsonPathText(write.path), "\" by \"", write.declaration, "\""));
      return;
    }
  }
  log_->writes.push_back({std::move(full), std::move(value), declaration_, log_->unit});
}

const Json* ExportContext::Original(absl::string_view path) const {
  return original_ == nullptr ? nullptr : FindJson(*original_, JoinPaths(prefix_, ParseJsonPath(path)));
}

ExportContext ExportContext::Child(const JsonPath& key) const {
  ExportContext child(original_, layout_, log_);
  child.prefix_ = JoinPaths(prefix_, key);
  child.declaration_ = declaration_;
  return child;
}

void ExportContext::AddProblem(absl::string_view message, ErrorKind kind) {
  log_->problems.Add(kind, std::string(message));
}

}  // namespace waypoint
