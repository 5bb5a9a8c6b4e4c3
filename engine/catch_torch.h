#ifndef ENGINE_CATCH_TORCH_H_
#define ENGINE_CATCH_TORCH_H_

// libtorch throws; nothing of ours does.
//
//   WAYPOINT_RETURN_IF_ERROR(CatchTorch("backward", [&] { loss.backward(); return absl::OkStatus(); }));
//
// Thread-safe.

#include <exception>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/catch_allocation.h"

namespace waypoint::engine {

// What `body` returns, an absl::Status or absl::StatusOr, or what it threw as an error: E_NO_MEMORY for memory, else
// Internal.
template <typename Body>
auto CatchTorch(absl::string_view what, Body&& body) -> std::decay_t<decltype(body())> {
  try {
    return body();
  } catch (const std::exception& error) {
    if (IsOutOfMemory(error)) {
      return OutOfMemoryError(error, what, "lower data.batch_size, data.sequence_length or threads, or use more ranks");
    }
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace waypoint::engine

#endif  // ENGINE_CATCH_TORCH_H_
