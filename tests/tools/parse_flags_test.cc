#include "tools/parse_flags.h"

#include <sstream>
#include <vector>

#include "CLI/CLI.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ParseFlagsTest : public ::testing::Test {
 protected:
  absl::optional<ExitCode> Parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    CLI::App app("What it does.", "program");
    bool json = false;
    app.add_option("PATH", path_)->required();
    app.add_flag("--json", json);
    return ParseFlags(app, static_cast<int>(arguments.size()), arguments.data(), out_, err_);
  }

  std::string path_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(ParseFlagsTest, AGoodLineGoesOn) {
  EXPECT_FALSE(Parse({"here", "--json"}).has_value());
  EXPECT_EQ(path_, "here");
}

TEST_F(ParseFlagsTest, HelpGoesToOut) {
  EXPECT_EQ(Parse({"--help"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("What it does."));
  EXPECT_EQ(err_.str(), "");
}

TEST_F(ParseFlagsTest, AnErrorBeginsWithItsKind) {
  EXPECT_EQ(Parse({}), kExitRequest);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("error: E_REQUEST: PATH is required"), HasSubstr("--help")));
  EXPECT_EQ(out_.str(), "");
}

TEST_F(ParseFlagsTest, AnErrorIsJsonForScripts) {
  EXPECT_EQ(Parse({"--json", "here", "there"}), kExitRequest);
  EXPECT_THAT(out_.str(), HasSubstr("\"kind\": \"E_REQUEST\""));
}

// CLI11 itself would say that PATH is required.
TEST_F(ParseFlagsTest, AnUnknownFlagIsNamedBeforeWhatIsMissing) {
  EXPECT_EQ(Parse({"--json", "--bogus"}), kExitRequest);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("--bogus"), Not(HasSubstr("is required"))));
}

}  // namespace
}  // namespace waypoint
