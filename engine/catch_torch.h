#ifndef ENGINE_CATCH_TORCH_H_
#define ENGINE_CATCH_TORCH_H_

// libtorch throws; nothing of ours does.
//
//   WAYPOINT_RETURN_IF_ERROR(CatchTorch("backward", [&] { loss.backward(); return absl::OkStatus(); }));
//
// Thread-safe.

#include <exception>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace waypoint::engine {

// What `body` returns, or what it threw as an error: ResourceExhausted for memory, else Internal.
template <typename Body>
absl::Status CatchTorch(absl::string_view what, Body&& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace waypoint::engine

#endif  // ENGINE_CATCH_TORCH_H_
