#include "checkpoint/async/async_saver.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/base/visible_text.h"

namespace waypoint {
namespace {

constexpr char kRemedy[] = "lower what the process holds, or save without checkpoint.async";

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

 private:
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Threads that this one starts inherit it.
void LowerPriority(int nice) {
  if (nice > 0) {
    const int thread = static_cast<int>(syscall(SYS_gettid));
    setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + nice);
  }
}

int64_t BytesOf(const MemoryState& state) {
  int64_t bytes = 0;
  for (const MemoryTensor& tensor : state) {
    bytes += tensor.num_bytes();
  }
  return bytes;
}

}  // namespace

absl::string_view SnapshotMethodName(SnapshotMethod method) {
  switch (method) {
    case SnapshotMethod::kCopy:
      return "copy";
    case SnapshotMethod::kLazy:
      return "lazy";
    case SnapshotMethod::kWriteProtect:
      return "write-protect";
  }
  return "unknown";
}

SnapshotWriter SaveInto(CheckpointRoot& root, CheckpointerOptions options, CheckpointMetadata metadata,
                        std::vector<Asset> assets) {
  return [&root, options = std::move(options), metadata = std::move(metadata),
          assets = std::move(assets)](const absl::StatusOr<TensorSource*>& snapshot) -> absl::StatusOr<SaveReport> {
    if (!snapshot.ok()) {
      return CheckpointRoot::GiveUp(options, metadata, snapshot.status());
    }
    return root.Save(options, metadata, **snapshot, assets);
  };
}

struct AsyncSaver::Snapshot {
  AsyncSaveReport report;
  std::unique_ptr<StateCopy> copy;  // null when nothing is copied
  std::vector<PageGuard*> guards;   // that protect a part
  std::vector<std::shared_ptr<SnapshotArena>> arenas;
  std::unique_ptr<TensorSource> source;
  bool handed_on = false;  // the report is the last of finished_, or was taken from there

  ~Snapshot() { Release(); }
  // Once: by then the next snapshot may have protected the same pages.
  void Release() {
    for (PageGuard* guard : guards) {
      guard->Release();
      report.copied_bytes += guard->stats().pages_copied * PageGuard::kPageBytes;
    }
    guards.clear();
  }
  // Where pages are protected: whom to ask for an address.
  absl::Status CopyOut(const StridedSpan& from, const StridedSpan& to) const {
    const AddressRange range = AddressesOf(from);
    for (const auto& arena : arenas) {
      if (arena->Contains(range)) {
        return arena->guard()->Read(from, to);
      }
    }
    CopyStrided(from, to);
    return absl::OkStatus();
  }
};

AsyncSaver::AsyncSaver(AsyncSaveOptions options) : options_(std::move(options)) {}

AsyncSaver::~AsyncSaver() {
  Join();
  const absl::Status failure = TakeFailure();
  if (failure.ok()) {
    return;
  }
  UnlessOutOfMemory([&] {
    if (options_.on_lost_failure) {
      options_.on_lost_failure(failure);
    } else {
      std::fprintf(stderr, "%s\n", VisibleText(failure.message(), NewLines::kIndented).c_str());
    }
  });
}

absl::Status AsyncSaver::TakeFailure() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(failure_, absl::OkStatus());
}

void AsyncSaver::Join() {
  if (background_.joinable()) {
    background_.join();
  }
  snapshot_.reset();  // lets go of the tensors
}

bool AsyncSaver::busy() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return busy_;
}

std::vector<AsyncSaveReport> AsyncSaver::TakeFinished() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(finished_, {});
}

absl::Status AsyncSaver::Reserve(int64_t bytes) {
  if (options_.max_snapshot_bytes > 0 && bytes > options_.max_snapshot_bytes) {
    return MakeError(ErrorKind::kLimit,
                     absl::StrCat("a snapshot needs ", bytes, " bytes of copies, max_snapshot_bytes is ",
                                  options_.max_snapshot_bytes));
  }
  if (bytes > memory_.size_bytes()) {
    memory_ = HostMemory();
    WAYPOINT_ASSIGN_OR_RETURN(HostMemory memory, HostMemory::Map(bytes));
    WAYPOINT_RETURN_IF_ERROR(memory.Populate(std::max(1, options_.copy_threads)));
    memory_ = std::move(memory);
  }
  return absl::OkStatus();
}

absl::Status AsyncSaver::Prepare(const MemoryState& state) {
  WAYPOINT_RETURN_IF_ERROR(Wait());
  WAYPOINT_RETURN_IF_ERROR(ManifestOf(state).status());
  MemoryState copied;
  for (const MemoryTensor& tensor : state) {
    const bool stays = options_.method == SnapshotMethod::kWriteProtect && !tensor.fetch &&
                       std::any_of(options_.arenas.begin(), options_.arenas.end(), [&tensor](const auto& arena) {
                         return arena->guard() != nullptr && arena->Contains(AddressesOf(tensor.memory));
                       });
    if (!stays) {
      copied.push_back(tensor);
    }
  }
  return Reserve(StateCopy::BytesFor(copied));
}

