#include "checkpoint/async/async_saver.h"

#include <atomic>
#include <cstring>
#include <iostream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kLargeElements = 1300 * 1000;  // over two huge pages

// Tensors of float32: large, strided (a transpose), small and a box of a larger one, in an arena or not.
class Model {
 public:
  explicit Model(std::shared_ptr<SnapshotArena> arena = nullptr) : arena_(std::move(arena)) {
    Add("large", {1300, 1000});
    MemoryTensor& transposed = Add("transposed", {300, 200});
    transposed.memory = transposed.memory.Transpose({1, 0});
    transposed.shape = {200, 300};
    transposed.box = Box::Whole(transposed.shape);
    Add("small", {3});
    Add("scalar", {});
    Add("empty", {0, 4});
    MemoryTensor& shard = Add("shard", {2, 5});
    shard.shape = {8, 5};
    shard.box.offsets = {4, 0};
    Fill(1);
  }

  const MemoryState& state() const { return state_; }

  void Fill(float first) {
    for (size_t t = 0; t < buffers_.size(); ++t) {
      for (int64_t i = 0; i < buffers_[t].second; ++i) {
        buffers_[t].first[i] = first + static_cast<float>(t) + static_cast<float>(i % 1000);
      }
    }
  }

  // Every tensor as `source` gives it.
  static std::string Bytes(TensorSource& source) {
    std::string all;
    for (int64_t t = 0; t < source.manifest().size(); ++t) {
      const TensorMeta& meta = source.manifest()[t];
      const Box box = meta.boxes.empty() ? Box::Whole(meta.shape) : meta.boxes[0];
      std::string bytes(box.num_elements() * DTypeBytes(meta.dtype), 'x');
      const absl::Status status =
          source.Read({{t, box, StridedSpan::Contiguous(bytes.data(), DTypeBytes(meta.dtype), box.sizes)}});
      absl::StrAppend(&all, meta.name, ":", status.ok() ? bytes : status.ToString(), ";");
    }
    return all;
  }
  std::string Bytes() const { return Bytes(**NewMemoryStateSource(state_)); }

 private:
  MemoryTensor& Add(const std::string& name, Dims shape) {
    const int64_t elements = NumElements(shape);
    float* data = nullptr;
    if (arena_ != nullptr) {
      data = reinterpret_cast<float*>(arena_->Allocate(elements * 4).value());
    } else {
      heap_.emplace_back(std::max<int64_t>(elements, 1));
      data = heap_.back().data();
    }
    buffers_.emplace_back(data, elements);
    MemoryTensor tensor;
    tensor.name = name;
    tensor.dtype = DType::kF32;
    tensor.shape = shape;
    tensor.box = Box::Whole(shape);
    tensor.memory = StridedSpan::Contiguous(reinterpret_cast<char*>(data), 4, shape);
    state_.push_back(std::move(tensor));
    return state_.back();
  }

  std::shared_ptr<SnapshotArena> arena_;
  std::vector<std::vector<float>> heap_;
  std::vector<std::pair<float*, int64_t>> buffers_;
  MemoryState state_;
};

std::shared_ptr<SnapshotArena> NewArena(bool write_protect, int64_t reserve_bytes = -1) {
  ArenaOptions options;
  options.write_protect = write_protect;
  options.reserve_bytes = reserve_bytes;
  return SnapshotArena::Create(kLargeElements * 4 + (int64_t{1} << 20), options).value();
}

// A write that starts when it is told to, and keeps what it read.
class HeldWrite {
 public:
  SnapshotWriter Writer(absl::Status result = absl::OkStatus()) {
    return [this, result](const absl::StatusOr<TensorSource*>& snapshot) -> absl::StatusOr<SaveReport> {
      begin_.WaitForNotification();
      bytes_ = Model::Bytes(**snapshot);
      if (!result.ok()) {
        return result;
      }
      return SaveReport();
    };
  }
  void Begin() { begin_.Notify(); }
  // After Wait.
  const std::string& bytes() const { return bytes_; }

