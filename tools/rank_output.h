#ifndef TOOLS_RANK_OUTPUT_H_
#define TOOLS_RANK_OUTPUT_H_

// What ranks print, as a launcher passes it on: whole lines, each behind its rank's prefix, and one error once. Nothing
// here waits, so that a launcher whose reader stands still hears signals all the same.  One thread.

#include <map>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace waypoint {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { Close(); }
  int get() const { return fd_; }
  void Close();

 private:
  int fd_;
};

// A stream of this process.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) {}

  int fd() const { return fd_; }
  // Something is left to be written: poll for POLLOUT, then Flush.
  bool busy() const { return !pending_.empty(); }
  // errno of the first write that failed; what is added later goes unheard.
  int error() const { return error_; }

  // Writes what it can.
  void Add(absl::string_view text);
  void Flush();
  // Drops what is left when nobody has read for `patience`, so that the ranks can write, and end.
  void GiveUpAfter(absl::Duration patience);

 private:
  const int fd_;
  std::string pending_;
  absl::Time last_write_ = absl::InfinitePast();
  int error_ = 0;
};

// Which errors of ranks are printed: of those that all ranks find, one; of those that only tell of another rank's
// failure (E_RANK), one, at the end, when no rank has said what failed.
class RankErrors {
 public:
  // Whether this line, which a rank printed to stderr, is passed on.
  bool Passes(int rank, absl::string_view line, absl::string_view prefix);
  // The last error of that rank was another rank's.
  bool Follows(int rank) const;
  // What was held back and is to be said after all; with its prefix.
  std::string AtEnd() const { return any_own_ ? "" : held_; }

 private:
  enum class Error { kNone, kPassed, kHeld, kDropped };
  struct Last {
    Error error = Error::kNone;  // that the last line belongs to
    bool follows = false;
  };
  std::map<int, Last> last_;
  std::set<std::string> said_;
  bool any_own_ = false;
  int held_rank_ = -1;
  std::string held_;
};

// One of a rank's two streams.
class RankStream {
 public:
  // `to` and `errors`, null for stdout, are borrowed.
  RankStream(Fd from, Output* to, int rank, RankErrors* errors);

  // To be read from; -1 at the end.
  int fd() const { return from_.get(); }
  // Nothing is read while earlier lines wait.
  int polled_fd() const { return to_->busy() ? -1 : from_.get(); }
  bool any() const { return any_; }

  // Passes on what is there.  Closes at the end.
  void Read();

 private:
  std::string Line(absl::string_view line) const;

  Fd from_;
  Output* to_;
  int rank_;
  RankErrors* errors_;
  std::string prefix_;
  std::string line_;
  bool any_ = false;
};

}  // namespace waypoint

#endif  // TOOLS_RANK_OUTPUT_H_
