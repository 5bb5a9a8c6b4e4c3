#include "tools/report_json.h"

#include "checkpoint/base/visible_text.h"

namespace waypoint {

std::string ReportJsonText(const nlohmann::ordered_json& report, int indent) {
  return VisibleText(report.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace),
                     NewLines::kKept);
}

}  // namespace waypoint
