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
#include "tools/rank_output.h"
#include "tools/speak_once.h"

namespace waypoint {
namespace {

// For a reader that stands still, to take what is left after a signal.
constexpr absl::Duration kLastLines = absl::Seconds(1);

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
    while (Running() ||
           std::any_of(streams_.begin(), streams_.end(), [](const RankStream& s) { return s.fd() >= 0; })) {
      Wait();
      ReadSignals();
      Reap();
      if (!Running()) {
        // What the ranks started themselves may hold the pipes for ever: only what is there already is passed on.
        Drain();
        FinishOutput();
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
    streams_.emplace_back(std::move(out_read), &out_, rank, nullptr);
    streams_.emplace_back(std::move(err_read), &err_, rank, &errors_);
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
    setenv(kLauncherSpeaks, "1", 1);
  }

  bool Running() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.running; });
  }

  void Wait() {
    // A negative one is passed over.
    std::vector<struct pollfd> polled = {{signals_.get(), POLLIN, 0},
                                         {out_.busy() ? out_.fd() : -1, POLLOUT, 0},
                                         {err_.busy() ? err_.fd() : -1, POLLOUT, 0}};
    const size_t first_stream = polled.size();
    for (const RankStream& stream : streams_) {
      polled.push_back({stream.polled_fd(), POLLIN, 0});
    }
    const absl::Duration left = next_signal_at_ - absl::Now();
    const int timeout_ms = left == absl::InfiniteDuration()
                               ? -1
                               : static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(left) + 1));
    const bool impatient = passed_on_ && (out_.busy() || err_.busy());
    const int most_ms = static_cast<int>(absl::ToInt64Milliseconds(kLastLines));
    const int wait_ms = impatient && (timeout_ms < 0 || timeout_ms > most_ms) ? most_ms : timeout_ms;
    const int ready = poll(polled.data(), polled.size(), wait_ms);
    if (impatient) {
      out_.GiveUpAfter(kLastLines);
      err_.GiveUpAfter(kLastLines);
    }
    if (ready <= 0) {
      return;
    }
    out_.Flush();
    err_.Flush();
    for (size_t i = 0; i < streams_.size(); ++i) {
      if (polled[first_stream + i].revents != 0) {
        streams_[i].Read();
      }
    }
  }

  void Drain() {
    for (RankStream& stream : streams_) {
      if (stream.fd() >= 0) {
        fcntl(stream.fd(), F_SETFL, O_NONBLOCK);
      }
      struct pollfd polled = {stream.fd(), POLLIN, 0};
      while (stream.fd() >= 0 && poll(&polled, 1, 0) > 0) {
        stream.Read();
      }
    }
  }

  // Who reads it has all the time, until a signal says otherwise.
  void FinishOutput() {
    err_.Add(errors_.AtEnd());
    absl::Time end = passed_on_ ? absl::Now() + kLastLines : absl::InfiniteFuture();
    while ((out_.busy() || err_.busy()) && absl::Now() < end) {
      next_signal_at_ = end;
      Wait();
      ReadSignals();
      end = passed_on_ ? std::min(end, absl::Now() + kLastLines) : end;
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
      // Those that ended by our signals, for another one's failure, have neither failed nor been stopped.
      const bool asked = next_signal_ == SIGKILL && !passed_on_ && rank.exit_code == kExitInterrupted;
      const bool ours = rank.overdue || asked || (!failed_.empty() && rank.signal == SIGTERM);
      // It says so itself, whoever sent the signal; or it was signalled before it could note signals.
      const bool stopped = (rank.signal == 0 && rank.exit_code == kExitInterrupted && !asked) ||
                           (passed_on_ && (rank.signal == SIGINT || rank.signal == SIGTERM || rank.signal == SIGHUP));
      stopped_ = stopped_ || stopped;
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
    report.output_error = out_.error() == 0 && out_.busy() ? EAGAIN : out_.error();
    report.first_rank_printed = !streams_.empty() && streams_[0].any();
    // A rank that missed those that were stopped early did what it was asked to, too.
    const bool all_stopped =
        stopped_ && std::all_of(failed_.begin(), failed_.end(), [&](int i) { return errors_.Follows(i); });
    if (!failed_.empty() && !all_stopped) {
      // Ranks that only report another one's failure may be quicker.
      const auto cause = std::find_if(failed_.begin(), failed_.end(),
                                      [&](int i) { return ranks_[i].signal != 0 || !errors_.Follows(i); });
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
  Output out_{STDOUT_FILENO};
  Output err_{STDERR_FILENO};
  RankErrors errors_;
  std::vector<RankStream> streams_;  // stdout and stderr of each rank
  std::vector<int> failed_;          // in order
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
