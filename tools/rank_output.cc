#include "tools/rank_output.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace waypoint {
namespace {

// A line without an end is printed when it has grown to this.
constexpr size_t kLongestLine = 1 << 16;
// Of errors that are told apart.
constexpr size_t kMostErrors = 4096;

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

void Fd::Close() {
  if (fd_ >= 0) {
    close(fd_);
    fd_ = -1;
  }
}

void Output::Add(absl::string_view text) {
  if (error_ == 0) {
    absl::StrAppend(&pending_, text);
    Flush();
  }
}

void Output::Flush() {
  size_t written = 0;
  struct pollfd polled = {fd_, POLLOUT, 0};
  while (written < pending_.size() && error_ == 0 && poll(&polled, 1, 0) > 0) {
    // As much as a pipe that is ready takes without a wait.
    const ssize_t bytes = write(fd_, pending_.data() + written, std::min<size_t>(pending_.size() - written, PIPE_BUF));
    if (bytes < 0 && errno != EINTR && errno != EAGAIN) {
      error_ = errno;
    }
    written += static_cast<size_t>(std::max<ssize_t>(bytes, 0));
  }
  if (written > 0) {
    last_write_ = absl::Now();
  }
  pending_.erase(0, error_ == 0 ? written : pending_.size());
}

void Output::GiveUpAfter(absl::Duration patience) {
  if (busy() && absl::Now() - last_write_ > patience) {
    error_ = EAGAIN;
    pending_.clear();
  }
}

bool RankErrors::Passes(int rank, absl::string_view line, absl::string_view prefix) {
  Last& last = last_[rank];
  const bool begins = absl::StartsWith(line, "error: ");
  if (begins) {
    last.follows = absl::StartsWith(line, "error: E_RANK: ");
    if (last.follows) {
      last.error = held_rank_ < 0 ? Error::kHeld : Error::kDropped;
      held_rank_ = held_rank_ < 0 ? rank : held_rank_;
    } else {
      any_own_ = true;
      const bool is_new = said_.size() >= kMostErrors || said_.emplace(line).second;
      last.error = is_new ? Error::kPassed : Error::kDropped;
    }
  } else if (!absl::StartsWith(line, " ")) {
    last.error = Error::kNone;  // no further line of an error
  }
  if (last.error == Error::kHeld && held_.size() < kLongestLine) {
    absl::StrAppend(&held_, prefix, line, "\n");
  }
  return last.error == Error::kNone || last.error == Error::kPassed;
}

bool RankErrors::Follows(int rank) const {
  const auto found = last_.find(rank);
  return found != last_.end() && found->second.follows;
}

RankStream::RankStream(Fd from, Output* to, int rank, RankErrors* errors)
    : from_(std::move(from)),
      to_(to),
      rank_(rank),
      errors_(errors),
      prefix_(rank == 0 ? "" : absl::StrCat("[", rank, "] ")) {}

std::string RankStream::Line(absl::string_view line) const {
  const bool passes = errors_ == nullptr || errors_->Passes(rank_, line, prefix_);
  return passes ? absl::StrCat(prefix_, line, "\n") : "";
}

void RankStream::Read() {
  char buffer[1 << 14];
  const ssize_t bytes = read(from_.get(), buffer, sizeof(buffer));
  if (bytes < 0 && (errno == EINTR || errno == EAGAIN)) {
    return;
  }
  if (bytes <= 0) {
    from_.Close();
    if (!line_.empty()) {
      to_->Add(Line(line_));
      line_.clear();
    }
    return;
  }
  any_ = true;
  line_.append(buffer, bytes);
  std::string whole;
  for (size_t end = line_.find('\n'); end != std::string::npos || line_.size() > kLongestLine; end = line_.find('\n')) {
    const size_t length = end == std::string::npos ? line_.size() : end;
    whole += Line(absl::string_view(line_).substr(0, length));
    line_.erase(0, std::min(length + 1, line_.size()));
  }
  to_->Add(whole);
}

}  // namespace waypoint
