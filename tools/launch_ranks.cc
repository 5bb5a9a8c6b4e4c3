#include "tools/launch_ranks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "tools/exit_codes.h"

namespace waypoint {
namespace {

// A line without an end is printed when it has grown to this.
constexpr size_t kLongestLine = 1 << 16;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { Close(); }
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) {
      close(fd_);
      fd_ = -1;
    }
  }

 private:
  int fd_;
};

// 0, or why nothing more can be written.
int WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno != EINTR) {
      return errno;
    }
    text.remove_prefix(std::max<ssize_t>(written, 0));
  }
  return 0;
}

// What one rank prints to one of its two streams.
class Stream {
 public:
  Stream(Fd from, int to, std::string prefix) : from_(std::move(from)), to_(to), prefix_(std::move(prefix)) {}

  int fd() const { return from_.get(); }
  int to() const { return to_; }
  // errno of the first write that failed; the rank goes on, unheard.
  int write_error() const { return write_error_; }

  // Passes on what is there.  Closes at the end.
  void Read() {
    char buffer[1 << 14];
    const ssize_t bytes = read(from_.get(), buffer, sizeof(buffer));
    if (bytes < 0 && (errno == EINTR || errno == EAGAIN)) {
      return;
    }
    if (bytes <= 0) {
      from_.Close();
      if (!line_.empty()) {
        Write(absl::StrCat(prefix_, line_, "\n"));
        line_.clear();
      }
      return;
    }
    line_.append(buffer, bytes);
    std::string whole;
    for (size_t end = line_.find('\n'); end != std::string::npos || line_.size() > kLongestLine;
         end = line_.find('\n')) {
      const size_t length = end == std::string::npos ? line_.size() : end;
      absl::StrAppend(&whole, prefix_, absl::string_view(line_).substr(0, length), "\n");
      line_.erase(0, std::min(length + 1, line_.size()));
    }
    Write(whole);
  }

 private:
  void Write(absl::string_view text) {
    const int error = WriteAll(to_, text);
    write_error_ = write_error_ == 0 ? error : write_error_;
  }

  Fd from_;
  int to_;
  std::string prefix_;
  std::string line_;
  int write_error_ = 0;
};

struct Rank {
  pid_t pid = -1;
  bool running = false;
  int signal = 0;  // that killed it
  int exit_code = 0;
  bool overdue = false;  // it had to be killed
};

// One that the kernel says is free.  Somebody else may take it before rank 0 does, which then says so.
absl::StatusOr<int> FreePort() {
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (fd.get() < 0 || bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), size) != 0 ||
      getsockname(fd.get(), reinterpret_cast<struct sockaddr*>(&address), &size) != 0) {
    return ErrnoError(errno, "search for a free port on 127.0.0.1");
  }
  return ntohs(address.sin_port);
}

class Launcher {
 public:
  explicit Launcher(const LaunchRequest& request) : request_(request), ranks_(request.ranks) {}

  ~Launcher() {
    for (const Rank& rank : ranks_) {
      if (rank.running) {
        kill(rank.pid, SIGKILL);
        waitpid(rank.pid, nullptr, 0);
      }
    }
    pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
  }

