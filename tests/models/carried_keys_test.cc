// No config key is lost in silence, from any format to any other that is linked: a new format is in the list by being
// registered.

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/convert/config/json_path.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/testing/fixture_copy.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kFixture[] = "tests/testdata/fixtures/llama2_fp32/hf";
constexpr char kUnknown[] = "softcap_of_tomorrow";

class CarriedKeysTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    CopyDirectory(kFixture, fs_, "/hf");
    from_ = Registry<CheckpointFormat>::Global().Find(std::get<0>(GetParam()));
    to_ = Registry<CheckpointFormat>::Global().Find(std::get<1>(GetParam()));
  }

  OpenedCheckpoint Open(CheckpointFormat& format, const std::string& path) {
    LoadOptions load;
    load.carry_unknown = true;
    auto opened = format.Open(fs_, path, load);
    EXPECT_OK(opened);
    return opened.ok() ? *std::move(opened) : OpenedCheckpoint();
  }

  absl::Status Write(OpenedCheckpoint& checkpoint, const std::string& path, const CheckpointFormat& format,
                     bool drop_unknown) {
    WriteOptions options;
    options.format = format.name();
    options.save.drop_unknown = drop_unknown;
    options.notes = &notes_;
    return WriteCheckpoint(fs_, path, options, checkpoint.metadata, *checkpoint.tensors, checkpoint.assets).status();
  }

  // Into the config files that lie in the directory.
  void AddKey(const std::string& directory, const std::string& key) {
    int files = 0;
    for (const char* name : {"config.json", "params.json"}) {
      const std::string path = JoinPath(directory, name);
      if (!Exists(fs_, path).value()) {
        continue;
      }
      ASSERT_OK_AND_ASSIGN(const std::string text, ReadSmallFile(fs_, path, 1 << 20, "test"));
      ASSERT_OK_AND_ASSIGN(Json config, ParseJson(text, path, Limits()));
      config[key] = 30.5;
      ASSERT_OK(fs_.RemoveFile(path));
      ASSERT_OK(WriteSmallFile(fs_, path, DumpJson(config)));
      ++files;
    }
    ASSERT_EQ(files, 1);
  }

  // A checkpoint of the first format; an external one has the unknown key in its own config.
  void MakeSource() {
    CheckpointFormat& hugging_face = *Registry<CheckpointFormat>::Global().Find("llama");
    if (!from_->external()) {
      AddKey("/hf", kUnknown);
    }
    OpenedCheckpoint hf = Open(hugging_face, "/hf");
    ASSERT_OK(Write(hf, "/from", *from_, false));
    if (from_->external()) {
      AddKey("/from", kUnknown);
    }
  }

  bool HasKey(const CheckpointMetadata& metadata, const std::string& quoted) {
    for (const auto& [name, text] : metadata.external_configs()) {
      if (absl::StrContains(text, quoted)) {
        return true;
      }
    }
    return false;
  }

  MemoryFileSystem fs_;
  CheckpointFormat* from_ = nullptr;
  CheckpointFormat* to_ = nullptr;
  std::vector<std::string> notes_;
};

TEST_P(CarriedKeysTest, AnUnknownKeyIsInTheTargetOrRefusedOrNamedAsLost) {
  ASSERT_NO_FATAL_FAILURE(MakeSource());
  OpenedCheckpoint source = Open(*from_, "/from");
  ASSERT_NE(source.tensors, nullptr);

  const absl::Status kept = Write(source, "/to", *to_, /*drop_unknown=*/false);
  if (kept.ok()) {
    EXPECT_TRUE(HasKey(Open(*to_, "/to").metadata, kUnknown));
    return;
  }
  EXPECT_THAT(kept,
              IsKind(ErrorKind::kConfig, AllOf(HasSubstr(kUnknown), HasSubstr("30.5"), HasSubstr("--drop-unknown"))));
  EXPECT_FALSE(Exists(fs_, "/to").value());

  notes_.clear();
  ASSERT_OK(Write(source, "/to", *to_, /*drop_unknown=*/true));
  EXPECT_THAT(notes_, Contains(AllOf(HasSubstr("LOST"), HasSubstr(kUnknown))));
  EXPECT_FALSE(HasKey(Open(*to_, "/to").metadata, kUnknown));
}

TEST_P(CarriedKeysTest, AHarmlessKeyIsInTheTargetOrNamed) {
  ASSERT_NO_FATAL_FAILURE(MakeSource());
  OpenedCheckpoint source = Open(*from_, "/from");
  ASSERT_NE(source.tensors, nullptr);
  notes_.clear();
  ASSERT_OK(Write(source, "/to", *to_, /*drop_unknown=*/true));

  const CheckpointFormat& family = *Registry<CheckpointFormat>::Global().Find(source.metadata.external_format());
  ASSERT_OK_AND_ASSIGN(const auto carried, family.FindCarriedKeys(source.metadata));
  const OpenedCheckpoint target = Open(*to_, "/to");
  for (const auto& [file, keys] : carried) {
    const Json original = Json::parse(source.metadata.external_configs().at(file));
    const auto text = target.metadata.external_configs().find(file);
    const Json written = text == target.metadata.external_configs().end() ? Json() : Json::parse(text->second);
    for (const CarriedKey& key : keys) {
      if (FindJson(original, key.path)->is_null() || FindJson(written, key.path) != nullptr) {
        continue;
      }
      EXPECT_THAT(notes_, Contains(HasSubstr(absl::StrCat("\"", JsonPathText(key.path), "\" = "))));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllPairs, CarriedKeysTest,
                         testing::Combine(testing::ValuesIn(Registry<CheckpointFormat>::Global().Names()),
                                          testing::ValuesIn(Registry<CheckpointFormat>::Global().Names())),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param), "_to_", std::get<1>(info.param));
                         });

}  // namespace
}  // namespace waypoint
