#include "checkpoint/coordination/c10d/c10d_coordinator.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/checkpoint/coordination/conformance.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::unique_ptr<Coordinator>> NewC10dCoordinators(int world_size) {
  C10dOptions options;
  options.world_size = world_size;
  options.connect_timeout = absl::Seconds(10);
  options.linger = absl::Seconds(2);
  std::vector<std::unique_ptr<Coordinator>> ranks;
  for (options.rank = 0; options.rank < world_size; ++options.rank) {
    auto rank = C10dCoordinator::Create(options);
    EXPECT_OK(rank);
    options.port = (*rank)->port();
    ranks.push_back(*std::move(rank));
  }
  return ranks;
}

INSTANTIATE_TEST_SUITE_P(C10d, CoordinatorConformanceTest, ::testing::Values(NewC10dCoordinators));

class Environment {
 public:
  Environment(const char* rank, const char* world_size, const char* address, const char* port) {
    Set("RANK", rank);
    Set("WORLD_SIZE", world_size);
    Set("MASTER_ADDR", address);
    Set("MASTER_PORT", port);
  }
  ~Environment() {
    for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
      unsetenv(name);
    }
  }

 private:
  static void Set(const char* name, const char* value) { value == nullptr ? unsetenv(name) : setenv(name, value, 1); }
};

TEST(C10dOptionsTest, ComeFromTheLaunchersVariables) {
  const Environment environment("2", "4", "127.0.0.1", "29511");

  ASSERT_OK_AND_ASSIGN(const C10dOptions options, C10dOptionsFromEnvironment());

  EXPECT_EQ(options.rank, 2);
  EXPECT_EQ(options.world_size, 4);
  EXPECT_EQ(options.host, "127.0.0.1");
  EXPECT_EQ(options.port, 29511);
}

TEST(C10dOptionsTest, WithoutALauncherThereIsOneRank) {
  const Environment environment(nullptr, nullptr, nullptr, nullptr);

  ASSERT_OK_AND_ASSIGN(const C10dOptions options, C10dOptionsFromEnvironment());

  EXPECT_EQ(options.world_size, 1);
}

TEST(C10dOptionsTest, WhatIsMissingOrNoNumberIsNamed) {
  {
    const Environment environment("0", "2", "127.0.0.1", nullptr);
    EXPECT_THAT(C10dOptionsFromEnvironment(), IsKind(ErrorKind::kRequest, HasSubstr("MASTER_PORT")));
  }
  {
    const Environment environment("0", "two", "127.0.0.1", "1");
    EXPECT_THAT(C10dOptionsFromEnvironment(), IsKind(ErrorKind::kRequest, HasSubstr("WORLD_SIZE")));
  }
}

TEST(C10dCoordinatorTest, ARankOutsideOfTheJobIsRefused) {
  C10dOptions options;
  options.rank = 2;
  options.world_size = 2;

  EXPECT_THAT(C10dCoordinator::Create(options), IsKind(ErrorKind::kRequest));
}

TEST(C10dCoordinatorTest, AStoreThatNobodyServesIsAnErrorOfThisRank) {
  C10dOptions options;
  options.rank = 1;
  options.world_size = 2;
  options.port = 1;
  options.connect_timeout = absl::Seconds(1);

  EXPECT_THAT(C10dCoordinator::Create(options), IsKind(ErrorKind::kRank, HasSubstr("127.0.0.1:1")));
}

// Local addresses of sockets that listen at the ports of this process, as the kernel writes them.
std::vector<std::string> ListeningAddresses() {
  std::set<std::string> own;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    own.insert(std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  std::vector<std::string> addresses;
  for (const char* table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    for (std::string line; std::getline(file, line);) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
      constexpr char kListens[] = "0A";
      if (words.size() > 9 && words[3] == kListens && own.count(absl::StrCat("socket:[", words[9], "]")) > 0) {
        addresses.push_back(words[1].substr(0, words[1].find(':')));
      }
    }
  }
  return addresses;
}

