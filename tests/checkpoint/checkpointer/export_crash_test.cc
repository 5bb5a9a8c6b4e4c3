// External formats have no seal: what keeps a half export out of sight is the way it is published.  Every fault at
// every call of an export, every state of the disk after it.

#include <tuple>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/publish_order.h"
#include "gmock/gmock.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"

namespace waypoint {
namespace {

constexpr char kTarget[] = "/out/model";

models::DecoderConfig SmallConfig() {
  models::DecoderConfig config = models::TinyConfig();
  config.mutable_decoder()->set_num_blocks(1);
  return config;
}

// Whether there is an old export; the files that hold weights.
class ExportCrashTest : public testing::TestWithParam<std::tuple<bool, const char*>> {
 protected:
  static bool replaces() { return std::get<0>(GetParam()); }

  static absl::Status Save(FileSystem& fs, const DecoderState& state) {
    WriteOptions options;
    options.format = "llama";
    options.save.format_options["weights"] = std::get<1>(GetParam());
    options.overwrite = true;
    options.save.max_shard_bytes = 3000;
    options.transfer.threads = 1;
    return WriteCheckpoint(fs, kTarget, options, state.metadata, *state.tensors,
                           {{"tokenizer.json", "/tokenizer.json", 2, {}}})
        .status();
  }

  std::unique_ptr<MemoryFileSystem> Start() {
    auto memory = std::make_unique<MemoryFileSystem>();
    EXPECT_OK(MakeDirectories(*memory, "/out"));
    EXPECT_OK(WriteSmallFile(*memory, "/tokenizer.json", "{}"));
    EXPECT_OK(memory->SyncDirectory("/"));
    if (replaces()) {
      EXPECT_OK(Save(*memory, old_));
    }
    return memory->Crash(DiskState::kOnlySynced);
  }

  // All files that an export of that state makes.
  DirectoryContents Wanted(const DecoderState& state) {
    const auto memory = Start();
    EXPECT_OK(Save(*memory, state));
    return ReadContents(*memory, kTarget);
  }

  static DirectoryContents Target(FileSystem& fs) {
    return Exists(fs, kTarget).value() ? ReadContents(fs, kTarget) : DirectoryContents();
  }

  const DecoderState old_ = NewDecoderState(SmallConfig(), 1, DType::kBF16, false);
  const DecoderState new_ = NewDecoderState(SmallConfig(), 2, DType::kBF16, false);
};

TEST_P(ExportCrashTest, OldOrNewIsWholeAfterAnyFaultAtAnyCall) {
  const DirectoryContents old_files = replaces() ? Wanted(old_) : DirectoryContents();
  const DirectoryContents new_files = Wanted(new_);
  ASSERT_GT(new_files.size(), 4u);
  ASSERT_FALSE(old_files == new_files);
  int recoveries = 0;
  for (const Fault fault : kAllFaults) {
    bool reached = true;
    for (int64_t k = 0; reached; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem fs(*memory, fault, k);
      const absl::Status status = Save(fs, new_);
      reached = fs.calls() > k;
      if (!fs.fired()) {
        continue;
      }
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", k, " of ", fs.calls(), ": ", status.ToString()));
      for (const DiskState state : kAllDiskStates) {
        for (int index = 0; index < memory->CrashCount(state); ++index) {
          SCOPED_TRACE(absl::StrCat("disk state ", static_cast<int>(state), ", index ", index));
          const std::unique_ptr<MemoryFileSystem> after = memory->Crash(state, index);
          const DirectoryContents found = Target(*after);
          ASSERT_TRUE(found == new_files || (!status.ok() && found == old_files)) << found.size() << " files";
          ++recoveries;
        }
      }
      ASSERT_OK(Save(*memory, new_));
      ASSERT_TRUE(Target(*memory) == new_files);
      ASSERT_EQ(memory->List("/out").value().size(), 1u);
    }
  }
  EXPECT_GT(recoveries, 2000);
}

TEST_P(ExportCrashTest, ExportObeysTheOrderOfSyncs) {
  const std::unique_ptr<MemoryFileSystem> memory = Start();
  FaultFileSystem fs(*memory);
  ASSERT_OK(Save(fs, new_));
  EXPECT_OK(CheckPublishOrder(fs.trace()));
}

INSTANTIATE_TEST_SUITE_P(Target, ExportCrashTest,
                         testing::Combine(testing::Bool(), testing::Values("safetensors", "bin")),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param) ? "Replaced" : "New", "_",
                                               std::get<1>(info.param));
                         });

}  // namespace
}  // namespace waypoint
