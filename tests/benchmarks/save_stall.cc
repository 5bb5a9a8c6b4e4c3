// How long training stands still for a save, against a warm two-thread memcpy of the same state in the same run.
//
//   save_stall DIRECTORY [--size 1GiB] [--rounds 7] [--step-seconds 0.4] [--step-threads 1] [--json]
//
// A state of float32 tensors lives in an arena.  A step is arithmetic in cache for step-seconds ("forward, backward"),
// AsyncSaver::Fence, and one pass over the whole state ("optimizer").  The lock is held as a trainer holds it, so that
// the removal of the save before is nobody's wait.  Every round takes each method once, in turn with
// the memcpy, so that a machine that speeds up or slows down does so for all.  DIRECTORY is on the disk that is meant;
// checkpoints are native, with digests and fsync.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/async/async_saver.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/file_system.h"
#include "tools/command_line.h"

namespace waypoint {
namespace {

constexpr int64_t kBlock = int64_t{8} << 20;
constexpr int kDiskThreads = 4;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Seconds(const std::function<void()>& work) {
  const double begin = Now();
  work();
  return Now() - begin;
}

void OnThreads(int threads, const std::function<void(int)>& work) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back(work, i);
  }
  work(0);
  for (std::thread& other : others) {
    other.join();
  }
}

struct Request {
  std::string directory;
  int64_t bytes = int64_t{1} << 30;
  int rounds = 7;
  double step_seconds = 0.4;
  int step_threads = 1;
  bool durable_only = false;
  bool json = false;
};

class Bench {
 public:
  explicit Bench(const Request& request) : request_(request) {}

  absl::Status Run() {
    WAYPOINT_RETURN_IF_ERROR(MakeState());
    Calibrate();
    if (request_.durable_only) {
      for (int round = -1; round < request_.rounds; ++round) {
        warm_up_ = round < 0;
        WAYPOINT_RETURN_IF_ERROR(PlainWrite());
        WAYPOINT_RETURN_IF_ERROR(SaveAndWait());
      }
      return End();
    }
    AsyncSaver savers[] = {AsyncSaver(Options(SnapshotMethod::kCopy)), AsyncSaver(Options(SnapshotMethod::kLazy)),
                           AsyncSaver(Options(SnapshotMethod::kWriteProtect))};
    for (AsyncSaver& saver : savers) {
      WAYPOINT_RETURN_IF_ERROR(saver.Prepare(state_));
    }
    for (int round = -1; round < request_.rounds; ++round) {
      warm_up_ = round < 0;
      for (AsyncSaver& saver : savers) {
        Note("memcpy, two threads", Memcpy());
        WAYPOINT_RETURN_IF_ERROR(SaveBesideSteps(saver));
      }
      WAYPOINT_RETURN_IF_ERROR(PlainWrite());
      WAYPOINT_RETURN_IF_ERROR(SaveAndWait());
    }
    return End();
  }

 private:
  absl::Status End() {
    Print();
    return RemoveTree(PosixFileSystem(), JoinPath(request_.directory, "stall"));
  }

  AsyncSaveOptions Options(SnapshotMethod method) const {
    AsyncSaveOptions options;
    options.method = method;
    options.arenas = {arena_};
    return options;
  }

  // Like a decoder: large matrices, and vectors between them.
  absl::Status MakeState() {
    constexpr int64_t kMatrixBytes = int64_t{64} << 20;
    constexpr int64_t kVectorBytes = 16 << 10;
    WAYPOINT_ASSIGN_OR_RETURN(arena_, SnapshotArena::Create(request_.bytes + (int64_t{1} << 20), {}));
    if (arena_->guard() == nullptr) {
      absl::PrintF("write-protect is measured as its fallback: %s\n", arena_->refusal());
    }
    WAYPOINT_ASSIGN_OR_RETURN(copy_, HostMemory::Map(request_.bytes));
    WAYPOINT_RETURN_IF_ERROR(copy_.Populate(2));
    int64_t left = request_.bytes;
    for (int i = 0; left > 0; ++i) {
      const int64_t bytes = std::min(left, i % 2 == 0 ? kMatrixBytes : kVectorBytes);
      WAYPOINT_ASSIGN_OR_RETURN(char* const data, arena_->Allocate(bytes));
      first_ = first_ == nullptr ? data : first_;
      MemoryTensor tensor;
      tensor.name = absl::StrFormat("tensor.%04d", i);
      tensor.dtype = DType::kF32;
      tensor.shape = {bytes / 4};
      tensor.box = Box::Whole(tensor.shape);
      tensor.memory = StridedSpan::Contiguous(data, 4, tensor.shape);
      state_.push_back(std::move(tensor));
      left -= bytes;
    }
    uint32_t random = 1;
    ForEachFloat([&random](float& value) {
      random = random * 1664525 + 1013904223;
      value = static_cast<float>(random >> 8);
    });
    return absl::OkStatus();
  }

