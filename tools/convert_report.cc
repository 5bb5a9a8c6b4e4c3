#include "tools/convert_report.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/visible_text.h"
#include "nlohmann/json.hpp"
#include "tools/command_line.h"
#include "tools/report_json.h"

namespace waypoint {
namespace {

const char* VerifyName(VerifyMode mode) {
  switch (mode) {
    case VerifyMode::kNone:
      return "none";
    case VerifyMode::kDigest:
      return "digest";
    case VerifyMode::kLogits:
      return "logits";
  }
  return "";
}

const char* VerifySentence(VerifyMode mode) {
  switch (mode) {
    case VerifyMode::kNone:
      return "not verified";
    case VerifyMode::kDigest:
      return "read back and equal to the source";
    case VerifyMode::kLogits:
      return "read back and equal to the source, logits too";
  }
  return "";
}

}  // namespace

double ConvertReport::bytes_per_second() const {
  const double seconds = absl::ToDoubleSeconds(duration);
  return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
}

std::string ReportText(const ConvertReport& report) {
  std::string text = absl::StrCat(report.dry_run ? "would convert " : "converted ", QuotedPath(report.source), " (",
                                  report.from, ") to ", QuotedPath(report.target), " (", report.to, ")\n  ",
                                  Count(report.tensors, "tensor"), ", ", HumanBytes(static_cast<double>(report.bytes)));
  if (report.dry_run) {
    absl::StrAppend(&text, "; nothing was written\n");
  } else {
    absl::StrAppend(&text, " in ", HumanDuration(report.duration), " (", HumanBytes(report.bytes_per_second()), "/s), ",
                    HumanMemory(report.peak_memory_growth_bytes), " of memory at most\n  ",
                    VerifySentence(report.verify));
    if (report.verify != VerifyMode::kNone) {
      absl::StrAppend(&text, " (", HumanDuration(report.verify_duration), ")");
    }
    absl::StrAppend(&text, "\n");
  }
  for (const std::string& note : report.notes) {
    absl::StrAppend(&text, "  note: ", VisibleText(note), "\n");
  }
  return text;
}

std::string ReportJson(const ConvertReport& report) {
  nlohmann::ordered_json json;
  json["source"] = report.source;
  json["target"] = report.target;
  json["from"] = report.from;
  json["to"] = report.to;
  json["dry_run"] = report.dry_run;
  json["published"] = !report.dry_run;
  json["tensors"] = report.tensors;
  json["bytes"] = report.bytes;
  json["seconds"] = absl::ToDoubleSeconds(report.duration);
  json["bytes_per_second"] = report.bytes_per_second();
  json["peak_memory_growth_bytes"] = report.peak_memory_growth_bytes;
  json["peak_bytes_in_flight"] = report.peak_bytes_in_flight;
  json["verify"] = VerifyName(report.verify);
  json["verify_seconds"] = absl::ToDoubleSeconds(report.verify_duration);
  json["notes"] = report.notes;
  if (report.has_plan) {
    json["plan"] = report.plan;
  }
  return ReportJsonText(json) + "\n";
}

}  // namespace waypoint
