#ifndef CHECKPOINT_BASE_VISIBLE_TEXT_H_
#define CHECKPOINT_BASE_VISIBLE_TEXT_H_

// Text of unknown origin, made fit for a terminal, a log and a report.
//
// A name from a file may hold what a terminal obeys (ESC sequences), what ends a line (so that a second one seems to be
// ours), or what turns the order of its neighbours around (marks of direction).  MakeError (error.h) shows every
// message this way, so that no error has to think of it; whatever else is printed (notes, plans, reports) is passed
// through here where it is printed.  Thread-safe.

#include <string>

#include "absl/strings/string_view.h"

namespace waypoint {

enum class NewLines {
  kEscaped,   // the text is one line
  kIndented,  // kept before two spaces, as MakeListError makes them: no line can begin like one of ours
  kKept,      // the text is ours, line by line
};

// `text` with all that a terminal does not show as it is escaped as JSON does (\n, \u001b, \u202e): controls, marks of
// direction, separators of lines, characters without width; bytes that are not UTF-8 as \x9b.  Backslashes and quotes
// stay, so a text that went through once stays as it is, and JSON stays JSON of the same value.
std::string VisibleText(absl::string_view text, NewLines new_lines = NewLines::kEscaped);

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_VISIBLE_TEXT_H_