 private:
  absl::Notification begin_;
  std::string bytes_;
};

SnapshotWriter Fails() {
  return [](const absl::StatusOr<TensorSource*>&) -> absl::StatusOr<SaveReport> {
    return MakeError(ErrorKind::kNoSpace, "the disk is full");
  };
}

SnapshotWriter Succeeds() {
  return [](const absl::StatusOr<TensorSource*>&) -> absl::StatusOr<SaveReport> { return SaveReport(); };
}

class MethodTest : public ::testing::TestWithParam<SnapshotMethod> {
 protected:
  void SetUp() override {
    options_.method = GetParam();
    if (GetParam() == SnapshotMethod::kWriteProtect) {
      arena_ = NewArena(true);
      options_.arenas = {arena_};
      if (arena_->guard() == nullptr) {
        std::cout << "no write protection here, its fallback is tested: " << arena_->refusal() << std::endl;
      }
    }
  }

  SnapshotMethod Expected() const {
    return arena_ != nullptr && arena_->guard() == nullptr ? SnapshotMethod::kCopy : GetParam();
  }

  AsyncSaveOptions options_;
  std::shared_ptr<SnapshotArena> arena_;
};

TEST_P(MethodTest, TheSnapshotIsTheStateOfTheCall) {
  Model model(arena_);
  AsyncSaver saver(options_);
  ASSERT_OK(saver.Prepare(model.state()));
  for (int round = 0; round < 3; ++round) {
    const std::string before = model.Bytes();
    HeldWrite write;
    ASSERT_OK_AND_ASSIGN(const AsyncSaveReport begun, saver.Save(model.state(), write.Writer()));
    EXPECT_TRUE(saver.busy());
    EXPECT_EQ(begun.method, Expected());
    EXPECT_GE(begun.pause_seconds, 0);

    ASSERT_OK(saver.Fence());
    model.Fill(static_cast<float>(round) * 1000 + 7);
    write.Begin();
    ASSERT_OK(saver.Wait());

    EXPECT_FALSE(saver.busy());
    EXPECT_TRUE(write.bytes() == before) << round;
    EXPECT_FALSE(model.Bytes() == before) << round;
  }
  const std::vector<AsyncSaveReport> finished = saver.TakeFinished();
  ASSERT_THAT(finished, SizeIs(3));
  EXPECT_EQ(finished[0].method, Expected());
  EXPECT_EQ(finished[0].state_bytes, 4 * (kLargeElements + 300 * 200 + 3 + 1 + 10));
  EXPECT_GE(finished[0].copied_bytes, finished[0].state_bytes);
  EXPECT_THAT(saver.TakeFinished(), IsEmpty());
}

TEST_P(MethodTest, TheStateChangesWhileItIsWritten) {
  Model model(arena_);
  AsyncSaver saver(options_);
  for (int round = 0; round < 4; ++round) {
    const std::string before = model.Bytes();
    HeldWrite write;
    write.Begin();
    ASSERT_OK(saver.Save(model.state(), write.Writer()));
    ASSERT_OK(saver.Fence());
    model.Fill(static_cast<float>(round) * 1000 + 7);
    ASSERT_OK(saver.Wait());
    ASSERT_TRUE(write.bytes() == before) << round;
  }
}