absl::Status AsyncSaver::CopyNow(StateCopy& copy) const {
  std::vector<std::thread> others;
  others.reserve(std::max(0, options_.copy_threads));
  for (int i = 1; i < options_.copy_threads; ++i) {
    absl::StatusOr<std::thread> other = StartThread([&copy] { copy.Work(); });
    if (!other.ok()) {
      break;  // Finish does its share
    }
    others.push_back(*std::move(other));
  }
  const absl::Status status = copy.Finish();
  for (std::thread& other : others) {
    other.join();
  }
  return status;
}

// Splits the state into what is protected now and what must be copied.
void AsyncSaver::ProtectArenas(Snapshot& snapshot, MemoryState& rest, MemoryState& protected_part) {
  MemoryState unprotected;
  std::vector<std::string> reasons;
  for (const auto& arena : options_.arenas) {
    std::vector<AddressRange> ranges;
    MemoryState inside;
    MemoryState outside;
    for (MemoryTensor& tensor : rest) {
      const AddressRange range = AddressesOf(tensor.memory);
      if (!tensor.fetch && arena->Contains(range)) {
        ranges.push_back(range);
        inside.push_back(std::move(tensor));
      } else {
        outside.push_back(std::move(tensor));
      }
    }
    rest = std::move(outside);
    if (inside.empty()) {
      continue;
    }
    std::string refusal = arena->refusal();
    if (arena->guard() != nullptr) {
      const absl::Status status = arena->guard()->Protect(ranges);
      refusal = std::string(status.message());
    }
    if (!refusal.empty()) {
      reasons.push_back(refusal);
      std::move(inside.begin(), inside.end(), std::back_inserter(unprotected));
      continue;
    }
    snapshot.guards.push_back(arena->guard());
    snapshot.arenas.push_back(arena);
    std::move(inside.begin(), inside.end(), std::back_inserter(protected_part));
  }
  if (!rest.empty()) {
    reasons.push_back(absl::StrCat(rest.size(), " tensors lie in no arena, as \"", rest[0].name, "\""));
  }
  std::move(unprotected.begin(), unprotected.end(), std::back_inserter(rest));
  if (!reasons.empty()) {
    snapshot.report.why = absl::StrCat("copied ", BytesOf(rest), " bytes: ", absl::StrJoin(reasons, "; "));
  }
  snapshot.report.method = snapshot.guards.empty() ? SnapshotMethod::kCopy : SnapshotMethod::kWriteProtect;
}

absl::StatusOr<std::unique_ptr<AsyncSaver::Snapshot>> AsyncSaver::Take(const MemoryState& state) {
  WAYPOINT_RETURN_IF_ERROR(ManifestOf(state).status());
  auto snapshot = absl::make_unique<Snapshot>();
  snapshot->report.method = options_.method;
  snapshot->report.state_bytes = BytesOf(state);
  MemoryState rest = state;
  MemoryState parts;
  if (options_.method == SnapshotMethod::kWriteProtect) {
    ProtectArenas(*snapshot, rest, parts);
  }
  if (!rest.empty()) {
    WAYPOINT_RETURN_IF_ERROR(Reserve(StateCopy::BytesFor(rest)));
    snapshot->copy = absl::make_unique<StateCopy>(std::move(rest), memory_.data());
    snapshot->report.copied_bytes = snapshot->copy->bytes();
    if (options_.method != SnapshotMethod::kLazy) {
      WAYPOINT_RETURN_IF_ERROR(CopyNow(*snapshot->copy));
    }
    const MemoryState& copied = snapshot->copy->copied();
    parts.insert(parts.end(), copied.begin(), copied.end());
  }
  // In the state's order, so that the checkpoint is the same whatever the method.
  absl::flat_hash_map<absl::string_view, size_t> order;
  for (size_t i = 0; i < state.size(); ++i) {
    order.emplace(state[i].name, i);
  }
  std::stable_sort(parts.begin(), parts.end(), [&order](const MemoryTensor& a, const MemoryTensor& b) {
    return order.at(a.name) < order.at(b.name);
  });
  const Snapshot* const self = snapshot.get();
  WAYPOINT_ASSIGN_OR_RETURN(
      snapshot->source,
      NewMemoryStateSource(
          std::move(parts),
          snapshot->guards.empty() ? CopyFunction() : [self](const StridedSpan& from, const StridedSpan& to) {
            return self->CopyOut(from, to);
          }));
  return snapshot;
}