TEST(C10dCoordinatorTest, Rank0ListensWhereItWasToldAndNowhereElse) {
  const std::string loopback = "0100007F";
  const std::string mapped = "0000000000000000FFFF00000100007F";
  for (const char* host : {"127.0.0.1", "localhost"}) {
    C10dOptions options;
    options.host = host;
    options.world_size = 2;
    options.linger = absl::ZeroDuration();

    ASSERT_OK_AND_ASSIGN(const auto serving, C10dCoordinator::Create(options));

    const std::vector<std::string> addresses = ListeningAddresses();
    EXPECT_GE(addresses.size(), 2u);  // the store, and who watches
    EXPECT_THAT(addresses, ::testing::Each(::testing::AnyOf(loopback, mapped)));
  }
}

// The least that an answer of the store is waited for, with a stall_timeout of one second.
const absl::Duration kTwoStalls = absl::Seconds(2);

// Rank 0 in a child process that serves the store and then gets `signal`.
absl::Status BarrierAfterRank0Got(int signal) {
  int pipe_ends[2];
  EXPECT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    C10dOptions options;
    options.world_size = 2;
    const auto rank = C10dCoordinator::Create(options);
    const int port = rank.ok() ? (*rank)->port() : 0;
    if (write(pipe_ends[1], &port, sizeof(port)) != sizeof(port) || !(*rank)->Barrier("before", kTwoStalls).ok()) {
      _exit(1);
    }
    absl::SleepFor(absl::Seconds(60));
    _exit(0);
  }
  C10dOptions options;
  options.rank = 1;
  options.world_size = 2;
  // An answer is waited for as long as the call says, and not as long as the rendezvous was.
  options.stall_timeout = absl::Seconds(1);
  EXPECT_EQ(read(pipe_ends[0], &options.port, sizeof(options.port)), static_cast<ssize_t>(sizeof(options.port)));
  auto rank = C10dCoordinator::Create(options);
  EXPECT_OK(rank);
  // What libtorch does in it must not undo the limit, which is the same for the next call.
  EXPECT_OK((*rank)->Barrier("before", kTwoStalls));
  kill(child, signal);
  absl::SleepFor(absl::Milliseconds(50));
  const absl::Status status = (*rank)->Barrier("meet", absl::Seconds(1));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  return status;
}

TEST(C10dProcessTest, TheDeathOfTheServingRankIsAnErrorThatNamesIt) {
  EXPECT_THAT(BarrierAfterRank0Got(SIGKILL), IsKind(ErrorKind::kRank, HasSubstr("rank 0")));
}