TEST_P(MethodTest, ASavedCheckpointHasTheStateOfTheCallAndTheBudgetHolds) {
  Model model(arena_);
  MemoryState whole = model.state();
  whole.pop_back();  // "native" is of whole tensors
  MemoryFileSystem fs;
  CheckpointRoot root(fs, "/root");
  CheckpointMetadata metadata;
  metadata.mutable_training()->set_step(3);
  CheckpointerOptions options;
  options.transfer.max_bytes_in_flight = 1 << 20;
  options.save.block_bytes = 1 << 18;
  const std::string before = Model::Bytes(**NewMemoryStateSource(whole));
  AsyncSaver saver(options_);

  ASSERT_OK(saver.Save(whole, SaveInto(root, options, metadata)));
  ASSERT_OK(saver.Fence());
  model.Fill(5);
  ASSERT_OK(saver.Wait());

  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, FindFormat(fs, "/root/step-00000003", "native"));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(fs, "/root/step-00000003", {}));
  for (const MemoryTensor& tensor : whole) {
    ASSERT_GE(opened.tensors->manifest().Find(tensor.name), 0) << tensor.name;
  }
  std::string stored;
  for (const MemoryTensor& tensor : whole) {
    const int64_t index = opened.tensors->manifest().Find(tensor.name);
    std::string bytes(tensor.num_bytes(), 'x');
    ASSERT_OK(opened.tensors->Read({{index, tensor.box, StridedSpan::Contiguous(bytes.data(), 4, tensor.box.sizes)}}));
    absl::StrAppend(&stored, tensor.name, ":", bytes, ";");
  }
  EXPECT_TRUE(stored == before);
  const std::vector<AsyncSaveReport> finished = saver.TakeFinished();
  ASSERT_THAT(finished, SizeIs(1));
  EXPECT_EQ(finished[0].save.checkpoint.path, "/root/step-00000003");
  EXPECT_GT(finished[0].save.stats.peak_bytes_in_flight, 0);
  EXPECT_LE(finished[0].save.stats.peak_bytes_in_flight, 1 << 20);
}

TEST_P(MethodTest, AFailureIsReportedOnceByTheNextCall) {
  Model model(arena_);
  AsyncSaver saver(options_);
  const auto is_the_failure =
      IsKind(ErrorKind::kNoSpace, AllOf(HasSubstr("background save"), HasSubstr("disk is full")));

  ASSERT_OK(saver.Save(model.state(), Fails()));
  EXPECT_THAT(saver.Wait(), is_the_failure);
  EXPECT_OK(saver.Wait());

  ASSERT_OK(saver.Save(model.state(), Fails()));
  EXPECT_THAT(saver.Save(model.state(), Succeeds()), is_the_failure);
  EXPECT_FALSE(saver.busy());

  ASSERT_OK(saver.Save(model.state(), Fails()));
  while (saver.busy()) {
    std::this_thread::yield();
  }
  EXPECT_THAT(saver.Fence(), is_the_failure);

  ASSERT_OK(saver.Save(model.state(), Succeeds()));
  EXPECT_OK(saver.Wait());
  EXPECT_THAT(saver.TakeFinished(), SizeIs(1));
}

TEST_P(MethodTest, TheDestructorWaitsAndReportsAFailure) {
  Model model(arena_);
  HeldWrite write;
  std::vector<absl::Status> lost;
  options_.on_lost_failure = [&lost](const absl::Status& status) { lost.push_back(status); };
  {
    AsyncSaver saver(options_);
    ASSERT_OK(saver.Save(model.state(), write.Writer(MakeError(ErrorKind::kNoSpace, "the disk is full"))));
    write.Begin();
  }
  ASSERT_THAT(lost, SizeIs(1));
  EXPECT_THAT(lost[0], IsKind(ErrorKind::kNoSpace, HasSubstr("the disk is full")));
  EXPECT_TRUE(write.bytes() == model.Bytes());
}

TEST_P(MethodTest, AFailedBackgroundSaveDeletesNothing) {
  Model model(arena_);
  MemoryState whole = model.state();
  whole.pop_back();
  MemoryFileSystem memory;
  CheckpointMetadata metadata;
  CheckpointerOptions options;
  options.retention.keep = 1;
  AsyncSaver saver(options_);
  {
    CheckpointRoot root(memory, "/root");
    metadata.mutable_training()->set_step(1);
    ASSERT_OK(saver.Save(whole, SaveInto(root, options, metadata)));
    ASSERT_OK(saver.Wait());
  }
  FaultFileSystem full(memory, Fault::kFullDisk, 4);
  CheckpointRoot root(full, "/root");
  metadata.mutable_training()->set_step(2);

  ASSERT_OK(saver.Save(whole, SaveInto(root, options, metadata)));

  EXPECT_THAT(saver.Wait(), IsKind(ErrorKind::kNoSpace, HasSubstr("save of step 2")));
  ASSERT_OK_AND_ASSIGN(const std::vector<CheckpointRef> left, CheckpointRoot(memory, "/root").List());
  ASSERT_THAT(left, SizeIs(1));
  EXPECT_EQ(left[0].step, 1);
}

