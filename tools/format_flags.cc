#include "tools/format_flags.h"

#include <map>
#include <set>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/format/format_options.h"

namespace waypoint {

std::vector<FormatChoice> LinkedFormats() {
  Registry<CheckpointFormat>& formats = Registry<CheckpointFormat>::Global();
  std::vector<FormatChoice> choices;
  for (const std::string& name : formats.Names()) {
    CheckpointFormat* format = formats.Find(name);
    choices.push_back({name, format->description(), format->options()});
  }
  return choices;
}

void AddFormatFlags(const std::vector<FormatChoice>& formats, FormatFlags which, CLI::App& app,
                    FormatOptionValues* values) {
  std::map<std::string, std::vector<std::string>> owners;  // of each option
  for (const FormatChoice& format : formats) {
    for (const FormatOption& option : format.options) {
      owners[option.name].push_back(format.name);
    }
  }
  std::set<std::string> added;
  for (const FormatChoice& format : formats) {
    for (const FormatOption& option : format.options) {
      if ((which == FormatFlags::kLoad && !option.on_load) || !added.insert(option.name).second) {
        continue;
      }
      const std::string flag = absl::StrCat("--", option.name);
      const std::string group = absl::StrCat("Options of ", absl::StrJoin(owners[option.name], ", "));
      const std::string name = option.name;
      const std::string help = which == FormatFlags::kLoad ? option.help
                                                           : absl::StrCat(option.on_load && option.on_save ? ""
                                                                          : option.on_load                 ? "reading: "
                                                                                           : "writing: ",
                                                                          option.help);
      if (option.value.empty()) {
        app.add_flag_function(
               flag, [values, name](int64_t) { (*values)[name] = "true"; }, help)
            ->group(group);
      } else {
        app.add_option_function<std::string>(
               flag, [values, name](const std::string& value) { (*values)[name] = value; }, help)
            ->type_name(option.value)
            ->group(group);
      }
    }
  }
}

void AddStripPrefixFlag(CLI::App& app, std::vector<std::string>* prefixes) {
  app.add_option("--strip-prefix", *prefixes,
                 "take this off the names of tensors that begin with it, as wrappers of modules leave it (module., "
                 "_orig_mod., model.); may be given several times")
      ->type_name("P")
      ->allow_extra_args(false);
}

absl::StatusOr<FormatOptionValues> LoadFormatOptions(const CheckpointFormat& from, const CheckpointFormat* to,
                                                     const FormatOptionValues& values) {
  FormatOptionValues load = SelectFormatOptions(from, values, FormatUse::kLoad);
  const FormatOptionValues save =
      to == nullptr ? FormatOptionValues() : SelectFormatOptions(*to, values, FormatUse::kSave);
  for (const auto& [name, value] : values) {
    if (load.count(name) == 0 && save.count(name) == 0) {
      std::string choices =
          absl::StrCat("reading \"", from.name(), "\" takes: ", FormatOptionsText(from, FormatUse::kLoad));
      if (to != nullptr) {
        absl::StrAppend(&choices, "; writing \"", to->name(), "\" takes: ", FormatOptionsText(*to, FormatUse::kSave));
      }
      return MakeError(ErrorKind::kRequest, absl::StrCat("--", name, " is no option here; ", choices));
    }
  }
  return load;
}

}  // namespace waypoint
