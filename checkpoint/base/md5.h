#ifndef CHECKPOINT_BASE_MD5_H_
#define CHECKPOINT_BASE_MD5_H_

// MD5, for lists of checksums that others made with it.  It finds accidents; nobody should trust it with more.
//
//   WAYPOINT_ASSIGN_OR_RETURN(Md5 md5, Md5::Create());
//   for (...) WAYPOINT_RETURN_IF_ERROR(md5.Update(bytes));
//   WAYPOINT_ASSIGN_OR_RETURN(const std::string hex, md5.Hex());
//
// One thread.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace waypoint {

class Md5 {
 public:
  // Errors: E_NO_MEMORY; E_UNSUPPORTED where this machine's OpenSSL refuses MD5, as in FIPS mode.
  static absl::StatusOr<Md5> Create();
  ~Md5();
  Md5(Md5&&) noexcept;
  Md5& operator=(Md5&&) noexcept;

  absl::Status Update(absl::Span<const char> bytes);
  // 32 lower-case hexadecimal digits; nothing may follow.
  absl::StatusOr<std::string> Hex();

 private:
  struct State;
  explicit Md5(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_MD5_H_