TEST_P(MethodTest, ASecondSaveWaitsOrIsRefused) {
  Model model(arena_);
  options_.wait_when_busy = false;
  AsyncSaver refusing(options_);
  HeldWrite held;
  ASSERT_OK(refusing.Save(model.state(), held.Writer()));
  EXPECT_THAT(refusing.Save(model.state(), Succeeds()), IsKind(ErrorKind::kLocked, HasSubstr("still being written")));
  held.Begin();
  ASSERT_OK(refusing.Wait());

  options_.wait_when_busy = true;
  AsyncSaver waiting(options_);
  std::atomic<int> running{0};
  const SnapshotWriter alone = [&running](const absl::StatusOr<TensorSource*>&) -> absl::StatusOr<SaveReport> {
    EXPECT_EQ(++running, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    --running;
    return SaveReport();
  };
  ASSERT_OK(waiting.Save(model.state(), alone));
  ASSERT_OK_AND_ASSIGN(const AsyncSaveReport second, waiting.Save(model.state(), alone));
  ASSERT_OK(waiting.Wait());

  EXPECT_GT(second.waited_seconds, 0);
  EXPECT_THAT(waiting.TakeFinished(), SizeIs(2));
}

INSTANTIATE_TEST_SUITE_P(Methods, MethodTest,
                         ::testing::Values(SnapshotMethod::kCopy, SnapshotMethod::kLazy, SnapshotMethod::kWriteProtect),
                         [](const auto& info) {
                           return info.param == SnapshotMethod::kWriteProtect
                                      ? std::string("write_protect")
                                      : std::string(SnapshotMethodName(info.param));
                         });

TEST(AsyncSaverTest, AStateOverTheLimitIsRefused) {
  Model model;
  AsyncSaveOptions options;
  options.max_snapshot_bytes = 1000;
  AsyncSaver saver(options);

  EXPECT_THAT(saver.Save(model.state(), Succeeds()), IsKind(ErrorKind::kLimit, HasSubstr("max_snapshot_bytes")));
  EXPECT_THAT(saver.Prepare(model.state()), IsKind(ErrorKind::kLimit));
  EXPECT_FALSE(saver.busy());
}

TEST(AsyncSaverTest, ABadStateIsRefused) {
  Model model;
  AsyncSaver saver({});
  MemoryState state = model.state();
  state[0].memory.strides[0] = -4;
  EXPECT_THAT(saver.Save(state, Succeeds()), IsKind(ErrorKind::kRequest, HasSubstr("\"large\"")));
  state = model.state();
  state[2].dtype = DType::kF4;
  EXPECT_THAT(saver.Save(state, Succeeds()), IsKind(ErrorKind::kDType, HasSubstr("\"small\"")));
  state = model.state();
  state[1].name = "large";
  EXPECT_THAT(saver.Save(state, Succeeds()), IsKind(ErrorKind::kDupKey));
}

// A tensor that the CPU cannot address.
MemoryState Fetched(std::function<absl::Status(const StridedSpan&)> fetch) {
  MemoryTensor tensor;
  tensor.name = "device";
  tensor.dtype = DType::kU8;
  tensor.shape = {4};
  tensor.box = Box::Whole(tensor.shape);
  tensor.fetch = std::move(fetch);
  return {tensor};
}

TEST(AsyncSaverTest, TensorsWithoutMemoryAreFetched) {
  for (const SnapshotMethod method : {SnapshotMethod::kCopy, SnapshotMethod::kLazy, SnapshotMethod::kWriteProtect}) {
    AsyncSaveOptions options;
    options.method = method;
    AsyncSaver saver(options);
    HeldWrite write;
    write.Begin();

    ASSERT_OK(saver.Save(Fetched([](const StridedSpan& to) {
                           std::memcpy(to.data, "abcd", 4);
                           return absl::OkStatus();
                         }),
                         write.Writer()));
    ASSERT_OK(saver.Wait());
    EXPECT_EQ(write.bytes(), "device:abcd;");
  }
}

TEST(AsyncSaverTest, AFetchThatFailsFailsTheSave) {
  const MemoryState state = Fetched([](const StridedSpan&) { return absl::InternalError("device lost"); });
  AsyncSaver copying({});
  EXPECT_THAT(std::string(copying.Save(state, Succeeds()).status().message()),
              AllOf(HasSubstr("\"device\""), HasSubstr("device lost")));

  AsyncSaveOptions options;
  options.method = SnapshotMethod::kLazy;
  AsyncSaver lazy(options);
  ASSERT_OK(lazy.Save(state, Succeeds()));
  EXPECT_THAT(std::string(lazy.Wait().message()), AllOf(HasSubstr("\"device\""), HasSubstr("device lost")));
  EXPECT_THAT(lazy.TakeFinished(), IsEmpty());
}

TEST(AsyncSaverTest, TheFenceWaitsForThePieceThatIsBeingCopied) {
  absl::Notification copying;
  absl::Notification go_on;
  std::atomic<bool> copied{false};
  AsyncSaveOptions options;
  options.method = SnapshotMethod::kLazy;
  AsyncSaver saver(options);
  ASSERT_OK(saver.Save(Fetched([&](const StridedSpan& to) {
                         copying.Notify();
                         go_on.WaitForNotification();
                         std::memset(to.data, 1, 4);
                         copied = true;
                         return absl::OkStatus();
                       }),
                       Succeeds()));
  copying.WaitForNotification();
  std::thread later([&go_on] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    go_on.Notify();
  });

  ASSERT_OK(saver.Fence());

  EXPECT_TRUE(copied);
  later.join();
  ASSERT_OK(saver.Wait());
  EXPECT_GT(saver.TakeFinished().at(0).fence_seconds, 0);
}

