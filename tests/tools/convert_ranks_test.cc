// convert as several processes: the same output as one, and all fail together.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "checkpoint/storage/file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"
#include "tools/command_line.h"
#include "tools/convert_command.h"

namespace waypoint {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int exit_code = -1;  // -1: killed
  std::string out;
  std::string err;
};

class ConvertRanksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"source", "run"}) {
      directory_.MakeDirectory(name);
    }
    // A copy, since a test sees its data as links, which lead out of the directory.  Of a model that all formats hold.
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
      const std::string from = absl::StrCat("tests/testdata/fixtures/meta_llama31_bf16_mp2/hf/", name);
      directory_.Write(absl::StrCat("source/", name),
                       ReadSmallFile(PosixFileSystem(), from, 1 << 26, "test_bytes").value());
    }
  }

  std::string Path(const std::string& name) const { return directory_.Path(name); }

  // Starts a process that converts as one rank; `interrupted` is called between blocks, and in waits for other ranks.
  pid_t Start(
      int rank, int world_size, const std::vector<std::string>& arguments, const std::string& log, int port = 1,
      const std::function<bool()>& interrupted = [] { return false; }) {
    const pid_t child = fork();
    if (child != 0) {
      return child;
    }
    setenv("RANK", absl::StrCat(rank).c_str(), 1);
    setenv("WORLD_SIZE", absl::StrCat(world_size).c_str(), 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv("MASTER_PORT", absl::StrCat(port).c_str(), 1);
    std::vector<const char*> argv = {"convert"};
    if (std::find(arguments.begin(), arguments.end(), "--ranks") == arguments.end()) {
      argv.insert(argv.end(), {"--ranks", "env"});
    }
    for (const std::string& argument : arguments) {
      argv.push_back(argument.c_str());
    }
    int code = 0;
    {
      std::ofstream out(Path(log + ".out"));
      std::ofstream err(Path(log + ".err"));
      ConvertEnvironment environment{PosixFileSystem(), out, err, false, ""};
      environment.interrupted = interrupted;
      code = ConvertMain(static_cast<int>(argv.size()), argv.data(), environment);
    }
    _exit(code);
  }

  Outcome Wait(pid_t child, const std::string& log) {
    int status = 0;
    waitpid(child, &status, 0);
    Outcome outcome;
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    outcome.out = ReadSmallFile(PosixFileSystem(), Path(log + ".out"), 1 << 20, "test_bytes").value_or("");
    outcome.err = ReadSmallFile(PosixFileSystem(), Path(log + ".err"), 1 << 20, "test_bytes").value_or("");
    return outcome;
  }

  std::vector<Outcome> Run(
      int world_size, const std::vector<std::string>& arguments, int peculiar = -1,
      const std::function<bool()>& interrupted = [] { return false; }) {
    std::vector<pid_t> children;
    for (int rank = 0; rank < world_size; ++rank) {
      children.push_back(rank == peculiar ? Start(rank, world_size, arguments, Log(rank), 1, interrupted)
                                          : Start(rank, world_size, arguments, Log(rank)));
    }
    std::vector<Outcome> outcomes(world_size);
    for (int rank = 0; rank < world_size; ++rank) {
      if (rank != peculiar) {
        outcomes[rank] = Wait(children[rank], Log(rank));
      }
    }
    if (peculiar >= 0) {
      kill(children[peculiar], SIGKILL);  // it may be stopped
      outcomes[peculiar] = Wait(children[peculiar], Log(peculiar));
    }
    return outcomes;
  }
  static int CountOf(absl::string_view word, absl::string_view text) {
    return static_cast<int>(std::vector<std::string>(absl::StrSplit(text, word)).size()) - 1;
  }
  static std::string Log(int rank) { return absl::StrCat("run/rank", rank); }

  // The ranks have met: "out" is being made.
  bool IsWriting() {
    for (const std::string& name : Others("out")) {
      if (absl::StartsWith(name, ".out.tmp-")) {
        return true;
      }
    }
    return false;
  }

  // Beside source, run and what was asked for: nothing.
  std::vector<std::string> Others(const std::string& target) {
    std::vector<std::string> names;
    const std::vector<DirectoryEntry> entries = PosixFileSystem().List(Path("")).value();
    for (const DirectoryEntry& entry : entries) {
      if (entry.name != "source" && entry.name != "run" && entry.name != target) {
        names.push_back(entry.name);
      }
    }
    return names;
  }

  const TempDirectory directory_;
};

