// Planning a save of the job of job_405b.h as `distributed`, with 2, 4 and 8 data ranks.  What one rank spends on the
// plan of a second save, where no rank holds anything else: the digest of what it holds, and a comparison with all
// others'.  Then the read plans of all tensors and a lookup of every box that a job of tp 4 wants.
//
//   bazel run -c opt //tests/benchmarks:plan_benchmark

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/format/held_tensors.h"
#include "checkpoint/plan/read_plan.h"
#include "checkpoint/plan/save_plan.h"
#include "tests/benchmarks/job_405b.h"

namespace waypoint {
namespace {

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// All ranks as one that gathers: their messages are made once, and only the rank's own work is timed.
class RecordedCoordinator : public Coordinator {
 public:
  explicit RecordedCoordinator(int ranks) : ranks_(ranks) {}

  int rank() const override { return 0; }
  int world_size() const override { return ranks_; }
  absl::Status Barrier(absl::string_view, absl::Duration) override { return absl::OkStatus(); }
  absl::StatusOr<std::string> Broadcast(absl::string_view, const std::string& bytes, int, absl::Duration) override {
    return bytes;
  }
  // Everybody says what this rank says.
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view, const std::string& bytes,
                                                     absl::Duration) override {
    return std::vector<std::string>(ranks_, bytes);
  }

 private:
  const int ranks_;
};

// The plan itself is not made here: the first call keeps `plan`, the second must find it.
absl::StatusOr<double> SecondsOfASecondSave(int data_parallel, int ranks, const SavePlan& plan) {
  RecordedCoordinator coordinator(ranks);
  PlanCache cache;
  const Manifest held = ManifestOf405b(0, data_parallel);
  double seconds = 0;
  for (int save = 0; save < 2; ++save) {
    const auto start = std::chrono::steady_clock::now();
    const auto planned =
        PlanTogether<SavePlan>("benchmark", coordinator, absl::Seconds(1), &cache, held,
                               [&plan](const std::vector<std::string>&) -> absl::StatusOr<SavePlan> { return plan; });
    seconds = Seconds(start);
    if (!planned.ok()) {
      return planned.status();
    }
  }
  if (cache.hits() != 1) {
    return absl::InternalError("the second save planned again");
  }
  return seconds;
}

int Run() {
  absl::PrintF("%6s %9s %9s %9s %9s %9s %9s %12s %9s\n", "ranks", "held", "written", "plan s", "again s", "us/box",
               "max/mean", "read plan s", "peak MiB");
  for (const int data_parallel : {2, 4, 8}) {
    const int ranks = RanksOf405b(data_parallel);
    double plan_seconds = 0;
    int64_t held = 0;
    SavePlanner planner({});
    for (int rank = 0; rank < ranks; ++rank) {
      const Manifest manifest = ManifestOf405b(rank, data_parallel);  // a rank would receive it
      for (const TensorMeta& tensor : manifest.tensors()) {
        held += static_cast<int64_t>(tensor.boxes.size());
      }
      const auto start = std::chrono::steady_clock::now();
      if (const absl::Status added = planner.AddRank(manifest); !added.ok()) {
        std::cerr << added << "\n";
        return 1;
      }
      plan_seconds += Seconds(start);
    }
    auto start = std::chrono::steady_clock::now();
    const absl::StatusOr<SavePlan> plan = std::move(planner).Finish();
    plan_seconds += Seconds(start);
    if (!plan.ok()) {
      std::cerr << plan.status() << "\n";
      return 1;
    }
    int64_t written = 0;
    std::vector<std::vector<Box>> stored(plan->tensors.size());
    for (const std::vector<PlannedBox>& writes : plan->writes) {
      written += static_cast<int64_t>(writes.size());
      for (const PlannedBox& write : writes) {
        stored[write.tensor].push_back(write.box);
      }
    }
    const int64_t total = std::accumulate(plan->bytes.begin(), plan->bytes.end(), int64_t{0});
    const double imbalance =
        static_cast<double>(*std::max_element(plan->bytes.begin(), plan->bytes.end())) * ranks / total;

    start = std::chrono::steady_clock::now();
    int64_t parts = 0;
    for (int64_t tensor = 0; tensor < plan->tensors.size(); ++tensor) {
      const TensorMeta& meta = plan->tensors[tensor];
      const absl::StatusOr<ReadPlan> read = ReadPlan::Create(meta.name, meta.shape, std::move(stored[tensor]));
      if (!read.ok()) {
        std::cerr << read.status() << "\n";
        return 1;
      }
      for (int tp = 0; tp < 4; ++tp) {
        parts += static_cast<int64_t>(
            read->Find(TensorParallelBox(meta.shape, meta.shape.size() > 1 ? 1 : -1, tp, 4)).size());
      }
    }
    const double read_seconds = Seconds(start);
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const absl::StatusOr<double> again_seconds = SecondsOfASecondSave(data_parallel, ranks, *plan);
    if (!again_seconds.ok()) {
      std::cerr << again_seconds.status() << "\n";
      return 1;
    }
    absl::PrintF("%6d %9d %9d %9.3f %9.6f %9.3f %9.4f %12.3f %9d\n", ranks, held, written, plan_seconds, *again_seconds,
                 plan_seconds * 1e6 / held, imbalance, read_seconds, usage.ru_maxrss >> 10);
    if (parts == 0) {
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace waypoint

int main() { return waypoint::Run(); }