TEST(C10dProcessTest, AServingRankThatIsStoppedIsAnErrorThatNamesItInTime) {
  const absl::Time start = absl::Now();

  EXPECT_THAT(BarrierAfterRank0Got(SIGSTOP), IsKind(ErrorKind::kRank, AllOf(HasSubstr("rank 0"), HasSubstr("rank 1"))));

  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

// What rank 0 and 1 get when rank 2, a process of its own, gets `signal` and does not come to a barrier.
std::vector<absl::Status> BarrierAfterRank2Got(int signal, absl::Duration timeout) {
  int ports[2];
  int ready[2];
  EXPECT_EQ(pipe(ports), 0);
  EXPECT_EQ(pipe(ready), 0);
  C10dOptions options;
  options.world_size = 3;
  options.linger = absl::ZeroDuration();
  const pid_t child = fork();
  if (child == 0) {
    options.rank = 2;
    if (read(ports[0], &options.port, sizeof(options.port)) != sizeof(options.port)) {
      _exit(1);
    }
    const auto rank = C10dCoordinator::Create(options);
    const char there = rank.ok() && (*rank)->Barrier("first", absl::Seconds(20)).ok() ? '+' : '-';
    if (write(ready[1], &there, 1) != 1) {
      _exit(1);
    }
    absl::SleepFor(absl::Seconds(60));
    _exit(0);
  }
  std::vector<std::unique_ptr<C10dCoordinator>> ranks;
  for (; options.rank < 2; ++options.rank) {
    auto rank = C10dCoordinator::Create(options);
    EXPECT_OK(rank);
    options.port = (*rank)->port();
    ranks.push_back(*std::move(rank));
  }
  EXPECT_EQ(write(ports[1], &options.port, sizeof(options.port)), static_cast<ssize_t>(sizeof(options.port)));
  std::vector<absl::Status> met(2);
  const auto meet = [&](const char* name, absl::Duration limit) {
    std::thread other([&] { met[1] = ranks[1]->Barrier(name, limit); });
    met[0] = ranks[0]->Barrier(name, limit);
    other.join();
  };
  meet("first", absl::Seconds(20));
  EXPECT_THAT(met, ::testing::Each(IsOk()));
  char there = 0;
  EXPECT_EQ(read(ready[0], &there, 1), 1);
  EXPECT_EQ(there, '+');
  kill(child, signal);
  meet("second", timeout);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  for (const int file : {ports[0], ports[1], ready[0], ready[1]}) {
    close(file);
  }
  return met;
}

// With a timeout that no test lives to see.
TEST(C10dProcessTest, TheDeathOfAnyRankIsToldToTheOthersBeforeTheTimeout) {
  EXPECT_THAT(BarrierAfterRank2Got(SIGKILL, absl::Hours(10)),
              ::testing::Each(IsKind(ErrorKind::kRank, HasSubstr("rank 2 died before barrier \"second\""))));
}

TEST(C10dProcessTest, AStoppedRankIsNotTakenForDead) {
  EXPECT_THAT(BarrierAfterRank2Got(SIGSTOP, absl::Seconds(2)),
              ::testing::Each(IsKind(ErrorKind::kRank, HasSubstr("rank 2 did not come to barrier \"second\""))));
}

// A connection that has sent the first byte of a message and sends no more, as that of a rank that is stopped there.
class HalfAMessage {
 public:
  explicit HalfAMessage(int port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(socket_, "\0", 1, 0), 1);
  }
  ~HalfAMessage() { close(socket_); }

 private:
  const int socket_;
};

// Without a limit the store's server reads that message for ever, and nobody else can speak.
TEST(C10dCoordinatorTest, ARankThatStopsInTheMiddleOfAMessageIsCutOff) {
  C10dOptions options;
  options.world_size = 2;
  options.connect_timeout = absl::Seconds(20);
  options.stall_timeout = absl::Milliseconds(200);
  ASSERT_OK_AND_ASSIGN(const auto serving, C10dCoordinator::Create(options));
  options.rank = 1;
  options.port = serving->port();
  ASSERT_OK_AND_ASSIGN(const auto other, C10dCoordinator::Create(options));
  const HalfAMessage stopped(serving->port());
  const absl::Time start = absl::Now();

  absl::Status met;
  std::thread rank([&] { met = other->Barrier("meet", absl::Seconds(20)); });
  EXPECT_OK(serving->Barrier("meet", absl::Seconds(20)));
  rank.join();

  EXPECT_OK(met);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

// As torchrun's agent does.
TEST(C10dCoordinatorTest, AStoreThatAnotherProcessServesSaysWhereRank0Serves) {
  C10dOptions agent;
  ASSERT_OK_AND_ASSIGN(const auto agents, C10dCoordinator::Create(agent));
  C10dOptions options;
  options.world_size = 2;
  options.name = "job";
  options.port = agents->port();
  options.rank_0_serves = false;

  std::vector<absl::Status> met(2);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&, rank] {
      C10dOptions mine = options;
      mine.rank = rank;
      const auto coordinator = C10dCoordinator::Create(mine);
      met[rank] = coordinator.status();
      if (coordinator.ok()) {
        met[rank] = (*coordinator)->Barrier("meet", absl::Seconds(20));
        EXPECT_NE((*coordinator)->port(), agents->port());
      }
    });
  }
  for (std::thread& rank : ranks) {
    rank.join();
  }

  EXPECT_THAT(met, ::testing::Each(IsOk()));
}

}  // namespace
}  // namespace waypoint
