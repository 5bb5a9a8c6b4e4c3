#include "models/llama/fairseq2/state_dict.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"

namespace waypoint::models {
namespace {

constexpr absl::string_view kModelKey = "model_key";
// Where no model_key says it.
constexpr absl::string_view kDefaultKeys[] = {"model", "weights", "state_dict"};
// Says by whom the file was written.
constexpr absl::string_view kWriterKey = "fs2";
constexpr size_t kSpelledOut = 10;

absl::string_view FirstKey(absl::string_view path) { return path.substr(0, path.find('.')); }

}  // namespace

absl::Status TakeStateDict(TorchContents* contents, LeftBehind* left_behind) {
  std::string key;
  bool named = false;
  for (const TorchValue& value : contents->values) {
    if (value.path != kModelKey) {
      continue;
    }
    if (value.type != "str") {
      return MakeError(ErrorKind::kSchema,
                       absl::StrCat("\"", kModelKey, "\" is of type ", value.type, ", wanted a text"));
    }
    key = value.text;
    named = true;
  }
  if (!named) {
    const auto usual =
        std::find_if(std::begin(kDefaultKeys), std::end(kDefaultKeys), [contents](absl::string_view name) {
          return std::any_of(contents->tensors.begin(), contents->tensors.end(),
                             [name](const TorchTensor& tensor) { return FirstKey(tensor.name) == name; });
        });
    key = usual == std::end(kDefaultKeys) ? "" : std::string(*usual);
  }
  std::string prefix = absl::StrCat(key, ".");
  const auto is_inside = [&prefix](const TorchTensor& tensor) { return absl::StartsWith(tensor.name, prefix); };
  if (std::none_of(contents->tensors.begin(), contents->tensors.end(), is_inside)) {
    if (named) {
      LeftBehind keys;
      for (const TorchTensor& tensor : contents->tensors) {
        ++keys[std::string(FirstKey(tensor.name))];
      }
      std::vector<std::string> names;
      for (const auto& [name, count] : keys) {
        if (names.size() == kSpelledOut) {
          names.emplace_back("...");
          break;
        }
        names.push_back(Quoted(name));
      }
      return MakeError(ErrorKind::kMissing,
                       absl::StrCat("\"", kModelKey, "\" says that the model is under ", Quoted(key),
                                    ", where no tensor is; there are tensors under: ", absl::StrJoin(names, ", ")));
    }
    prefix.clear();  // the root is the state dict
  }

  std::vector<TorchTensor> tensors;
  for (TorchTensor& tensor : contents->tensors) {
    absl::string_view name = tensor.name;
    if (!absl::ConsumePrefix(&name, prefix)) {
      ++(*left_behind)[std::string(FirstKey(tensor.name))];
      continue;
    }
    tensor.name = std::string(name);
    tensors.push_back(std::move(tensor));
  }
  contents->tensors = std::move(tensors);
  for (const TorchValue& value : contents->values) {
    if (value.path != kModelKey && value.path != kWriterKey) {
      const bool inside = prefix.empty() || absl::StartsWith(value.path, prefix);
      left_behind->try_emplace(inside ? value.path : std::string(FirstKey(value.path)), 0);
    }
  }
  if (contents->values_left_out > 0) {
    left_behind->try_emplace(absl::StrCat("and ", contents->values_left_out, " more values"), 0);
  }
  return absl::OkStatus();
}

}  // namespace waypoint::models
