#ifndef CHECKPOINT_BASE_STATUS_MACROS_H_
#define CHECKPOINT_BASE_STATUS_MACROS_H_

// Propagation of absl::Status, for functions that return absl::Status or absl::StatusOr<T>.
//
//   WAYPOINT_RETURN_IF_ERROR(file->Sync());
//   WAYPOINT_ASSIGN_OR_RETURN(auto header, ReadHeader(*file));

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define WAYPOINT_CONCAT_INNER_(a, b) a##b
#define WAYPOINT_CONCAT_(a, b) WAYPOINT_CONCAT_INNER_(a, b)

#define WAYPOINT_RETURN_IF_ERROR(expr)                      \
  do {                                                      \
    if (::absl::Status waypoint_status_ = (expr); !waypoint_status_.ok()) { \
      return waypoint_status_;                              \
    }                                                       \
  } while (false)

#define WAYPOINT_ASSIGN_OR_RETURN(lhs, expr) \
  WAYPOINT_ASSIGN_OR_RETURN_IMPL_(WAYPOINT_CONCAT_(waypoint_statusor_, __LINE__), lhs, expr)

#define WAYPOINT_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                                    \
  if (!statusor.ok()) {                                      \
    return std::move(statusor).status();                     \
  }                                                          \
  lhs = std::move(statusor).value()

#endif  // CHECKPOINT_BASE_STATUS_MACROS_H_
