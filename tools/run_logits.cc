#include "tools/run_logits.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/storage/file_system.h"
#include "tools/exit_codes.h"

namespace waypoint {
namespace {

class TemporaryDirectory {
 public:
  static absl::StatusOr<TemporaryDirectory> Create() {
    const char* base = std::getenv("TMPDIR");
    std::string path = JoinPath(base == nullptr || *base == '\0' ? "/tmp" : base, "waypoint-logits-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) {
      return ErrnoError(errno, absl::StrCat("mkdtemp of \"", path, "\""));
    }
    return TemporaryDirectory(std::move(path));
  }
  TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ~TemporaryDirectory() {
    if (!path_.empty()) {
      UnlessOutOfMemory([this] { RemoveTree(PosixFileSystem(), path_).IgnoreError(); });
    }
  }
  const std::string& path() const { return path_; }

 private:
  explicit TemporaryDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// How often it is asked whether the program has ended.
constexpr absl::Duration kPause = absl::Milliseconds(20);

// The exit code; what the program prints goes to `log`.
absl::StatusOr<int> Spawn(std::vector<std::string> arguments, const std::string& log,
                          const std::function<bool()>& interrupted) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) {
    argv.push_back(argument.data());
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return ErrnoError(error, absl::StrCat("start of \"", arguments[0], "\""));
  }
  int state = 0;
  pid_t ended = 0;
  while ((ended = waitpid(pid, &state, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
    if (interrupted && interrupted()) {
      // What it would write is nobody's any more.
      kill(pid, SIGKILL);
      waitpid(pid, &state, 0);
      return kExitInterrupted;
    }
    absl::SleepFor(kPause);
  }
  if (ended < 0) {
    return ErrnoError(errno, absl::StrCat("waiting for \"", arguments[0], "\""));
  }
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

absl::StatusOr<std::vector<float>> ReadLogits(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(path, {}));
  WAYPOINT_ASSIGN_OR_RETURN(const SafetensorsHeader header, ReadSafetensorsHeader(*file, {}));
  if (header.entries.size() != 1 || header.entries[0].dtype != DType::kF32) {
    return MakeError(ErrorKind::kVerify, absl::StrCat("\"", path, "\" does not hold one tensor of F32"));
  }
  const SafetensorsEntry& entry = header.entries[0];
  std::vector<float> logits(NumElements(entry.shape));
  WAYPOINT_RETURN_IF_ERROR(
      file->Read(entry.begin, absl::MakeSpan(reinterpret_cast<char*>(logits.data()), entry.end - entry.begin)));
  return logits;
}

}  // namespace

std::string LogitsProgramBeside() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return JoinPath(length > 0 ? DirName(absl::string_view(path, length)) : ".", "logits");
}

absl::StatusOr<std::vector<float>> RunLogits(const std::string& program, const LogitsRun& run) {
  FileSystem& fs = PosixFileSystem();
  WAYPOINT_ASSIGN_OR_RETURN(const TemporaryDirectory temporary, TemporaryDirectory::Create());
  const std::string output = JoinPath(temporary.path(), "logits.safetensors");
  const std::string log = JoinPath(temporary.path(), "log");
  std::vector<std::string> arguments = {program,    run.directory, "--tokens", absl::StrJoin(run.tokens, ","),
                                        "--output", output,        "--from",   run.format};
  if (run.carry_unknown) {
    arguments.push_back("--carry-unknown");
  }
  for (const std::string& prefix : run.strip_prefixes) {
    arguments.push_back(absl::StrCat("--strip-prefix=", prefix));
  }
  for (const auto& [name, value] : run.format_options) {
    // Switches take no value.
    if (value != "false") {
      arguments.push_back(value == "true" ? absl::StrCat("--", name) : absl::StrCat("--", name, "=", value));
    }
  }
  if (run.round_to != DType::kInvalid) {
    arguments.push_back("--round-to");
    arguments.emplace_back(DTypeTorchName(run.round_to));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const int code, Spawn(arguments, log, run.interrupted));
  if (code == kExitInterrupted) {
    return absl::CancelledError("interrupted while logits were computed");
  }
  if (code != kExitOk) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string said, ReadSmallFile(fs, log, int64_t{1} << 20, "log of logits"));
    // By itself or, before it could say anything, by the dynamic loader.
    const bool no_memory = absl::StrContains(said, ErrorKindName(ErrorKind::kNoMemory)) ||
                           absl::StrContains(said, "failed to map segment");
    return MakeQuotingError(no_memory ? ErrorKind::kNoMemory : ErrorKind::kVerify,
                            absl::StrCat("logits of ", QuotedPath(run.directory), " cannot be computed: exit code ",
                                         code, ", ", absl::StripAsciiWhitespace(said)));
  }
  return ReadLogits(fs, output);
}

}  // namespace waypoint