TEST_F(ConvertRanksTest, AnyNumberOfRanksWritesTheSameDirectory) {
  using Flags = std::vector<std::string>;
  for (const Flags& target :
       {Flags{"--to", "native", "--max-shard-size", "50KB"}, Flags{"--to", "llama", "--max-shard-size", "50KB"},
        Flags{"--to", "llama", "--weights", "bin", "--max-shard-size", "50KB"},
        Flags{"--to", "reference", "--model-parallel", "1"}, Flags{"--to", "reference", "--model-parallel", "2"},
        Flags{"--to", "fairseq2", "--model-parallel", "2"}}) {
    Flags flags = target;
    flags.insert(flags.end(), {"--dtype", "float32"});
    SCOPED_TRACE(absl::StrJoin(flags, " "));
    std::vector<DirectoryContents> written;
    for (const int world_size : {1, 2, 3}) {
      std::vector<std::string> arguments = {Path("source"), Path("out")};
      arguments.insert(arguments.end(), flags.begin(), flags.end());

      const std::vector<Outcome> outcomes = Run(world_size, arguments);

      for (int rank = 0; rank < world_size; ++rank) {
        EXPECT_EQ(outcomes[rank].exit_code, 0) << outcomes[rank].err;
        EXPECT_EQ(outcomes[rank].out.empty(), rank != 0);
      }
      written.push_back(ReadContents(PosixFileSystem(), Path("out")));
      EXPECT_GE(written.back().size(), 3u);
      EXPECT_TRUE(written.back() == written.front()) << "by " << world_size;
      EXPECT_THAT(Others("out"), ::testing::IsEmpty());
      ASSERT_OK(RemoveTree(PosixFileSystem(), Path("out")));
    }
  }
}

// The last weight becomes 1e6, which float16 cannot hold: the rank that writes it finds out, all exit alike.
TEST_F(ConvertRanksTest, BadInputThatOneRankFindsIsBadInputForAll) {
  std::string weights =
      ReadSmallFile(PosixFileSystem(), Path("source/model.safetensors"), 1 << 26, "test_bytes").value();
  weights.replace(weights.size() - 2, 2, "\x74\x49");
  directory_.Write("source/model.safetensors", weights);

  const std::vector<Outcome> outcomes =
      Run(2, {Path("source"), Path("out"), "--to", "llama", "--dtype", "float16", "--max-shard-size", "50KB"});

  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.exit_code, 3);
  }
  EXPECT_THAT(outcomes[1].err, HasSubstr("E_DTYPE: tensor"));
  EXPECT_EQ(outcomes[0].err, "");
  EXPECT_FALSE(Exists(PosixFileSystem(), Path("out")).value());
}

TEST_F(ConvertRanksTest, TheDeathOfARankFailsAllOthersAndPublishesNothing) {
  // Rank 0 at last, which leaves what it staged.
  for (int dying = 2; dying >= 0; --dying) {
    const absl::Time start = absl::Now();

    const std::vector<Outcome> outcomes = Run(3, {Path("source"), Path("out"), "--max-shard-size", "50KB"}, dying,
                                              [this] { return IsWriting() && kill(getpid(), SIGKILL) == 0; });

    EXPECT_LT(absl::Now() - start, absl::Seconds(60));
    EXPECT_EQ(outcomes[dying].exit_code, -1);
    std::string errors;
    for (int rank = 0; rank < 3; ++rank) {
      if (rank != dying) {
        EXPECT_GT(outcomes[rank].exit_code, 0);
        errors += outcomes[rank].err;
      }
    }
    EXPECT_THAT(errors, HasSubstr(absl::StrCat("rank ", dying, " died")));
    EXPECT_EQ(CountOf("error: ", errors), 1) << errors;
    EXPECT_FALSE(Exists(PosixFileSystem(), Path("out")).value());
  }
  // What the dead left is in nobody's way, and is gone afterwards.
  const std::vector<Outcome> outcomes = Run(2, {Path("source"), Path("out")});
  EXPECT_EQ(outcomes[0].exit_code, 0) << outcomes[0].err;
  EXPECT_THAT(Others("out"), ::testing::IsEmpty());
}

