#include "checkpoint/convert/config/field_path.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/convert/config/test_config.pb.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;
using testing::Scalars;

FieldPath Path(absl::string_view text) { return FieldPath::Resolve(*Scalars::descriptor(), text).value(); }

TEST(FieldPathTest, UnknownFieldIsNamed) {
  const absl::Status status = FieldPath::Resolve(*Scalars::descriptor(), "inner.no_such").status();

  EXPECT_THAT(std::string(status.message()), HasSubstr("Leaf has no field \"no_such\""));
}

TEST(FieldPathTest, WriteMakesMessagesAndOneofMembersOnTheWay) {
  Scalars message;

  EXPECT_OK(Path("inner.size").Write(3, &message));
  EXPECT_OK(Path("second.width").Write(4, &message));

  EXPECT_EQ(message.inner().size(), 3);
  EXPECT_EQ(message.second().width(), 4);
}

TEST(FieldPathTest, WriteDoesNotSwitchAOneof) {
  Scalars message;
  message.mutable_first();

  EXPECT_EQ(Path("second.width").Write(4, &message).code(), absl::StatusCode::kInternal);
}

TEST(FieldPathTest, IntegersAreStrict) {
  Scalars message;
  for (const char* text : {"8192.0", "true", "\"8192\"", "null", "[1]", "{}", "9223372036854775808"}) {
    EXPECT_THAT(Path("size").Write(Json::parse(text), &message),
                IsKind(ErrorKind::kConfig, HasSubstr("wanted an integer")))
        << text;
  }
  EXPECT_OK(Path("size").Write(Json::parse("9223372036854775807"), &message));
  EXPECT_EQ(message.size(), std::numeric_limits<int64_t>::max());
  EXPECT_THAT(Path("small").Write(Json::parse("2147483648"), &message),
              IsKind(ErrorKind::kConfig, HasSubstr("2147483647")));
}

TEST(FieldPathTest, FloatsTakeIntegersAndNothingElse) {
  Scalars message;

  EXPECT_OK(Path("rate").Write(10000, &message));
  EXPECT_EQ(message.rate(), 10000.0);
  for (const char* text : {"true", "\"1e-5\"", "null", "[]"}) {
    EXPECT_THAT(Path("rate").Write(Json::parse(text), &message), IsKind(ErrorKind::kConfig)) << text;
  }
}

TEST(FieldPathTest, BoolsStringsAndEnumsAreStrict) {
  Scalars message;

  EXPECT_THAT(Path("flag").Write(1, &message), IsKind(ErrorKind::kConfig, HasSubstr("true or false")));
  EXPECT_THAT(Path("name").Write(1, &message), IsKind(ErrorKind::kConfig, HasSubstr("a string")));
  EXPECT_THAT(Path("color").Write("GREEN", &message), IsKind(ErrorKind::kConfig, HasSubstr("RED, BLUE")));
  EXPECT_OK(Path("color").Write("BLUE", &message));
  EXPECT_EQ(Path("color").Read(message), "BLUE");
}

TEST(FieldPathTest, ReadTellsUnsetFromZeroWhereTheFieldDoes) {
  Scalars message;
  EXPECT_TRUE(Path("window").Read(message).is_null());
  EXPECT_EQ(Path("size").Read(message), 0);
  EXPECT_TRUE(Path("inner").Read(message).is_null());
  EXPECT_TRUE(Path("sizes").Read(message).is_null());

  message.set_window(0);
  message.mutable_inner();
  message.add_sizes(7);

  EXPECT_EQ(Path("window").Read(message), 0);
  EXPECT_FALSE(Path("inner").Read(message).is_null());
  EXPECT_EQ(Path("sizes").Read(message), Json::array({7}));
}

TEST(FieldPathTest, EqualComparesPresence) {
  Scalars a;
  Scalars b;
  EXPECT_TRUE(Path("window").Equal(a, b));

  b.set_window(0);

  EXPECT_FALSE(Path("window").Equal(a, b));
  EXPECT_TRUE(Path("inner").Equal(a, b));
}

}  // namespace
}  // namespace waypoint