  absl::StatusOr<LaunchReport> Run() {
    sigset_t mask;
    sigemptyset(&mask);
    for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) {
      sigaddset(&mask, signal);
    }
    // Blocked, it would come even where it is ignored, as under nohup.
    struct sigaction hangup = {};
    if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
      sigaddset(&mask, SIGHUP);
    }
    pthread_sigmask(SIG_BLOCK, &mask, &old_mask_);
    signals_ = Fd(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    if (signals_.get() < 0) {
      return ErrnoError(errno, "signalfd");
    }
    port_ = request_.port;
    if (port_ == 0) {
      WAYPOINT_ASSIGN_OR_RETURN(port_, FreePort());
    }
    for (int rank = 0; rank < request_.ranks; ++rank) {
      WAYPOINT_RETURN_IF_ERROR(Start(rank));
    }
    while (Running() || std::any_of(streams_.begin(), streams_.end(), [](const Stream& s) { return s.fd() >= 0; })) {
      Wait();
      ReadSignals();
      Reap();
      if (!Running()) {
        // What the ranks started themselves may hold the pipes for ever: only what is there already is passed on.
        Drain();
        break;
      }
      if (absl::Now() >= next_signal_at_) {
        const bool asked = std::exchange(next_signal_, SIGKILL) == SIGKILL;
        next_signal_at_ = asked ? absl::InfiniteFuture() : absl::Now() + request_.grace;
        if (asked) {
          Kill();
        } else {
          SignalAll(SIGTERM);
        }
      }
    }
    return Report();
  }

 private:
  absl::Status Start(int rank) {
    int out[2];
    int err[2];
    int exec[2];
    if (pipe2(out, O_CLOEXEC) != 0) {
      return ErrnoError(errno, "pipe");
    }
    Fd out_read(out[0]), out_write(out[1]);
    if (pipe2(err, O_CLOEXEC) != 0) {
      return ErrnoError(errno, "pipe");
    }
    Fd err_read(err[0]), err_write(err[1]);
    // Closed by a successful exec; else it brings the errno.
    if (pipe2(exec, O_CLOEXEC) != 0) {
      return ErrnoError(errno, "pipe");
    }
    Fd exec_read(exec[0]), exec_write(exec[1]);
    // Everything that allocates is done before the fork.
    std::vector<char*> arguments;
    for (const std::string& argument : request_.command) {
      arguments.push_back(const_cast<char*>(argument.c_str()));
    }
    arguments.push_back(nullptr);
    SetEnvironment(rank);
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) {
      return ErrnoError(errno, absl::StrCat("start of rank ", rank));
    }
    if (pid == 0) {
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) {
        _exit(kExitInterrupted);  // the launcher went before the line above
      }
      pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
      dup2(out_write.get(), STDOUT_FILENO);
      dup2(err_write.get(), STDERR_FILENO);
      execvp(arguments[0], arguments.data());
      const int error = errno;
      (void)!write(exec_write.get(), &error, sizeof(error));
      _exit(127);
    }
    ranks_[rank].pid = pid;
    ranks_[rank].running = true;
    exec_write.Close();
    int error = 0;
    if (read(exec_read.get(), &error, sizeof(error)) == sizeof(error)) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("\"", request_.command[0], "\" cannot be run: ", ErrnoError(error, "").message()));
    }
    const std::string prefix = rank == 0 ? "" : absl::StrCat("[", rank, "] ");
    streams_.emplace_back(std::move(out_read), STDOUT_FILENO, prefix);
    streams_.emplace_back(std::move(err_read), STDERR_FILENO, prefix);
    return absl::OkStatus();
  }

  void SetEnvironment(int rank) const {
    const auto set = [](const char* name, int value) { setenv(name, absl::StrCat(value).c_str(), 1); };
    set("RANK", rank);
    set("LOCAL_RANK", rank);
    set("WORLD_SIZE", request_.ranks);
    set("LOCAL_WORLD_SIZE", request_.ranks);
    set("MASTER_PORT", port_);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
  }

  bool Running() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.running; });
  }

  void Wait() {
    std::vector<struct pollfd> polled = {{signals_.get(), POLLIN, 0}};
    for (const Stream& stream : streams_) {
      polled.push_back({stream.fd(), POLLIN, 0});  // a negative one is passed over
    }
    const absl::Duration left = next_signal_at_ - absl::Now();
    const int timeout_ms = left == absl::InfiniteDuration()
                               ? -1
                               : static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(left) + 1));
    if (poll(polled.data(), polled.size(), timeout_ms) <= 0) {
      return;
    }
    for (size_t i = 0; i < streams_.size(); ++i) {
      if (polled[i + 1].revents != 0) {
        streams_[i].Read();
      }
    }
  }

  void Drain() {
    for (Stream& stream : streams_) {
      if (stream.fd() >= 0) {
        fcntl(stream.fd(), F_SETFL, O_NONBLOCK);
      }
      struct pollfd polled = {stream.fd(), POLLIN, 0};
      while (stream.fd() >= 0 && poll(&polled, 1, 0) > 0) {
        stream.Read();
      }
    }
  }

  void ReadSignals() {
    struct signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo == SIGCHLD) {
        continue;
      }
      if (std::exchange(passed_on_, true)) {
        Kill();
      } else {
        SignalAll(static_cast<int>(info.ssi_signo));
      }
    }
  }

  void Reap() {
    for (size_t i = 0; i < ranks_.size(); ++i) {
      Rank& rank = ranks_[i];
      int status = 0;
      if (!rank.running || waitpid(rank.pid, &status, WNOHANG) != rank.pid) {
        continue;
      }
      rank.running = false;
      rank.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
      rank.exit_code = rank.signal != 0 ? 128 + rank.signal : WEXITSTATUS(status);
      // It says so itself, whoever sent the signal; or it was signalled before it could note signals.
      const bool stopped = (rank.signal == 0 && rank.exit_code == kExitInterrupted) ||
                           (passed_on_ && (rank.signal == SIGINT || rank.signal == SIGTERM || rank.signal == SIGHUP));
      stopped_ = stopped_ || stopped;
      // Those that ended by our signals, for another one's failure, have not failed.
      const bool ours = rank.overdue || (!failed_.empty() && rank.signal == SIGTERM);
      if (rank.exit_code != 0 && !stopped && !ours) {
        failed_.push_back(static_cast<int>(i));
        if (next_signal_at_ == absl::InfiniteFuture()) {
          next_signal_at_ = absl::Now() + request_.notice;
        }
      }
    }
  }

  void SignalAll(int signal) {
    for (const Rank& rank : ranks_) {
      if (rank.running) {
        kill(rank.pid, signal);
      }
    }
  }

  void Kill() {
    for (Rank& rank : ranks_) {
      rank.overdue = rank.overdue || rank.running;
    }
    SignalAll(SIGKILL);
  }

  LaunchReport Report() const {
    LaunchReport report;
    for (const Stream& stream : streams_) {
      if (stream.to() == STDOUT_FILENO && report.output_error == 0) {
        report.output_error = stream.write_error();
      }
    }
    // A rank that missed those that were stopped early did what it was asked to, too.
    const bool all_stopped = stopped_ && std::all_of(failed_.begin(), failed_.end(),
                                                     [&](int i) { return ranks_[i].exit_code == kExitInternal; });
    if (!failed_.empty() && !all_stopped) {
      // Ranks that only report another one's failure return kExitInternal, and may be quicker.
      const auto cause =
          std::find_if(failed_.begin(), failed_.end(), [&](int i) { return ranks_[i].exit_code != kExitInternal; });
      const int index = cause == failed_.end() ? failed_[0] : *cause;
      const Rank& rank = ranks_[index];
      report.exit_code = rank.exit_code;
      report.failure = absl::StrCat("rank ", index,
                                    rank.signal != 0 ? absl::StrCat(" was killed by signal ", rank.signal)
                                                     : absl::StrCat(" failed with exit code ", rank.exit_code),
                                    Overdue());
      return report;
    }
    // By the second signal, which nobody waits for.
    const bool killed = std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.overdue; });
    report.exit_code = stopped_ || killed ? kExitInterrupted : kExitOk;
    return report;
  }

  std::string Overdue() const {
    std::vector<int> overdue;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (ranks_[i].overdue) {
        overdue.push_back(static_cast<int>(i));
      }
    }
    return overdue.empty()
               ? ""
               : absl::StrCat("; rank ", absl::StrJoin(overdue, ", "), " did not end by itself and was killed");
  }

  const LaunchRequest& request_;
  std::vector<Rank> ranks_;
  std::vector<Stream> streams_;
  std::vector<int> failed_;  // in order
  Fd signals_;
  sigset_t old_mask_ = {};
  int port_ = 0;
  bool passed_on_ = false;
  bool stopped_ = false;
  // What those that run get next after a failure: SIGTERM, then SIGKILL.
  int next_signal_ = SIGTERM;
  absl::Time next_signal_at_ = absl::InfiniteFuture();
};

}  // namespace

absl::StatusOr<LaunchReport> LaunchRanks(const LaunchRequest& request) {
  if (request.ranks < 1 || request.command.empty()) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("a job of ", request.ranks, " ranks of a command of ",
                                                       request.command.size(), " words cannot be started"));
  }
  return Launcher(request).Run();
}

}  // namespace waypoint
