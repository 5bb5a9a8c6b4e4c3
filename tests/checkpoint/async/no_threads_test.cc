// Where the system has no thread to give: work is done by those that are there, and nothing throws.

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "checkpoint/async/async_saver.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/checkpointer/trash_remover.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/status_matchers.h"

namespace {

std::atomic<bool> refuse_threads{false};

}  // namespace

// Comes before libc's.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                              void* argument) {
  if (refuse_threads) {
    return EAGAIN;
  }
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, start, argument);
}

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class NoThreadsTest : public ::testing::Test {
 protected:
  void TearDown() override { refuse_threads = false; }
};

MemoryState StateAt(std::vector<char>& bytes) {
  MemoryTensor tensor;
  tensor.name = "w";
  tensor.dtype = DType::kU8;
  tensor.shape = {static_cast<int64_t>(bytes.size())};
  tensor.box = Box::Whole(tensor.shape);
  tensor.memory = StridedSpan::Contiguous(bytes.data(), 1, tensor.shape);
  return {tensor};
}

TEST_F(NoThreadsTest, StartThreadSaysSo) {
  refuse_threads = true;

  EXPECT_THAT(StartThread([] {}), IsKind(ErrorKind::kLimit, ::testing::HasSubstr("thread")));
}

TEST_F(NoThreadsTest, ABackgroundSaveFailsTellsItsWriterAndTheNextOneWorks) {
  std::vector<char> bytes(20 << 20, 'a');
  AsyncSaveOptions options;
  options.copy_threads = 3;
  AsyncSaver saver(options);
  std::vector<absl::Status> snapshots;
  const SnapshotWriter write =
      [&snapshots](const absl::StatusOr<TensorSource*>& snapshot) -> absl::StatusOr<SaveReport> {
    snapshots.push_back(snapshot.status());
    return SaveReport();
  };

  refuse_threads = true;
  ASSERT_OK(saver.Prepare(StateAt(bytes)));
  EXPECT_THAT(saver.Save(StateAt(bytes), write), IsKind(ErrorKind::kLimit));
  EXPECT_FALSE(saver.busy());
  EXPECT_OK(saver.Fence());
  EXPECT_OK(saver.Wait());
  refuse_threads = false;

  ASSERT_OK(saver.Save(StateAt(bytes), write));
  ASSERT_OK(saver.Wait());
  EXPECT_THAT(snapshots, ElementsAre(IsKind(ErrorKind::kLimit), IsOk()));
  EXPECT_THAT(saver.TakeFinished(), SizeIs(1));
}

TEST_F(NoThreadsTest, ASaveAndItsRetentionWorkInTheCallersThread) {
  MemoryFileSystem fs;
  CheckpointRoot root(fs, "/root");
  CheckpointerOptions options;
  options.transfer.threads = 4;
  options.save.block_bytes = 64;
  options.retention.keep = 1;
  MemorySource state;
  state.Add("w", DType::kF32, {1000}, std::vector<float>(1000, 2));
  refuse_threads = true;
  ASSERT_OK(root.Hold());
  for (int64_t step = 1; step <= 2; ++step) {
    CheckpointMetadata metadata;
    metadata.mutable_training()->set_step(step);
    ASSERT_OK(root.Save(options, metadata, state));
  }

  EXPECT_THAT(root.Release(), IsEmpty());
  EXPECT_THAT(root.List().value(), SizeIs(1));
}

}  // namespace
}  // namespace waypoint