TEST(AsyncSaverTest, WithoutWriteProtectionTheStateIsCopiedAndTheReportSaysWhy) {
  const auto arena = NewArena(false);
  Model model(arena);
  const std::string before = model.Bytes();
  AsyncSaveOptions options;
  options.method = SnapshotMethod::kWriteProtect;
  options.arenas = {arena};
  AsyncSaver saver(options);
  HeldWrite write;

  ASSERT_OK_AND_ASSIGN(const AsyncSaveReport report, saver.Save(model.state(), write.Writer()));
  model.Fill(9);
  write.Begin();
  ASSERT_OK(saver.Wait());

  EXPECT_EQ(report.method, SnapshotMethod::kCopy);
  EXPECT_THAT(report.why, HasSubstr("switched off"));
  EXPECT_EQ(report.copied_bytes, report.state_bytes);
  EXPECT_TRUE(write.bytes() == before);
}

TEST(AsyncSaverTest, TensorsOutsideTheArenaAreCopiedBesideProtectedOnes) {
  const auto arena = NewArena(true);
  Model inside(arena);
  Model outside;
  MemoryState state = inside.state();
  for (MemoryTensor tensor : outside.state()) {
    tensor.name = "other." + tensor.name;
    state.insert(state.begin() + 1, tensor);
  }
  const std::string before = Model::Bytes(**NewMemoryStateSource(state));
  AsyncSaveOptions options;
  options.method = SnapshotMethod::kWriteProtect;
  options.arenas = {arena};
  AsyncSaver saver(options);
  HeldWrite write;

  ASSERT_OK_AND_ASSIGN(const AsyncSaveReport report, saver.Save(state, write.Writer()));
  inside.Fill(9);
  outside.Fill(9);
  write.Begin();
  ASSERT_OK(saver.Wait());

  EXPECT_THAT(report.why, HasSubstr("6 tensors lie in no arena"));
  if (arena->guard() != nullptr) {
    EXPECT_EQ(report.method, SnapshotMethod::kWriteProtect);
    EXPECT_EQ(report.copied_bytes * 2, report.state_bytes);
  }
  // In the order of the state, too.
  EXPECT_TRUE(write.bytes() == before);
}