absl::StatusOr<AsyncSaveReport> AsyncSaver::Save(const MemoryState& state, SnapshotWriter write) {
  return CatchAllocation("a save beside training", kRemedy, [&] { return BeginSave(state, std::move(write)); });
}

absl::StatusOr<AsyncSaveReport> AsyncSaver::BeginSave(const MemoryState& state, SnapshotWriter write) {
  const Stopwatch waiting;
  const auto writer = std::make_shared<const SnapshotWriter>(std::move(write));
  if (!options_.wait_when_busy) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (busy_ || telling_) {
      untold_.push_back({writer, MakeError(ErrorKind::kLocked,
                                           "the save before is still being written; wait for it, or "
                                           "save less often")});
      return untold_.back().why;
    }
  }
  Join();
  if (const absl::Status failure = TakeFailure(); !failure.ok()) {
    Tell(writer, failure);
    return failure;
  }
  const double waited_seconds = waiting.seconds();

  const Stopwatch pausing;
  absl::StatusOr<std::unique_ptr<Snapshot>> taken =
      CatchAllocation("a snapshot of the state", kRemedy, [&] { return Take(state); });
  if (!taken.ok()) {
    Tell(writer, taken.status());
    return taken.status();
  }
  snapshot_ = *std::move(taken);
  Snapshot& snapshot = *snapshot_;
  snapshot.report.waited_seconds = waited_seconds;
  fenced_ = false;
  absl::StatusOr<std::thread> background;
  {
    // Held so that the report is whole before the background can hand it on.
    const std::lock_guard<std::mutex> lock(mutex_);
    background = StartThread([this, &snapshot, writer] { Write(snapshot, *writer); });
    if (background.ok()) {
      busy_ = true;
      background_ = *std::move(background);
      snapshot.report.pause_seconds = pausing.seconds();
      return snapshot.report;
    }
  }
  snapshot_.reset();
  Tell(writer, background.status());
  return background.status();
}

void AsyncSaver::Write(Snapshot& snapshot, const SnapshotWriter& write) {
  absl::StatusOr<TensorSource*> source = snapshot.source.get();
  if (options_.method == SnapshotMethod::kLazy && snapshot.copy != nullptr) {
    if (const absl::Status copied = snapshot.copy->Finish(); !copied.ok()) {
      source = copied;
    }
  }
  // Only now: the fence would wait for a copy that everybody else goes before.
  LowerPriority(options_.background_nice);
  const Stopwatch writing;
  absl::StatusOr<SaveReport> saved =
      CatchAllocation("what is written in the background", kRemedy, [&] { return write(source); });
  if (!source.ok()) {
    saved = source.status();
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    snapshot.Release();
    const absl::Status told = CatchAllocation("the report of a background save", kRemedy, [&]() -> absl::Status {
      if (!saved.ok()) {
        return Annotate(saved.status(), "background save");
      }
      snapshot.report.save = *std::move(saved);
      snapshot.report.write_seconds = writing.seconds();
      finished_.push_back(snapshot.report);
      snapshot.handed_on = true;
      return absl::OkStatus();
    });
    if (!told.ok()) {
      failure_ = told;
    }
    busy_ = false;
    telling_ = !untold_.empty();
    if (!telling_) {
      return;
    }
  }
  TellAll();
}

void AsyncSaver::Tell(std::shared_ptr<const SnapshotWriter> write, const absl::Status& why) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    untold_.push_back({std::move(write), why});
    telling_ = true;
  }
  absl::StatusOr<std::thread> background = StartThread([this] { TellAll(); });
  if (background.ok()) {
    background_ = *std::move(background);
  } else {
    // The other ranks wait for this one, so better slowly than never.
    TellAll();
  }
}

void AsyncSaver::TellAll() {
  for (;;) {
    Untold next;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (untold_.empty()) {
        telling_ = false;
        return;
      }
      next = std::move(untold_.front());
      untold_.pop_front();
    }
    // Whoever called Save has the error.  A rank that cannot even tell it is missed by the others in time.
    CatchAllocation("word to the other ranks", kRemedy, [&] { return (*next.write)(next.why).status(); }).IgnoreError();
  }
}

absl::Status AsyncSaver::Fence() {
  if (snapshot_ != nullptr && options_.method == SnapshotMethod::kLazy && !fenced_) {
    fenced_ = true;
    const Stopwatch waiting;
    // Its error is the background save's, too.
    if (snapshot_->copy != nullptr) {
      snapshot_->copy->Finish().IgnoreError();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    snapshot_->report.fence_seconds = waiting.seconds();
    // The save may have been quicker than this line.
    if (snapshot_->handed_on && !finished_.empty()) {
      finished_.back().fence_seconds = snapshot_->report.fence_seconds;
    }
  }
  return TakeFailure();
}

absl::Status AsyncSaver::Wait() {
  Join();
  return TakeFailure();
}

}  // namespace waypoint
