#include "checkpoint/coordination/rank_watch.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/deadline.h"
#include "checkpoint/coordination/listen_address.h"

namespace waypoint {
namespace {

// "<secret>-<8 digits of a rank>", then nothing until the farewell.
constexpr size_t kSecretBytes = 16;
constexpr size_t kHelloBytes = kSecretBytes + 1 + 8;
constexpr char kFarewell = '.';
constexpr size_t kReadBytes = 64;
constexpr int kProbes = 4;

absl::Status SocketError(absl::string_view what) {
  return MakeError(ErrorKind::kRank, absl::StrCat(what, ": ", std::strerror(errno)));
}

// The kernel of a host asks the other one, which answers whatever its processes do.
void KeepAlive(int file, absl::Duration host_timeout) {
  const int yes = 1;
  // Half of the time nothing is asked, in the other half every probe must be lost.
  const int idle = std::max<int>(1, absl::ToInt64Seconds(host_timeout / 2));
  const int between = std::max<int>(1, absl::ToInt64Seconds(host_timeout / 2 / kProbes));
  setsockopt(file, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
  setsockopt(file, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
  setsockopt(file, IPPROTO_TCP, TCP_KEEPINTVL, &between, sizeof(between));
  setsockopt(file, IPPROTO_TCP, TCP_KEEPCNT, &kProbes, sizeof(kProbes));
}

int PortOf(int file) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  getsockname(file, reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// Connected, or -1 with errno.
int ConnectTo(const addrinfo& address, absl::Duration timeout) {
  const int file = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (file < 0) {
    return -1;
  }
  const timeval wait = absl::ToTimeval(timeout);
  setsockopt(file, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));  // of connect too
  if (connect(file, address.ai_addr, address.ai_addrlen) != 0) {
    const int error = errno;
    close(file);
    errno = error;
    return -1;
  }
  return file;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankWatch>> RankWatch::Create(const std::string& host, int world_size,
                                                             absl::Duration host_timeout,
                                                             std::function<void(int rank)> on_death) {
  std::unique_ptr<RankWatch> watch(new RankWatch(world_size, host_timeout, std::move(on_death)));
  WAYPOINT_RETURN_IF_ERROR(watch->Listen(host));
  WAYPOINT_ASSIGN_OR_RETURN(watch->thread_, StartThread([self = watch.get()] { self->Watch(); }));
  return watch;
}

absl::Status RankWatch::Listen(const std::string& host) {
  stop_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  listener_ = ListenAt(host);
  if (stop_ < 0 || listener_ < 0) {
    return SocketError("rank 0 cannot open a port to watch the other ranks");
  }
  std::random_device random;
  secret_ = absl::StrFormat("%08x%08x", random(), random());
  invitation_ = absl::StrCat(PortOf(listener_), "/", secret_);
  return absl::OkStatus();
}

RankWatch::~RankWatch() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_, &one, sizeof(one));
    thread_.join();
  }
  for (const Connection& connection : connections_) {
    close(connection.file);
  }
  for (const int file : {listener_, stop_}) {
    if (file >= 0) {
      close(file);
    }
  }
}

void RankWatch::Accept() {
  while (true) {
    Connection connection;
    // All memory first: what is accepted or received then cannot be lost for want of it.
    connections_.reserve(connections_.size() + 1);
    connection.hello.reserve(kHelloBytes + kReadBytes);
    connection.file = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection.file < 0) {
      if (errno != EAGAIN) {
        absl::SleepFor(absl::Milliseconds(100));  // too many open files: it stays in the queue
      }
      return;
    }
    KeepAlive(connection.file, host_timeout_);
    connections_.push_back(std::move(connection));
  }
}

bool RankWatch::Read(Connection& connection) const {
  char bytes[kReadBytes];
  while (true) {
    const ssize_t got = recv(connection.file, bytes, sizeof(bytes), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
      return true;
    }
    if (got <= 0) {
      if (connection.rank >= 0) {
        on_death_(connection.rank);
      }
      return false;
    }
    connection.hello.append(bytes, static_cast<size_t>(got));
    if (connection.hello.size() < kHelloBytes) {
      continue;
    }
    int rank = -1;
    const absl::string_view hello = connection.hello;
    if (hello.substr(0, kSecretBytes) != secret_ || !absl::SimpleAtoi(hello.substr(kSecretBytes + 1, 8), &rank) ||
        rank < 0 || rank >= world_size_ || hello.size() > kHelloBytes) {
      return false;  // a stranger, or a farewell
    }
    connection.rank = rank;
  }
}

void RankWatch::Watch() {
  // Without it nobody would learn of a death, so it goes on as soon as there is memory again.  What was ready is so
  // still.
  while (!CatchAllocation("the watch of ranks", "", [this] { return WatchUntilStopped(); }).ok()) {
    absl::SleepFor(absl::Milliseconds(100));
  }
}

absl::Status RankWatch::WatchUntilStopped() {
  while (true) {
    std::vector<pollfd> files = {{stop_, POLLIN, 0}, {listener_, POLLIN, 0}};
    for (const Connection& connection : connections_) {
      files.push_back({connection.file, POLLIN, 0});
    }
    if (poll(files.data(), files.size(), -1) < 0) {
      continue;  // a signal
    }
    if (files[0].revents != 0) {
      return absl::OkStatus();
    }
    for (size_t i = 0; i < connections_.size(); ++i) {
      if (files[i + 2].revents != 0 && !Read(connections_[i])) {
        close(std::exchange(connections_[i].file, -1));
      }
    }
    connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                      [](const Connection& connection) { return connection.file < 0; }),
                       connections_.end());
    if (files[1].revents != 0) {
      Accept();
    }
  }
}

absl::StatusOr<std::unique_ptr<WatchedRank>> WatchedRank::Connect(const std::string& host,
                                                                  const std::string& invitation, int rank,
                                                                  absl::Duration timeout) {
  const std::vector<std::string> parts = absl::StrSplit(invitation, '/');
  if (parts.size() != 2) {
    return MakeError(ErrorKind::kRank, absl::StrCat("rank 0 invites with \"", invitation, "\", wanted <port>/<word>"));
  }
  const std::string where =
      absl::StrCat("rank ", rank, " cannot have itself watched by rank 0 at ", host, ":", parts[0]);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), parts[0].c_str(), &hints, &found); error != 0) {
    return MakeError(ErrorKind::kRank, absl::StrCat(where, ": ", gai_strerror(error)));
  }
  const absl::Cleanup free = [found] { freeaddrinfo(found); };
  const Deadline deadline(timeout);
  int file = -1;
  for (const addrinfo* address = found; file < 0 && address != nullptr; address = address->ai_next) {
    file = ConnectTo(*address, std::max(deadline.left(), absl::Milliseconds(1)));
  }
  if (file < 0) {
    return SocketError(where);
  }
  std::unique_ptr<WatchedRank> watched(new WatchedRank(file));
  const std::string hello = absl::StrFormat("%s-%08d", parts[1], rank);
  if (send(file, hello.data(), hello.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(hello.size())) {
    return SocketError(where);
  }
  return watched;
}

WatchedRank::~WatchedRank() {
  [[maybe_unused]] const ssize_t sent = send(file_, &kFarewell, 1, MSG_NOSIGNAL);
  close(file_);
}

}  // namespace waypoint