  void ForEachFloat(const std::function<void(float&)>& visit) {
    for (const MemoryTensor& tensor : state_) {
      float* const data = reinterpret_cast<float*>(tensor.memory.data);
      for (int64_t i = 0; i < tensor.shape[0]; ++i) {
        visit(data[i]);
      }
    }
  }

  double Memcpy() {
    const double seconds = Seconds([this] {
      OnThreads(2, [this](int thread) {
        const int64_t half = AlignUp(request_.bytes / 2, 4096);
        const int64_t begin = thread * half;
        std::memcpy(copy_.data() + begin, first_ + begin, std::min(half, request_.bytes - begin));
      });
    });
    return seconds;
  }

  // Arithmetic in cache.
  void Compute(int64_t repeats) {
    OnThreads(request_.step_threads, [repeats](int) {
      std::vector<float> values(2048, 1.0F);
      for (int64_t i = 0; i < repeats; ++i) {
        for (float& value : values) {
          value = value * 0.999F + 0.001F;
        }
      }
      volatile float sink = values[7];
      static_cast<void>(sink);
    });
  }

  void Update() {
    OnThreads(request_.step_threads, [this](int thread) {
      for (size_t t = thread; t < state_.size(); t += request_.step_threads) {
        float* const data = reinterpret_cast<float*>(state_[t].memory.data);
        for (int64_t i = 0; i < state_[t].shape[0]; ++i) {
          data[i] = data[i] * 0.9999F + 1.0F;
        }
      }
    });
  }

  void Calibrate() {
    repeats_ = 1000;
    while (Seconds([this] { Compute(repeats_); }) < 0.1) {
      repeats_ *= 2;
    }
    const double seconds = Seconds([this] { Compute(repeats_); });
    repeats_ = std::max<int64_t>(1, static_cast<int64_t>(repeats_ * request_.step_seconds / seconds));
  }

  absl::StatusOr<double> Step(AsyncSaver& saver) {
    const double begin = Now();
    Compute(repeats_);
    WAYPOINT_RETURN_IF_ERROR(saver.Fence());
    Update();
    return Now() - begin;
  }

  absl::Status SaveBesideSteps(AsyncSaver& saver) {
    // Steps alone before and after, so that a machine that becomes faster or slower does so for both.
    double quiet = 0;
    constexpr int kQuietSteps = 2;
    const auto quiet_steps = [&]() -> absl::Status {
      for (int i = 0; i < kQuietSteps; ++i) {
        WAYPOINT_ASSIGN_OR_RETURN(const double seconds, Step(saver));
        quiet += seconds / (2 * kQuietSteps);
      }
      return absl::OkStatus();
    };
    WAYPOINT_RETURN_IF_ERROR(quiet_steps());
    CheckpointRoot root(PosixFileSystem(), JoinPath(request_.directory, "stall"));
    WAYPOINT_RETURN_IF_ERROR(root.Hold());
    WAYPOINT_ASSIGN_OR_RETURN(const AsyncSaveReport begun,
                              saver.Save(state_, SaveInto(root, RootOptions(), Metadata())));
    double busy = 0;
    int steps = 0;
    while (saver.busy() || steps == 0) {
      WAYPOINT_ASSIGN_OR_RETURN(const double seconds, Step(saver));
      busy += seconds;
      ++steps;
    }
    WAYPOINT_RETURN_IF_ERROR(saver.Wait());
    WAYPOINT_RETURN_IF_ERROR(quiet_steps());
    const AsyncSaveReport done = saver.TakeFinished().at(0);
    const std::string name = absl::StrCat(SnapshotMethodName(begun.method), begun.why.empty() ? "" : " (fallback)");
    Note(absl::StrCat(name, ": pause"), done.pause_seconds + done.fence_seconds);
    Note(absl::StrCat(name, ": background write"), done.write_seconds);
    Note(absl::StrCat(name, ": step beside a save / alone"), busy / steps / quiet);
    return absl::OkStatus();
  }

  CheckpointerOptions RootOptions() const {
    CheckpointerOptions options;
    options.retention.keep = 1;
    return options;
  }

  CheckpointMetadata Metadata() {
    CheckpointMetadata metadata;
    metadata.mutable_training()->set_step(++step_);
    return metadata;
  }

  absl::Status SaveAndWait() {
    WAYPOINT_ASSIGN_OR_RETURN(const auto source, NewMemoryStateSource(state_));
    CheckpointRoot root(PosixFileSystem(), JoinPath(request_.directory, "stall"));
    WAYPOINT_RETURN_IF_ERROR(root.Hold());
    absl::Status status;
    Note("durable save", Seconds([&] { status = root.Save(RootOptions(), Metadata(), *source).status(); }));
    return status;
  }

