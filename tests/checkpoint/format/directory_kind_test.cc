#include "checkpoint/format/directory_kind.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Entries ("x/" is a directory), and what must be said of a directory that has them.
struct Case {
  std::vector<std::string> entries;
  std::vector<const char*> said;
};

TEST(DirectoryKindTest, EachIsNamedWithWhatToDo) {
  const std::vector<Case> cases = {
      {{}, {"is empty"}},
      {{".metadata", "__0_0.distcp"}, {"DCP", "dcp_to_torch"}},
      {{".metadata", "__0_0.distcp", "config.json"}, {"DCP", "dcp_to_torch"}},
      {{"pytorch_model_fsdp_0/", "config.json"}, {"FSDP", "merge-weights"}},
      {{"mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"}, {"DeepSpeed", "zero_to_fp32.py"}},
      {{"global_step500/", "latest", "zero_to_fp32.py"}, {"DeepSpeed", "zero_to_fp32.py"}},
      {{"bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"}, {"DeepSpeed"}},
      {{"llama-7b.Q4_K_M.gguf"}, {"GGUF", "made from"}},
      {{"llama-7b.Q4_K_M.gguf", "config.json"}, {"GGUF", "made from"}},
      {{"epoch=3-step=100.ckpt"}, {"Lightning", "state_dict", "--strip-prefix"}},
      {{"latest_checkpointed_iteration.txt", "iter_0000100/"}, {"Megatron"}},
      {{"model.nemo"}, {"NeMo"}},
      {{"adapter_config.json", "adapter_model.safetensors"}, {"adapter", "merge_and_unload"}},
      {{"adapter_config.json", "adapter_model.bin", "tokenizer.json"}, {"adapter", "merge_and_unload"}},
      {{"config.json", "tf_model.h5"}, {"TensorFlow", "from_tf"}},
      {{"saved_model.pb", "variables/"}, {"TensorFlow"}},
      {{"config.json", "flax_model.msgpack"}, {"Flax", "from_flax"}},
      {{"_CHECKPOINT_METADATA", "_METADATA"}, {"Orbax"}},
      {{"config.json", "model.onnx"}, {"ONNX"}},
      {{"weights.00.npz", "config.json"}, {"MLX"}},
      {{"consolidated.safetensors", "params.json"}, {"Mistral"}},
      {{"model_index.json", "unet/"}, {"diffusers"}},
      {{"checkpoint-500/", "checkpoint-1000/", "runs/"}, {"Trainer", "checkpoint-N"}},
      {{"model.safetensors.dvc"}, {"DVC", "dvc pull"}},
      {{"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}, {"no model"}},
      {{"model.safetensors", "tokenizer.json"}, {"no config.json", "copy the config.json"}},
      {{"pytorch_model-00001-of-00002.bin"}, {"no config.json"}},
      {{"weights.pth"}, {"under names that no format has", "consolidated.00.pth"}},
      {{"tokenizer.json", "tokenizer_config.json"}, {"a tokenizer but no model"}},
      {{"params.json", "checklist.chk"}, {"no consolidated.00.pth"}},
      {{"models--a--b/", "version.txt"}, {"cache of the Hugging Face Hub", "models--a--b"}},
      {{"snapshots/", "refs/", "blobs/"}, {"cache of the Hugging Face Hub", "there is none"}},
  };
  for (const Case& one : cases) {
    MemoryFileSystem fs;
    ASSERT_OK(MakeDirectories(fs, "/d"));
    std::string shown;
    for (const std::string& entry : one.entries) {
      shown += entry + " ";
      if (absl::EndsWith(entry, "/")) {
        ASSERT_OK(MakeDirectories(fs, JoinPath("/d", entry.substr(0, entry.size() - 1))));
      } else {
        ASSERT_OK(WriteSmallFile(fs, JoinPath("/d", entry), "x"));
      }
    }
    for (const char* const said : one.said) {
      EXPECT_THAT(DirectoryKind(fs, "/d"), HasSubstr(said)) << shown;
    }
  }
}

TEST(DirectoryKindTest, SnapshotsOfTheHubsCacheAreListed) {
  MemoryFileSystem fs;
  ASSERT_OK(MakeDirectories(fs, "/m/refs"));
  ASSERT_OK(MakeDirectories(fs, "/m/snapshots/aaa"));
  ASSERT_OK(MakeDirectories(fs, "/m/snapshots/bbb"));
  EXPECT_THAT(DirectoryKind(fs, "/m"), HasSubstr("give \"/m/snapshots/aaa\", \"/m/snapshots/bbb\""));
}

TEST(DirectoryKindTest, LinksThatLeadNowhereAreNamed) {
  TempDirectory directory;
  directory.Link("../blobs/0", "config.json");
  directory.Link("../blobs/1", "model.safetensors");
  EXPECT_THAT(DirectoryKind(PosixFileSystem(), directory.path()),
              AllOf(HasSubstr("lead nowhere"), HasSubstr("\"config.json\", \"model.safetensors\"")));
}

TEST(DirectoryKindTest, NothingIsSaidOfWhatIsNotKnown) {
  MemoryFileSystem fs;
  ASSERT_OK(MakeDirectories(fs, "/d"));
  ASSERT_OK(WriteSmallFile(fs, "/d/holiday.jpg", "x"));
  EXPECT_THAT(DirectoryKind(fs, "/d"), IsEmpty());
  EXPECT_THAT(DirectoryKind(fs, "/gone"), IsEmpty());
}

TEST(FileInPlaceOfDirectoryTest, SaysWhatToGive) {
  MemoryFileSystem fs;
  const std::pair<const char*, const char*> files[] = {
      {"/a.safetensors", "config.json beside it"},
      {"/a.bin", "pytorch_model.bin"},
      {"/a.pth", "consolidated.00.pth"},
      {"/a.pt", "model.pt"},
      {"/a.ckpt", "Lightning"},
      {"/a.gguf", "GGUF"},
      {"/config.json", "give the directory"},
      {"/a.distcp", "torch.distributed.checkpoint"},
  };
  for (const auto& [path, said] : files) {
    ASSERT_OK(WriteSmallFile(fs, path, "x"));
    EXPECT_THAT(FileInPlaceOfDirectory(fs, path), AllOf(HasSubstr("no directory"), HasSubstr(said))) << path;
  }
  ASSERT_OK(WriteSmallFile(fs, "/a", "version https://git-lfs.github.com/spec/v1"));
  EXPECT_THAT(FileInPlaceOfDirectory(fs, "/a"), HasSubstr("git lfs pull"));
}

}  // namespace
}  // namespace waypoint
