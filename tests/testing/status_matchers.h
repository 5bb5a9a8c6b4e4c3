#ifndef TESTS_TESTING_STATUS_MATCHERS_H_
#define TESTS_TESTING_STATUS_MATCHERS_H_

// gtest over absl::Status and absl::StatusOr.
//
//   ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ReadSafetensorsHeader(*file, {}));
//   EXPECT_OK(file->Sync());
//   EXPECT_THAT(ParseJson("{", "\"a\"", {}), IsKind(ErrorKind::kJson));
//   EXPECT_THAT(status, IsKind(ErrorKind::kPath, HasSubstr("\"../x\"")));

#include <ostream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace status_matchers {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& value) {
  return value.status();
}

inline std::string Describe(const absl::Status& status) {
  return status.ok() ? "OK" : absl::StrCat(ErrorKindName(GetErrorKind(status)), " ", status.ToString());
}

}  // namespace status_matchers

// A Status or StatusOr that is OK.
MATCHER(IsOk, negation ? "is an error" : "is OK") {
  const absl::Status& status = status_matchers::StatusOf(arg);
  *result_listener << "which is " << status_matchers::Describe(status);
  return status.ok();
}

// An error of that kind.
MATCHER_P(IsKind, kind, absl::StrCat(negation ? "is not " : "is ", std::string(ErrorKindName(kind)))) {
  const absl::Status& status = status_matchers::StatusOf(arg);
  *result_listener << "which is " << status_matchers::Describe(status);
  return !status.ok() && GetErrorKind(status) == kind;
}

// An error of that kind whose message matches.
MATCHER_P2(IsKind, kind, message,
           absl::StrCat(negation ? "is not " : "is ", std::string(ErrorKindName(kind)), " with a message that ",
                        ::testing::DescribeMatcher<std::string>(message))) {
  const absl::Status& status = status_matchers::StatusOf(arg);
  *result_listener << "which is " << status_matchers::Describe(status);
  return !status.ok() && GetErrorKind(status) == kind && ::testing::Matches(message)(std::string(status.message()));
}

}  // namespace waypoint

#define EXPECT_OK(expr) EXPECT_THAT((expr), ::waypoint::IsOk())
#define ASSERT_OK(expr) ASSERT_THAT((expr), ::waypoint::IsOk())

#define WAYPOINT_TEST_CONCAT_INNER_(a, b) a##b
#define WAYPOINT_TEST_CONCAT_(a, b) WAYPOINT_TEST_CONCAT_INNER_(a, b)
#define ASSERT_OK_AND_ASSIGN(lhs, expr) \
  ASSERT_OK_AND_ASSIGN_IMPL_(WAYPOINT_TEST_CONCAT_(waypoint_test_statusor_, __LINE__), lhs, expr)
#define ASSERT_OK_AND_ASSIGN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                               \
  ASSERT_OK(statusor);                                  \
  lhs = std::move(statusor).value()

#endif  // TESTS_TESTING_STATUS_MATCHERS_H_
