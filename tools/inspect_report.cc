#include "tools/inspect_report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/visible_text.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"
#include "tools/command_line.h"
#include "tools/inspect_training.h"
#include "tools/report_json.h"

namespace waypoint {
namespace {

std::string ConfigText(const CheckpointMetadata& metadata) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetExpandAny(true);
  std::string text;
  printer.PrintToString(metadata.model_config(), &text);
  return text;
}

std::string DtypeCounts(const Manifest& manifest) {
  std::map<std::string, int64_t> counts;
  for (const TensorMeta& tensor : manifest.tensors()) {
    ++counts[std::string(DTypeName(tensor.dtype))];
  }
  return absl::StrJoin(counts, ", ", [](std::string* out, const std::pair<const std::string, int64_t>& count) {
    absl::StrAppend(out, count.second, " ", count.first);
  });
}

// As it is when a terminal shows that.
std::string Visible(absl::string_view text, const std::string& quoted) {
  return quoted.size() == text.size() + 2 ? std::string(text) : quoted;
}

}  // namespace

void WriteInspectText(const InspectReport& report, std::ostream& out) {
  const InspectedCheckpoint& checkpoint = *report.checkpoint;
  const CheckpointMetadata& metadata = checkpoint.opened.metadata;
  const Manifest& manifest = checkpoint.opened.tensors->manifest();
  std::string text =
      absl::StrCat(QuotedPath(checkpoint.path), ": ", checkpoint.format, "\n  ", Count(manifest.size(), "tensor"), " (",
                   DtypeCounts(manifest), "), ", HumanBytes(static_cast<double>(manifest.total_bytes())), "\n");
  if (metadata.has_training()) {
    absl::StrAppend(&text, TrainingText(metadata.training()));
  }
  if (!metadata.external_format().empty() && metadata.external_format() != checkpoint.format) {
    absl::StrAppend(&text, "  external format: ", VisibleText(metadata.external_format()), "\n");
  }
  if (!metadata.producer().empty()) {
    absl::StrAppend(&text, "  written by ", VisibleText(metadata.producer()), "\n");
  }
  if (!checkpoint.opened.sha256.empty()) {
    absl::StrAppend(&text, "  sha256 ", VisibleText(checkpoint.opened.sha256), "\n");
  }
  if (report.verified) {
    absl::StrAppend(&text, "  verified: everything was read back\n");
  }
  for (const std::string& note : checkpoint.opened.notes) {
    absl::StrAppend(&text, "  note: ", VisibleText(note), "\n");
  }
  absl::StrAppend(&text, "\nfiles:\n");
  for (const InspectedFile& file : checkpoint.files) {
    absl::StrAppend(&text, "  ", Visible(file.name, QuotedPath(file.name)), "  ",
                    HumanBytes(static_cast<double>(file.size_bytes)));
    if (file.tensors > 0) {
      absl::StrAppend(&text, ", ", Count(file.tensors, "tensor"));
    }
    if (!file.problem.empty()) {
      absl::StrAppend(&text, ", not used: ", VisibleText(file.problem));
    }
    for (const auto& [key, value] : file.metadata) {
      absl::StrAppend(&text, ", ", Visible(key, Quoted(key)), "=", Visible(value, Quoted(value)));
    }
    absl::StrAppend(&text, "\n");
  }
  if (metadata.has_model_config()) {
    absl::StrAppend(&text, "\nconfig:\n");
    for (const absl::string_view line : absl::StrSplit(ConfigText(metadata), '\n', absl::SkipEmpty())) {
      absl::StrAppend(&text, "  ", VisibleText(line), "\n");
    }
  }
  if (metadata.has_training() && !metadata.training().trainer_config().empty()) {
    absl::StrAppend(&text, "\ntrainer's config:\n");
    for (const absl::string_view line : TrainerConfigLines(metadata.training())) {
      absl::StrAppend(&text, "  ", VisibleText(line), "\n");
    }
  }
  out << text << "\ntensors:\n";
  size_t width = 0;
  for (const TensorMeta& tensor : manifest.tensors()) {
    width = std::max(width, std::min<size_t>(tensor.name.size(), 80));
  }
  for (int64_t i = 0; i < manifest.size(); ++i) {
    const TensorMeta& tensor = manifest[i];
    out << absl::StrFormat("  %-*s  %-4s %-16s %9s", width, Visible(tensor.name, QuotedPath(tensor.name)),
                           DTypeName(tensor.dtype), ShapeString(tensor.shape),
                           HumanBytes(static_cast<double>(tensor.num_bytes())));
    if (!report.digests.empty()) {
      out << "  xxh3:" << report.digests[i];
    }
    out << "\n";
  }
  out << std::flush;
}

