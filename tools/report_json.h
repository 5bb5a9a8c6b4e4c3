#ifndef TOOLS_REPORT_JSON_H_
#define TOOLS_REPORT_JSON_H_

// How every tool writes JSON.  Does not link libtorch.  Thread-safe.

#include <string>

#include "nlohmann/json.hpp"

namespace waypoint {

// Of the same value as `report`, but that bytes which are no UTF-8, as paths may hold, are replaced.  What a terminal
// would obey is escaped, also where JSON would not ask for it.  With an indent of -1 one line; no new line at the end.
std::string ReportJsonText(const nlohmann::ordered_json& report, int indent = 2);

}  // namespace waypoint

#endif  // TOOLS_REPORT_JSON_H_
