#include "checkpoint/format/format_options.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

bool Serves(const FormatOption& option, FormatUse use) {
  return use == FormatUse::kLoad ? option.on_load : option.on_save;
}

const FormatOption* Find(const std::vector<FormatOption>& options, const std::string& name, FormatUse use) {
  const auto it = std::find_if(options.begin(), options.end(),
                               [&](const FormatOption& option) { return option.name == name && Serves(option, use); });
  return it == options.end() ? nullptr : &*it;
}

}  // namespace

absl::Status CheckFormatOptions(const CheckpointFormat& format, const FormatOptionValues& values, FormatUse use) {
  const std::vector<FormatOption> options = format.options();
  for (const auto& [name, value] : values) {
    const FormatOption* option = Find(options, name, use);
    if (option == nullptr) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("format \"", format.name(), "\" has no option \"", name,
                                                         "\" for ", use == FormatUse::kLoad ? "reading" : "writing",
                                                         "; it has: ", FormatOptionsText(format, use)));
    }
    if (option->value.empty() && value != "true" && value != "false") {
      return MakeError(ErrorKind::kRequest, absl::StrCat("option \"", name, "\" of format \"", format.name(),
                                                         "\" is \"", value, "\", wanted true or false"));
    }
  }
  return absl::OkStatus();
}

FormatOptionValues SelectFormatOptions(const CheckpointFormat& format, const FormatOptionValues& values,
                                       FormatUse use) {
  const std::vector<FormatOption> options = format.options();
  FormatOptionValues selected;
  for (const auto& [name, value] : values) {
    if (Find(options, name, use) != nullptr) {
      selected.emplace(name, value);
    }
  }
  return selected;
}

std::string FormatOptionsText(const CheckpointFormat& format, FormatUse use) {
  std::vector<std::string> texts;
  for (const FormatOption& option : format.options()) {
    if (Serves(option, use)) {
      texts.push_back(absl::StrCat("--", option.name, option.value.empty() ? "" : " ", option.value));
    }
  }
  return texts.empty() ? "none" : absl::StrJoin(texts, ", ");
}

}  // namespace waypoint