void WriteInspectJson(const InspectReport& report, std::ostream& out) {
  const InspectedCheckpoint& checkpoint = *report.checkpoint;
  const CheckpointMetadata& metadata = checkpoint.opened.metadata;
  const Manifest& manifest = checkpoint.opened.tensors->manifest();
  nlohmann::ordered_json json;
  json["path"] = checkpoint.path;
  json["format"] = checkpoint.format;
  json["verified"] = report.verified;
  json["total_bytes"] = manifest.total_bytes();
  if (metadata.has_training()) {
    json["step"] = metadata.training().step();
    json["training"] = TrainingJson(metadata.training());
  }
  json["external_format"] = metadata.external_format();
  json["producer"] = metadata.producer();
  if (!checkpoint.opened.sha256.empty()) {
    json["sha256"] = checkpoint.opened.sha256;
  }
  if (metadata.has_model_config()) {
    std::string config;
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    if (google::protobuf::util::MessageToJsonString(metadata.model_config(), &config, options).ok()) {
      json["config"] = nlohmann::ordered_json::parse(config);
    }
  }
  json["notes"] = checkpoint.opened.notes;
  json["files"] = nlohmann::ordered_json::array();
  for (const InspectedFile& file : checkpoint.files) {
    nlohmann::ordered_json entry = {
        {"name", file.name}, {"bytes", file.size_bytes}, {"tensors", file.tensors}, {"metadata", file.metadata}};
    if (!file.problem.empty()) {
      entry["problem"] = file.problem;
    }
    json["files"].push_back(std::move(entry));
  }
  const std::string head = ReportJsonText(json);
  out << absl::string_view(head).substr(0, head.size() - 2) << ",\n  \"tensors\": [";
  for (int64_t i = 0; i < manifest.size(); ++i) {
    const TensorMeta& tensor = manifest[i];
    nlohmann::ordered_json entry = {{"name", tensor.name},
                                    {"dtype", std::string(DTypeName(tensor.dtype))},
                                    {"shape", std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())},
                                    {"bytes", tensor.num_bytes()}};
    if (!report.digests.empty()) {
      entry["xxh3"] = report.digests[i];
    }
    out << (i == 0 ? "\n    " : ",\n    ") << ReportJsonText(entry, -1);
  }
  out << (manifest.size() == 0 ? "]\n}\n" : "\n  ]\n}\n") << std::flush;
}

std::string DiffText(const DiffReport& report, size_t limit) {
  const std::vector<TensorDifference>& differences = report.comparison.differences;
  std::string text = report.equal() ? absl::StrCat("equal: ", Count(report.comparison.tensors, "tensor"), ", ",
                                                   HumanBytes(static_cast<double>(report.comparison.bytes)), "\n")
                                    : absl::StrCat("different: first ", QuotedPath(report.first), ", second ",
                                                   QuotedPath(report.second), "\n");
  for (const std::string& line : report.config_differences) {
    absl::StrAppend(&text, "  config: ", VisibleText(line), "\n");
  }
  for (const std::string& line : report.file_differences) {
    absl::StrAppend(&text, "  file: ", VisibleText(line), "\n");
  }
  const size_t shown = std::min(differences.size(), limit);
  for (size_t i = 0; i < shown; ++i) {
    absl::StrAppend(&text, "  tensor ", QuotedPath(differences[i].name), ": ", differences[i].what, "\n");
  }
  if (differences.size() > shown) {
    absl::StrAppend(&text, "  and ", differences.size() - shown, " more tensors; --diff-limit all shows them\n");
  }
  if (!report.written_out.empty()) {
    absl::StrAppend(&text, "  the same in other words, a default that one side writes out:\n");
  }
  for (const std::string& line : report.written_out) {
    absl::StrAppend(&text, "    config: ", VisibleText(line), "\n");
  }
  return text;
}

nlohmann::ordered_json DiffJson(const DiffReport& report) {
  nlohmann::ordered_json json;
  json["first"] = report.first;
  json["second"] = report.second;
  json["equal"] = report.equal();
  json["tensors_compared"] = report.comparison.tensors;
  json["bytes_compared"] = report.comparison.bytes;
  json["config_differences"] = report.config_differences;
  json["file_differences"] = report.file_differences;
  json["written_out_defaults"] = report.written_out;
  json["differences"] = nlohmann::ordered_json::array();
  for (const TensorDifference& difference : report.comparison.differences) {
    nlohmann::ordered_json entry = {
        {"name", difference.name}, {"what", difference.what}, {"differing_elements", difference.differing_elements}};
    // JSON has no infinity.
    if (std::isfinite(difference.max_abs_diff)) {
      entry["max_abs_diff"] = difference.max_abs_diff;
    } else {
      entry["max_abs_diff"] = nullptr;
    }
    json["differences"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace waypoint
