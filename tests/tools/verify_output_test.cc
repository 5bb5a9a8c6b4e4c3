#include "tools/verify_output.h"

#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tools/convert_command.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

// A source, and what convert made of it.
class VerifyOutputTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string fixture = "tests/testdata/fixtures/llama31_fp32/hf";
    ASSERT_OK(MakeDirectories(fs_, "/source"));
    ASSERT_OK(MakeDirectories(fs_, "/out"));
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
      ASSERT_OK_AND_ASSIGN(const std::string contents,
                           ReadSmallFile(PosixFileSystem(), JoinPath(fixture, name), int64_t{1} << 24, "test"));
      ASSERT_OK(WriteSmallFile(fs_, JoinPath("/source", name), contents));
    }
    llama_ = Registry<CheckpointFormat>::Global().Find("llama");
    ASSERT_NE(llama_, nullptr);
    ASSERT_OK_AND_ASSIGN(source_, llama_->Open(fs_, "/source", {}));
  }

  void Convert(DType dtype) {
    ConvertRequest request;
    request.source = "/source";
    request.target = "/out/copy";
    request.to = "llama";
    request.dtype = dtype;
    std::ostringstream out, err;
    ASSERT_OK(waypoint::Convert(request, {fs_, out, err, false, "", [] { return false; }}));
  }

  void Rewrite(const std::string& path, const std::string& contents) {
    ASSERT_OK(fs_.RemoveFile(path));
    ASSERT_OK(WriteSmallFile(fs_, path, contents));
  }

  // Turns one bit of the tensor's first element.
  void Damage(const std::string& tensor) {
    const std::string path = "/out/copy/model.safetensors";
    ASSERT_OK_AND_ASSIGN(std::string contents, ReadSmallFile(fs_, path, int64_t{1} << 24, "test"));
    ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ParseSafetensorsHeader(contents, contents.size(), path, {}));
    for (const SafetensorsEntry& entry : header.entries) {
      if (entry.name == tensor) {
        contents[entry.begin] ^= 1;
        Rewrite(path, contents);
        return;
      }
    }
    FAIL() << "no tensor " << tensor;
  }

  absl::Status Verify(const VerifyOptions& options) {
    return VerifyDigests(fs_, *llama_, "/out/copy", source_, options);
  }

  MemoryFileSystem fs_;
  CheckpointFormat* llama_ = nullptr;
  OpenedCheckpoint source_;
};

TEST_F(VerifyOutputTest, AnEqualCopyPasses) {
  Convert(DType::kInvalid);

  EXPECT_OK(Verify({}));
}

TEST_F(VerifyOutputTest, OneBitOfOneTensorIsFoundAndNamed) {
  Convert(DType::kInvalid);
  Damage("model.layers.1.self_attn.v_proj.weight");

  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("decoder.1.mixer.key_value.weight")));
}

TEST_F(VerifyOutputTest, AFileThatTravelsAlongIsComparedByteForByte) {
  Convert(DType::kInvalid);
  const std::string path = "/out/copy/generation_config.json";
  ASSERT_OK_AND_ASSIGN(const std::string contents, ReadSmallFile(fs_, path, 1 << 20, "test"));
  std::string changed = contents;
  changed[changed.find(':') + 1] = '\t';
  Rewrite(path, changed);
  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("\"generation_config.json\" differs")));
  Rewrite(path, contents + "\n");
  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("\"generation_config.json\" has")));
  ASSERT_OK(fs_.RemoveFile(path));
  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("\"generation_config.json\" is missing")));
  ASSERT_OK(WriteSmallFile(fs_, path, contents));
  ASSERT_OK(WriteSmallFile(fs_, "/out/copy/vocab.txt", "a"));
  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("\"vocab.txt\" is not of the source")));
}

TEST_F(VerifyOutputTest, OneBitOfACastTensorIsFound) {
  Convert(DType::kBF16);
  VerifyOptions options;
  options.weights_dtype = DType::kBF16;
  ASSERT_OK(Verify(options));
  Damage("model.norm.weight");

  EXPECT_THAT(Verify(options), IsKind(ErrorKind::kVerify, HasSubstr("head.final_norm.weight")));
}

TEST_F(VerifyOutputTest, AnotherDtypeThanWantedIsFound) {
  Convert(DType::kBF16);
  VerifyOptions options;
  options.weights_dtype = DType::kF16;

  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("F32 against BF16")));
  EXPECT_THAT(Verify(options), IsKind(ErrorKind::kVerify, HasSubstr("BF16, wanted F16")));
}

TEST_F(VerifyOutputTest, AnotherConfigIsFound) {
  Convert(DType::kInvalid);
  const std::string path = "/out/copy/config.json";
  ASSERT_OK_AND_ASSIGN(std::string config, ReadSmallFile(fs_, path, 1 << 20, "test"));
  const size_t at = config.find("\"rope_theta\": 500000");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, 20, "\"rope_theta\": 500001");
  Rewrite(path, config);

  EXPECT_THAT(Verify({}), IsKind(ErrorKind::kVerify, HasSubstr("theta")));
}

TEST_F(VerifyOutputTest, LogitsThatCannotBeComputedDoNotVerify) {
  Convert(DType::kInvalid);
  VerifyOptions options;
  options.logits_program = "/bin/false";

  EXPECT_THAT(VerifyLogits(fs_, *llama_, "/out/copy", "/source", "llama", source_, options),
              IsKind(ErrorKind::kVerify, HasSubstr("cannot be computed")));
}

}  // namespace
}  // namespace waypoint