TEST(AsyncSaverTest, TwoSaversOfOneArenaBothSaveWhatTheyWereGiven) {
  const auto arena = NewArena(true);
  if (arena->guard() == nullptr) {
    GTEST_SKIP() << arena->refusal();
  }
  Model model(arena);
  const std::string before = model.Bytes();
  AsyncSaveOptions options;
  options.method = SnapshotMethod::kWriteProtect;
  options.arenas = {arena};
  AsyncSaver first(options);
  AsyncSaver second(options);
  HeldWrite first_write;
  HeldWrite second_write;

  ASSERT_OK_AND_ASSIGN(const AsyncSaveReport protects, first.Save(model.state(), first_write.Writer()));
  ASSERT_OK_AND_ASSIGN(const AsyncSaveReport copies, second.Save(model.state(), second_write.Writer()));
  second_write.Begin();
  ASSERT_OK(second.Wait());
  model.Fill(9);
  first_write.Begin();
  ASSERT_OK(first.Wait());

  EXPECT_EQ(protects.method, SnapshotMethod::kWriteProtect);
  EXPECT_EQ(copies.method, SnapshotMethod::kCopy);
  EXPECT_THAT(copies.why, HasSubstr("by another saver"));
  EXPECT_TRUE(first_write.bytes() == before);
  EXPECT_TRUE(second_write.bytes() == before);
  // The page guard is free again.
  HeldWrite third;
  third.Begin();
  ASSERT_OK_AND_ASSIGN(const AsyncSaveReport again, second.Save(model.state(), third.Writer()));
  ASSERT_OK(second.Wait());
  EXPECT_EQ(again.method, SnapshotMethod::kWriteProtect);
}

TEST(AsyncSaverTest, TheFenceOfAFailedSaveIsNotThatOfTheOneBefore) {
  Model model;
  AsyncSaveOptions options;
  options.method = SnapshotMethod::kLazy;
  AsyncSaver saver(options);
  ASSERT_OK(saver.Save(model.state(), Succeeds()));
  ASSERT_OK(saver.Wait());
  ASSERT_OK(saver.Save(model.state(), Fails()));
  while (saver.busy()) {
    std::this_thread::yield();
  }

  EXPECT_THAT(saver.Fence(), IsKind(ErrorKind::kNoSpace));

  const std::vector<AsyncSaveReport> finished = saver.TakeFinished();
  ASSERT_THAT(finished, SizeIs(1));
  EXPECT_EQ(finished[0].fence_seconds, 0);
}

TEST(AsyncSaverTest, AFullReserveFailsTheSaveNotTheTrainer) {
  const auto arena = NewArena(true, /*reserve_bytes=*/PageGuard::kPageBytes);
  if (arena->guard() == nullptr) {
    GTEST_SKIP() << arena->refusal();
  }
  Model model(arena);
  AsyncSaveOptions options;
  options.method = SnapshotMethod::kWriteProtect;
  options.arenas = {arena};
  AsyncSaver saver(options);
  absl::Notification overwritten;

  ASSERT_OK(saver.Save(
      model.state(), [&overwritten](const absl::StatusOr<TensorSource*>& snapshot) -> absl::StatusOr<SaveReport> {
        overwritten.WaitForNotification();
        std::vector<char> bytes(kLargeElements * 4);
        const absl::Status status =
            (*snapshot)->Read({{0, Box::Whole({1300, 1000}), StridedSpan::Contiguous(bytes.data(), 4, {1300, 1000})}});
        return status.ok() ? absl::StatusOr<SaveReport>(SaveReport()) : status;
      }));
  model.Fill(9);
  overwritten.Notify();

  EXPECT_THAT(saver.Wait(), IsKind(ErrorKind::kLimit, AllOf(HasSubstr("\"large\""), HasSubstr("reserve"))));
}

}  // namespace
}  // namespace waypoint
