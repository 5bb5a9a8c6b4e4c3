#include "checkpoint/coordination/thread_coordinator.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// One call of all ranks.  A rank keeps the round it waits in, so that the next round may begin before it looked.
struct Round {
  explicit Round(int world_size)
      : calls(world_size), bytes(world_size), refused(world_size), arrived(world_size, false) {}

  std::vector<std::string> calls;
  std::vector<std::string> bytes;
  std::vector<absl::Status> refused;  // why there are no bytes
  std::vector<bool> arrived;
  int num_arrived = 0;
  bool complete = false;
};

struct Job {
  explicit Job(int world_size) : left(world_size, false), round(std::make_shared<Round>(world_size)) {}

  std::mutex mutex;
  std::condition_variable changed;
  // The first error; from then on every call returns it.
  absl::Status failed ABSL_GUARDED_BY(mutex);
  std::vector<bool> left ABSL_GUARDED_BY(mutex);
  std::shared_ptr<Round> round ABSL_GUARDED_BY(mutex);
};

class ThreadCoordinator : public Coordinator {
 public:
  ThreadCoordinator(std::shared_ptr<Job> job, int rank, int world_size)
      : job_(std::move(job)), rank_(rank), world_size_(world_size) {}

  ~ThreadCoordinator() override {
    const std::lock_guard<std::mutex> lock(job_->mutex);
    job_->left[rank_] = true;
    if (job_->round->num_arrived > 0) {
      const absl::Status told = CatchAllocation("word that a rank left", "", [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        FailLeft();
        return absl::OkStatus();
      });
      if (!told.ok()) {
        job_->failed.Update(told);
        job_->changed.notify_all();
      }
    }
  }

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }

  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override {
    return Meet(absl::StrCat("barrier \"", name, "\""), name, "", timeout).status();
  }

  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override {
    WAYPOINT_RETURN_IF_ERROR(CheckRoot(name, root, world_size_));
    WAYPOINT_ASSIGN_OR_RETURN(
        const std::shared_ptr<const Round> round,
        Meet(absl::StrCat("broadcast \"", name, "\""), name, rank_ == root ? bytes : "", timeout));
    return round->bytes[root];
  }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override {
    WAYPOINT_ASSIGN_OR_RETURN(const std::shared_ptr<const Round> round,
                              Meet(absl::StrCat("gather \"", name, "\""), name, bytes, timeout));
    return round->bytes;
  }

 private:
  absl::StatusOr<std::shared_ptr<const Round>> Meet(const std::string& call, absl::string_view name,
                                                    const std::string& bytes, absl::Duration timeout) {
    const auto deadline =
        std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24 * 365)));
    std::unique_lock<std::mutex> lock(job_->mutex);
    WAYPOINT_RETURN_IF_ERROR(job_->failed);
    const std::shared_ptr<Round> round = job_->round;
    round->calls[rank_] = call;
    round->refused[rank_] = CheckMessage(name, bytes);
    round->bytes[rank_] = round->refused[rank_].ok() ? bytes : "";
    round->arrived[rank_] = true;
    ++round->num_arrived;
    if (std::find(job_->left.begin(), job_->left.end(), true) != job_->left.end()) {
      FailLeft();
    } else if (round->num_arrived == world_size_) {
      Complete(*round);
    }
    const bool in_time =
        job_->changed.wait_until(lock, deadline, [&] { return round->complete || !job_->failed.ok(); });
    if (!in_time) {
      Fail(absl::StrCat(Absent(*round), " did not come to ", call, " within ", absl::FormatDuration(timeout)));
    }
    if (!round->complete) {
      return job_->failed;
    }
    WAYPOINT_RETURN_IF_ERROR(round->refused[rank_]);
    for (int rank = 0; rank < world_size_; ++rank) {
      if (!round->refused[rank].ok()) {
        return RefusedMessage(rank, round->refused[rank].message());
      }
    }
    return std::shared_ptr<const Round>(round);
  }

  void Complete(Round& round) ABSL_EXCLUSIVE_LOCKS_REQUIRED(job_->mutex) {
    for (int rank = 1; rank < world_size_; ++rank) {
      if (round.calls[rank] != round.calls[0]) {
        Fail(absl::StrCat("rank ", rank, " is at ", round.calls[rank], ", rank 0 at ", round.calls[0],
                          ": the ranks do not run the same program"));
        return;
      }
    }
    job_->round = std::make_shared<Round>(world_size_);  // without memory for it, this one is not complete
    round.complete = true;
    job_->changed.notify_all();
  }

  void FailLeft() ABSL_EXCLUSIVE_LOCKS_REQUIRED(job_->mutex) {
    std::vector<int> ranks;
    for (int rank = 0; rank < world_size_; ++rank) {
      if (job_->left[rank]) {
        ranks.push_back(rank);
      }
    }
    const auto call = std::find_if(job_->round->calls.begin(), job_->round->calls.end(),
                                   [](const std::string& name) { return !name.empty(); });
    Fail(absl::StrCat("rank ", absl::StrJoin(ranks, ", "), " left the job before ",
                      call == job_->round->calls.end() ? "the next call" : *call));
  }

  void Fail(const std::string& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(job_->mutex) {
    job_->failed.Update(MakeError(ErrorKind::kRank, message));  // keeps the first
    job_->changed.notify_all();
  }

  static std::string Absent(const Round& round) {
    std::vector<int> ranks;
    for (size_t rank = 0; rank < round.arrived.size(); ++rank) {
      if (!round.arrived[rank]) {
        ranks.push_back(static_cast<int>(rank));
      }
    }
    return absl::StrCat("rank ", absl::StrJoin(ranks, ", "));
  }

  const std::shared_ptr<Job> job_;
  const int rank_;
  const int world_size_;
};

}  // namespace

std::vector<std::unique_ptr<Coordinator>> NewThreadCoordinators(int world_size) {
  const auto job = std::make_shared<Job>(world_size);
  std::vector<std::unique_ptr<Coordinator>> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.push_back(std::make_unique<ThreadCoordinator>(job, rank, world_size));
  }
  return ranks;
}

}  // namespace waypoint
