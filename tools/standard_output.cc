#include "tools/standard_output.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iostream>
#include <streambuf>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "tools/command_line.h"
#include "tools/write_all.h"

namespace waypoint {
namespace {

constexpr char kRemedy[] = "lower --max-memory or --threads, free memory, or allow the process more (ulimit -v)";

// Whoever ignores SIGPIPE for us, as some programs that start others do, gets the same end.
void DieOfClosedPipe() {
  std::signal(SIGPIPE, SIG_DFL);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGPIPE);
  pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
  raise(SIGPIPE);
}

// The library's own forgets why a write failed.
class DescriptorBuffer final : public std::streambuf {
 public:
  explicit DescriptorBuffer(int fd) : fd_(fd) { setp(buffer_.data(), buffer_.data() + buffer_.size()); }

  // Of the first write that failed; 0: none did.
  int error_number() const { return error_number_; }

 protected:
  int_type overflow(int_type c) override {
    if (sync() != 0) {
      return traits_type::eof();
    }
    if (!traits_type::eq_int_type(c, traits_type::eof())) {
      *pptr() = traits_type::to_char_type(c);
      pbump(1);
    }
    return traits_type::not_eof(c);
  }

  int sync() override {
    if (error_number_ == 0) {
      error_number_ = WriteAll(fd_, absl::string_view(pbase(), pptr() - pbase()));
    }
    if (error_number_ == EPIPE) {
      DieOfClosedPipe();
    }
    setp(buffer_.data(), buffer_.data() + buffer_.size());
    return error_number_ == 0 ? 0 : -1;
  }

 private:
  const int fd_;
  int error_number_ = 0;
  std::array<char, 1 << 16> buffer_;
};

}  // namespace

int RunTool(const std::function<int()>& tool) {
  PrepareProcess();
  // Lives for ever: std::cout is flushed once more when all else is gone.
  static auto* const buffer = new DescriptorBuffer(STDOUT_FILENO);
  std::cout.rdbuf(buffer);
  int code = kExitInternal;
  const absl::Status ran = CatchAllocation("what was asked for", kRemedy, [&] {
    code = tool();
    return absl::OkStatus();
  });
  if (!ran.ok()) {
    return ReportError(ran, /*json=*/false, std::cout, std::cerr);
  }
  const absl::Status written = CheckWritten(std::cout);
  return code != kExitOk || written.ok() ? code : ReportError(written, /*json=*/false, std::cout, std::cerr);
}

absl::Status CheckWritten(std::ostream& out) {
  if (out.flush()) {
    return absl::OkStatus();
  }
  const auto* const buffer = dynamic_cast<const DescriptorBuffer*>(out.rdbuf());
  return OutputError(buffer == nullptr ? EIO : buffer->error_number());
}

absl::Status OutputError(int error_number) {
  if (error_number == EPIPE) {
    DieOfClosedPipe();
  }
  char text[256];
  return MakeError(ErrorKind::kIo,
                   absl::StrCat("standard output cannot be written: ", strerror_r(error_number, text, sizeof(text)),
                                "; what was to be printed is lost"));
}

}  // namespace waypoint
