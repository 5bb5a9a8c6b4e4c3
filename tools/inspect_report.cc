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
#include "checkpoint/storage/file_system.h"
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

// Of a file that was read; else empty.
std::string DigestOf(const InspectReport& report, const std::string& name) {
  const auto file = std::find_if(report.file_digests.begin(), report.file_digests.end(),
                                 [&name](const ConvertedFile& one) { return one.name() == name; });
  return file == report.file_digests.end() ? "" : file->digest();
}

// The files of one conversion.
std::string FilesText(const google::protobuf::RepeatedPtrField<ConvertedFile>& files) {
  std::string text;
  for (const ConvertedFile& file : files) {
    absl::StrAppend(&text, "    ", Visible(file.name(), QuotedPath(file.name())), "  ", file.size_bytes(), " bytes",
                    file.digest().empty() ? "" : absl::StrCat("  ", Visible(file.digest(), Quoted(file.digest()))),
                    "\n");
  }
  return text;
}

nlohmann::ordered_json FilesJson(const google::protobuf::RepeatedPtrField<ConvertedFile>& files) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ConvertedFile& file : files) {
    nlohmann::ordered_json entry = {{"name", file.name()}, {"bytes", file.size_bytes()}};
    if (!file.digest().empty()) {
      entry["digest"] = file.digest();
    }
    json.push_back(std::move(entry));
  }
  return json;
}

// Where a checkpoint came from.
std::string ConversionsText(const CheckpointMetadata& metadata) {
  std::string text;
  for (const Conversion& conversion : metadata.conversions()) {
    absl::StrAppend(&text, "  converted from ", Visible(conversion.format(), Quoted(conversion.format())),
                    conversion.sha256().empty()
                        ? ":"
                        : absl::StrCat(", sha256 ", Visible(conversion.sha256(), Quoted(conversion.sha256()))),
                    "\n", FilesText(conversion.files()));
  }
  return text;
}

nlohmann::ordered_json ConversionsJson(const CheckpointMetadata& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Conversion& conversion : metadata.conversions()) {
    nlohmann::ordered_json entry = {{"format", conversion.format()}};
    if (!conversion.sha256().empty()) {
      entry["sha256"] = conversion.sha256();
    }
    entry["files"] = FilesJson(conversion.files());
    json.push_back(std::move(entry));
  }
  return json;
}

// One line each: name, size and, when it was read, digest.
std::string AssetsText(const InspectReport& report) {
  const std::vector<Asset>& assets = report.checkpoint->opened.assets;
  std::string text = assets.empty() ? "" : "\nfiles that travel along:\n";
  for (size_t i = 0; i < assets.size(); ++i) {
    absl::StrAppend(&text, "  ", Visible(assets[i].name, QuotedPath(assets[i].name)), "  ",
                    HumanBytes(static_cast<double>(assets[i].size_bytes)),
                    report.asset_digests.empty() ? "" : absl::StrCat("  ", report.asset_digests[i]), "\n");
  }
  return text;
}

nlohmann::ordered_json AssetsJson(const InspectReport& report) {
  const std::vector<Asset>& assets = report.checkpoint->opened.assets;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (size_t i = 0; i < assets.size(); ++i) {
    nlohmann::ordered_json entry = {{"name", assets[i].name}, {"bytes", assets[i].size_bytes}};
    if (!report.asset_digests.empty()) {
      entry["digest"] = report.asset_digests[i];
    }
    json.push_back(std::move(entry));
  }
  return json;
}

}  // namespace

std::vector<std::string> FilesWithoutDigests(const OpenedCheckpoint& opened) {
  const auto is_listed = [&opened](const std::string& path) {
    return std::any_of(opened.listed.begin(), opened.listed.end(),
                       [&path](const ListedFile& listed) { return listed.path == path; });
  };
  std::vector<std::string> names;
  for (const CheckpointFile& file : opened.files) {
    if (!file.has_checksums && !is_listed(file.path)) {
      names.push_back(file.name);
    }
  }
  for (const Asset& asset : opened.assets) {
    if (asset.size_bytes > 0 && asset.digests.digests.empty() && !is_listed(asset.path)) {
      names.push_back(asset.name);
    }
  }
  return names;
}

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
    const std::vector<ListedFile>& listed = checkpoint.opened.listed;
    if (!listed.empty()) {
      absl::StrAppend(&text, "  ", Count(static_cast<int64_t>(listed.size()), "file"), " as ",
                      QuotedPath(BaseName(listed[0].list_path)), " says (MD5)\n");
    }
    if (!report.unchecked.empty()) {
      absl::StrAppend(&text, "  nothing says what these should be, no digest and no list: ",
                      absl::StrJoin(report.unchecked, ", ",
                                    [](std::string* out, const std::string& name) { out->append(QuotedPath(name)); }),
                      "\n");
    }
  }
  absl::StrAppend(&text, ConversionsText(metadata));
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
    if (const std::string digest = DigestOf(report, file.name); !digest.empty()) {
      absl::StrAppend(&text, ", ", digest);
    }
    absl::StrAppend(&text, "\n");
  }
  absl::StrAppend(&text, AssetsText(report));
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
  if (report.verified) {
    json["without_digests"] = report.unchecked;
  }
  if (metadata.conversions_size() > 0) {
    json["conversions"] = ConversionsJson(metadata);
  }
  json["files"] = nlohmann::ordered_json::array();
  for (const InspectedFile& file : checkpoint.files) {
    nlohmann::ordered_json entry = {
        {"name", file.name}, {"bytes", file.size_bytes}, {"tensors", file.tensors}, {"metadata", file.metadata}};
    if (!file.problem.empty()) {
      entry["problem"] = file.problem;
    }
    if (const std::string digest = DigestOf(report, file.name); !digest.empty()) {
      entry["digest"] = digest;
    }
    json["files"].push_back(std::move(entry));
  }
  json["assets"] = AssetsJson(report);
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