TEST_F(ConvertRanksTest, RanksThatWaitForRank0HearOfItsDeath) {
  const std::vector<Outcome> outcomes = Run(3, {Path("source"), Path("out"), "--to", "reference"}, 0,
                                            [this] { return IsWriting() && kill(getpid(), SIGKILL) == 0; });

  EXPECT_EQ(outcomes[0].exit_code, -1);
  EXPECT_GT(outcomes[1].exit_code, 0);
  EXPECT_GT(outcomes[2].exit_code, 0);
  EXPECT_THAT(outcomes[1].err + outcomes[2].err, HasSubstr("rank 0 died"));
  EXPECT_FALSE(Exists(PosixFileSystem(), Path("out")).value());
}

TEST_F(ConvertRanksTest, AStalledRankIsNamedInTime) {
  const std::vector<Outcome> outcomes = Run(2, {Path("source"), Path("out"), "--rank-timeout", "2s"}, 1,
                                            [this] { return IsWriting() && kill(getpid(), SIGSTOP) == 0; });

  EXPECT_GT(outcomes[0].exit_code, 0);
  EXPECT_THAT(outcomes[0].err, HasSubstr("rank 1 did not come"));
  EXPECT_FALSE(Exists(PosixFileSystem(), Path("out")).value());
}

TEST_F(ConvertRanksTest, AnInterruptedRankStopsAll) {
  const std::vector<Outcome> outcomes = Run(2, {Path("source"), Path("out")}, 1, [this] { return IsWriting(); });

  EXPECT_GT(outcomes[0].exit_code, 0);
  EXPECT_GT(outcomes[1].exit_code, 0);
  EXPECT_THAT(outcomes[0].err + outcomes[1].err, HasSubstr("interrupted"));
  EXPECT_FALSE(Exists(PosixFileSystem(), Path("out")).value());
}

TEST_F(ConvertRanksTest, ARankThatIsNeverStartedIsNamed) {
  const pid_t child = Start(0, 2, {Path("source"), Path("out"), "--rank-timeout", "1s"}, "run/alone");

  const Outcome outcome = Wait(child, "run/alone");

  EXPECT_GT(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("rank 1 did not come"));
  EXPECT_THAT(Others(""), ::testing::IsEmpty());
}

TEST_F(ConvertRanksTest, ABadSourceIsRefusedByAllRanks) {
  directory_.Write("source/config.json", "{}");

  std::string out;
  std::string err;
  for (const Outcome& outcome : Run(3, {Path("source"), Path("out"), "--from", "llama", "--json"})) {
    EXPECT_GT(outcome.exit_code, 0);
    out += outcome.out;
    err += outcome.err;
  }
  EXPECT_THAT(err, HasSubstr("config.json"));
  EXPECT_EQ(CountOf("error: ", err), 1) << err;
  EXPECT_EQ(CountOf("exit_code", out), 1) << out;
  EXPECT_THAT(Others(""), ::testing::IsEmpty());
}

TEST_F(ConvertRanksTest, WhatIsWrongBeforeRanksMeetIsSaidOnceToo) {
  std::string err;
  for (const Outcome& outcome : Run(3, {Path("absent"), Path("out")})) {
    EXPECT_EQ(outcome.exit_code, 5);
    err += outcome.err;
  }
  EXPECT_EQ(CountOf("error: ", err), 1) << err;
  EXPECT_THAT(Others(""), ::testing::IsEmpty());
}

