#include "models/decoder/compute_threads.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"

namespace waypoint::models {
namespace {

// From here on libtorch gives an operation to one more thread (ATen's GRAIN_SIZE).
constexpr int64_t kElementsPerThread = 32768;

// All of them at a time.  The C library keeps their stacks for those that come next.
absl::Status TryThreads(int threads) {
  std::promise<void> all_started;
  const std::shared_future<void> end = all_started.get_future().share();
  std::vector<std::thread> started;
  started.reserve(threads);
  absl::Status status;
  for (int i = 0; i < threads && status.ok(); ++i) {
    absl::StatusOr<std::thread> thread = StartThread([end] { end.wait(); });
    status = thread.status();
    if (thread.ok()) {
      started.push_back(*std::move(thread));
    }
  }
  all_started.set_value();
  for (std::thread& thread : started) {
    thread.join();
  }
  return status;
}

}  // namespace

absl::Status StartComputeThreads(int threads) {
  // libgomp's; and of libpthreadpool as many, which is first made for all cores, and waits for ever for a thread that
  // it could not start.
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int started = 2 * (threads - 1) + cores - 1;
  const absl::Status status = CatchAllocation("threads that compute", "lower threads (OMP_NUM_THREADS)", [&] {
    const absl::Status tried = TryThreads(started);
    if (tried.ok()) {
      at::set_num_threads(threads);
      at::zeros({threads * kElementsPerThread}, at::kByte).add_(1);
    }
    return tried;
  });
  return Annotate(status, absl::StrCat(threads, " threads to compute with (OMP_NUM_THREADS, threads of a config)"));
}

}  // namespace waypoint::models
