#include "checkpoint/base/catch_allocation.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace waypoint {
namespace {

// Made while there is memory, and never destroyed: copies only count references.
const absl::Status* const plain =
    new absl::Status(MakeError(ErrorKind::kNoMemory, "no memory, not even to say for what; free or allow more"));

// "12345" of "you tried to allocate 12345 bytes"; empty if it says nothing like it.
absl::string_view WantedBytes(absl::string_view message) {
  constexpr absl::string_view kBefore = "tried to allocate ";
  const size_t found = message.find(kBefore);
  if (found == absl::string_view::npos) {
    return "";
  }
  const absl::string_view rest = message.substr(found + kBefore.size());
  return rest.substr(0, rest.find_first_not_of("0123456789"));
}

}  // namespace

bool IsOutOfMemory(const std::exception& e) {
  if (dynamic_cast<const std::bad_alloc*>(&e) != nullptr || dynamic_cast<const std::length_error*>(&e) != nullptr) {
    return true;
  }
  const absl::string_view message = e.what();
  return absl::StrContains(message, "not enough memory") || absl::StrContains(message, "can't allocate memory") ||
         absl::StrContains(message, "Cannot allocate memory") || absl::StrContains(message, "out of memory");
}

absl::Status OutOfMemoryError(const std::exception& e, absl::string_view what, absl::string_view remedy) noexcept {
  try {
    if (const auto* const known = dynamic_cast<const AllocationError*>(&e); known != nullptr) {
      return NoMemoryError(known->bytes(), absl::StrCat(what, ": ", known->what()), remedy);
    }
    const absl::string_view bytes = WantedBytes(e.what());
    return MakeError(ErrorKind::kNoMemory, absl::StrCat("no memory for ", what, bytes.empty() ? "" : " (", bytes,
                                                        bytes.empty() ? "" : " bytes)", "; ", remedy));
  } catch (const std::bad_alloc&) {
    return *plain;
  }
}

absl::Status ThrownError(const std::exception& e, ErrorKind kind, absl::string_view context, absl::string_view remedy) {
  if (IsOutOfMemory(e)) {
    return OutOfMemoryError(e, context, remedy);
  }
  const absl::string_view text = e.what();
  return MakeError(kind, absl::StrCat(context, ": ", text.substr(0, text.find('\n'))));
}

}  // namespace waypoint