// Left in a shell by something else, the variables must not make a conversion wait for nobody.
TEST_F(ConvertRanksTest, VariablesThatNobodyAskedToHeedAreNamedAndNotHeeded) {
  const pid_t child = Start(0, 2, {Path("source"), Path("out"), "--ranks", "one"}, "run/alone");

  const Outcome outcome = Wait(child, "run/alone");

  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("note: the environment says RANK=0, WORLD_SIZE=2, but not --ranks env"));
  EXPECT_TRUE(Exists(PosixFileSystem(), Path("out")).value());
}

TEST_F(ConvertRanksTest, ARankThatWaitsSaysForWhomAndEndsWithASignal) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    for (const int rank : {0, 1}) {
      SCOPED_TRACE(absl::StrCat("signal ", signal, ", rank ", rank));
      const pid_t child = Start(rank, 3, {Path("source"), Path("out")}, "run/waits", 1, [] {
        static const bool caught = (CatchInterrupts(), true);
        return caught && Interrupted();
      });
      const std::string awaited = rank == 0 ? "waiting for rank 1, 2 to come" : "waiting for rank 0 to start";
      while (!absl::StrContains(ReadSmallFile(PosixFileSystem(), Path("run/waits.err"), 1 << 20, "test").value_or(""),
                                awaited)) {
        absl::SleepFor(absl::Milliseconds(20));
      }

      const absl::Time sent = absl::Now();
      kill(child, signal);
      const Outcome outcome = Wait(child, "run/waits");

      EXPECT_LT(absl::Now() - sent, absl::Seconds(30));  // and not the five minutes that others may take to come
      EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
      EXPECT_THAT(outcome.err, HasSubstr("error: interrupted: interrupted while waiting for rank"));
      EXPECT_THAT(Others(""), ::testing::IsEmpty());
      EXPECT_FALSE(Exists(PosixFileSystem(), Path("out")).value());
    }
  }
}

TEST_F(ConvertRanksTest, ADryRunIsRank0sAlone) {
  const std::vector<Outcome> outcomes = Run(2, {Path("source"), Path("out"), "--dry-run"});

  EXPECT_EQ(outcomes[0].exit_code, 0);
  EXPECT_EQ(outcomes[1].exit_code, 0);
  EXPECT_THAT(outcomes[0].out, Not(HasSubstr("error")));
  EXPECT_EQ(outcomes[1].out, "");
  EXPECT_THAT(Others(""), ::testing::IsEmpty());
}

TEST_F(ConvertRanksTest, OfTwoJobsWithOneTargetOneWinsWhole) {
  const std::vector<std::string> arguments = {Path("source"), Path("out")};
  std::vector<pid_t> children;
  for (int job = 0; job < 2; ++job) {
    for (int rank = 0; rank < 2; ++rank) {
      children.push_back(Start(rank, 2, arguments, absl::StrCat("run/", job, "-", rank), 100 + job));
    }
  }
  std::vector<int> codes;
  std::string errors;
  for (int i = 0; i < 4; ++i) {
    const Outcome outcome = Wait(children[i], absl::StrCat("run/", i / 2, "-", i % 2));
    codes.push_back(outcome.exit_code);
    errors += outcome.err;
  }

  EXPECT_EQ((codes[0] == 0) + (codes[2] == 0), 1) << errors;
  EXPECT_EQ(codes[0] == 0, codes[1] == 0) << errors;
  EXPECT_EQ(codes[2] == 0, codes[3] == 0) << errors;
  EXPECT_THAT(errors, AnyOf(HasSubstr("E_LOCKED"), HasSubstr("E_EXISTS")));
  const DirectoryContents contents = ReadContents(PosixFileSystem(), Path("out"));
  ASSERT_OK(RemoveTree(PosixFileSystem(), Path("out")));
  EXPECT_EQ(Run(1, arguments)[0].exit_code, 0);
  EXPECT_TRUE(contents == ReadContents(PosixFileSystem(), Path("out")));
}

}  // namespace
}  // namespace waypoint