  // One file, past the page cache, synced: what the disk gives.
  absl::Status PlainWrite() {
    const std::string path = JoinPath(request_.directory, "plain");
    std::atomic<bool> failed{false};
    const double seconds = Seconds([&] {
      const int file = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
      failed = file < 0 || posix_fallocate(file, 0, AlignUp(request_.bytes, 4096)) != 0;
      std::atomic<int64_t> next{0};
      OnThreads(kDiskThreads, [&](int) {
        AlignedBuffer buffer(kBlock);
        for (int64_t begin = kBlock * next++; begin < request_.bytes && !failed; begin = kBlock * next++) {
          const int64_t bytes = std::min(kBlock, request_.bytes - begin);
          std::memcpy(buffer.data(), first_ + begin, bytes);
          const int64_t written = AlignUp(bytes, 4096);
          failed = failed || pwrite(file, buffer.data(), written, begin) != written;
        }
      });
      failed = failed || fsync(file) != 0;
      close(file);
    });
    Note("plain O_DIRECT write", seconds);
    unlink(path.c_str());
    return failed ? MakeError(ErrorKind::kIo, absl::StrCat("plain write of \"", path, "\" failed")) : absl::OkStatus();
  }

  void Note(const std::string& what, double value) {
    if (!warm_up_) {
      notes_[what].push_back(value);
    }
  }

  double Median(const std::string& what) {
    const auto found = notes_.find(what);
    if (found == notes_.end()) {
      return std::nan("");
    }
    std::vector<double>& values = found->second;
    std::sort(values.begin(), values.end());
    return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  }

  void Print() {
    const double gib = static_cast<double>(request_.bytes) / (int64_t{1} << 30);
    const double memcpy_seconds = Median("memcpy, two threads");
    const double plain_seconds = Median("plain O_DIRECT write");
    if (request_.json) {
      std::string lines;
      for (auto& [what, values] : notes_) {
        const double median = Median(what);
        absl::StrAppendFormat(&lines, "%s  \"%s\": {\"median\": %.6g, \"min\": %.6g, \"max\": %.6g, \"samples\": %d}",
                              lines.empty() ? "" : ",\n", what, median, values.front(), values.back(), values.size());
      }
      absl::PrintF("{\n  \"bytes\": %d,\n%s\n}\n", request_.bytes, lines);
      return;
    }
    absl::PrintF("%s of state, %d rounds, step %.2f s on %d threads, %d CPUs\n", HumanMemory(request_.bytes),
                 request_.rounds, request_.step_seconds, request_.step_threads, std::thread::hardware_concurrency());
    absl::PrintF("%-44s %10s %10s %10s\n", "", "median", "min", "max");
    for (auto& [what, values] : notes_) {
      const double median = Median(what);
      const bool ratio = what.find(" / ") != std::string::npos;
      absl::PrintF("%-44s %10.4f %10.4f %10.4f %s", what, median, values.front(), values.back(), ratio ? " " : "s");
      if (what.find(": pause") != std::string::npos) {
        absl::PrintF("   %.3f x memcpy, %.2f ms per GiB", median / memcpy_seconds, median * 1e3 / gib);
      } else if (what == "durable save") {
        absl::PrintF("   %.2f of plain", plain_seconds / median);
      } else if (!ratio) {
        absl::PrintF("   %.2f GB/s", static_cast<double>(request_.bytes) / median / 1e9);
      }
      absl::PrintF("\n");
    }
  }

  const Request request_;
  std::shared_ptr<SnapshotArena> arena_;
  HostMemory copy_;
  MemoryState state_;
  char* first_ = nullptr;
  int64_t repeats_ = 0;
  int64_t step_ = 0;
  bool warm_up_ = false;
  std::map<std::string, std::vector<double>> notes_;
};

ExitCode Main(int argc, const char* const* argv) {
  Request request;
  std::string size = "1GiB";
  CLI::App app("Measures how long training stands still for a save.", "save_stall");
  app.add_option("DIRECTORY", request.directory, "on the disk to measure; must exist")->required();
  app.add_option("--size", size, "of the state");
  app.add_option("--rounds", request.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--step-seconds", request.step_seconds)->check(CLI::PositiveNumber);
  app.add_option("--step-threads", request.step_threads)->check(CLI::Range(1, 256));
  app.add_flag("--durable-only", request.durable_only, "only the durable save and the plain write");
  app.add_flag("--json", request.json);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitRequest;
  }
  absl::StatusOr<int64_t> bytes = ParseBytes(size);
  absl::Status status = bytes.status();
  if (status.ok()) {
    request.bytes = AlignUp(*bytes, 4096);
    request.directory = ResolvePath(request.directory);
    status = Bench(request).Run();
  }
  return status.ok() ? kExitOk : ReportError(status, false, std::cout, std::cerr);
}

}  // namespace
}  // namespace waypoint

int main(int argc, char** argv) { return waypoint::Main(argc, argv); }
