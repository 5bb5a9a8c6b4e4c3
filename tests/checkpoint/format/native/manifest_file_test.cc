// manifest.pb that lies: every case is refused by kind, and nothing else happens.

#include "checkpoint/format/native/manifest_file.h"

#include <cstring>
#include <functional>

#include "checkpoint/base/digest.h"
#include "checkpoint/base/dtype.h"
#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

NativeManifest Good() {
  NativeManifest manifest;
  manifest.mutable_metadata()->set_producer("test");
  manifest.mutable_metadata()->mutable_training()->set_step(7);
  FileRecord* file = manifest.add_files();
  file->set_name("model.safetensors");
  file->set_kind(FileRecord::WEIGHTS);
  file->set_size_bytes(300'000);
  file->set_chunk_bytes(262'144);
  file->set_chunk_digests(std::string(16, 'd'));
  FileRecord* asset = manifest.add_files();
  asset->set_name("assets/tokenizer.json");
  asset->set_kind(FileRecord::ASSET);
  asset->set_size_bytes(0);
  asset->set_chunk_bytes(262'144);
  for (const int64_t begin : {100, 200}) {
    TensorRecord* tensor = manifest.add_tensors();
    tensor->set_name("t" + std::to_string(begin));
    tensor->set_dtype(static_cast<int32_t>(DType::kF32));
    tensor->add_shape(5);
    tensor->add_shape(5);
    tensor->set_file(0);
    tensor->set_begin(begin);
    tensor->set_end(begin + 100);
  }
  return manifest;
}

absl::StatusOr<SealedManifest> Parse(const std::string& bytes) { return ParseManifest(bytes, "m.pb", Limits()); }

// A frame around any body, with the right digest.
std::string Frame(const std::string& body, uint32_t version = 1, uint32_t zero = 0, int64_t length = -1) {
  std::string bytes = "WAYPOINT";
  const uint64_t body_bytes = length < 0 ? body.size() : static_cast<uint64_t>(length);
  bytes.append(reinterpret_cast<const char*>(&version), 4);
  bytes.append(reinterpret_cast<const char*>(&zero), 4);
  bytes.append(reinterpret_cast<const char*>(&body_bytes), 8);
  bytes += body;
  Sha256 sha;
  sha.Update(bytes);
  return bytes + sha.Hex();
}

TEST(ManifestFileTest, WhatIsWrittenIsRead) {
  const std::string bytes = SerializeManifest(Good());
  EXPECT_EQ(bytes, Frame(Good().SerializeAsString()));

  ASSERT_OK_AND_ASSIGN(const SealedManifest sealed, Parse(bytes));

  EXPECT_EQ(sealed.manifest.SerializeAsString(), Good().SerializeAsString());
  EXPECT_EQ(sealed.sha256, bytes.substr(bytes.size() - 64));
}

TEST(ManifestFileTest, EqualManifestsAreEqualBytes) {
  std::string first;
  for (int round = 0; round < 20; ++round) {
    NativeManifest manifest = Good();
    // The same entries, put in in other orders.
    for (int i = 0; i < 50; ++i) {
      const std::string key = "key" + std::to_string((i * 7 + round * 11) % 50);
      (*manifest.mutable_metadata()->mutable_training()->mutable_metrics())[key] = 1;
      (*manifest.mutable_metadata()->mutable_training()->mutable_rng_states())[key] = "state";
      (*manifest.mutable_metadata()->mutable_external_configs())[key] = "{}";
    }
    const std::string bytes = SerializeManifest(manifest);
    first = round == 0 ? bytes : first;
    ASSERT_TRUE(bytes == first) << round;
  }
}

TEST(ManifestFileTest, EveryCutIsTruncated) {
  const std::string bytes = SerializeManifest(Good());
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_THAT(Parse(bytes.substr(0, size)), IsKind(ErrorKind::kTruncated, HasSubstr("\"m.pb\""))) << size;
  }
}

TEST(ManifestFileTest, EveryFlippedBitIsFound) {
  const std::string good = SerializeManifest(Good());
  for (size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      ASSERT_FALSE(Parse(bytes).ok()) << "bit " << bit << " of byte " << at;
    }
  }
}

TEST(ManifestFileTest, FramesThatLie) {
  const std::string body = Good().SerializeAsString();
  EXPECT_THAT(Parse("PK\x03\x04 is a zip archive"), IsKind(ErrorKind::kHeader));
  EXPECT_THAT(Parse(Frame(body, 2)),
              IsKind(ErrorKind::kUnsupported, AllOf(HasSubstr("version 2"), HasSubstr("version 1"))));
  EXPECT_THAT(Parse(Frame(body, 1, 1)), IsKind(ErrorKind::kChecksum));
  EXPECT_THAT(Parse(Frame(body, 1, 0, INT64_MAX)), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(Parse(Frame(body, 1, 0, body.size() + 1)), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(Parse(Frame(body, 1, 0, body.size() - 1)), IsKind(ErrorKind::kTrailing));
  EXPECT_THAT(Parse(Frame(body) + "x"), IsKind(ErrorKind::kTrailing));
  EXPECT_OK(Parse(Frame("")));
  std::string huge = Frame(body);
  const uint64_t top_bit = uint64_t{1} << 63;
  std::memcpy(huge.data() + 16, &top_bit, 8);
  EXPECT_THAT(Parse(huge), IsKind(ErrorKind::kTruncated));
}

TEST(ManifestFileTest, BodiesThatAreNoMessage) {
  const std::string group(200, '\x0b');  // start of a group, 200 times
  const std::string varint(11, '\xff');  // longer than any number
  const std::string packed = std::string("\x1a\x0c\x1a\xff\xff\xff\xff\x0f", 8) + "xxxxxx";  // 4 GiB of shape
  const std::string field_zero = std::string("\x00\x01", 2);
  const std::string bad_utf8 = std::string("\x12\x04\x0a\x02\xff\xfe", 6);  // files { name: "\xff\xfe" }
  for (const std::string& body : {group, varint, packed, field_zero, bad_utf8, std::string("\x0c", 1)}) {
    EXPECT_THAT(Parse(Frame(body)), IsKind(ErrorKind::kSchema)) << testing::PrintToString(body);
  }
}

TEST(ManifestFileTest, FieldsOfNewerWritersAreHarmless) {
  const std::string body = Good().SerializeAsString() + std::string("\xf8\x3f\x01", 3);  // field 1023: 1
  EXPECT_OK(Parse(Frame(body)));
}

struct Lie {
  std::string name;
  std::function<void(NativeManifest*)> tell;
  ErrorKind kind;
  std::string message;
};

class LieTest : public testing::TestWithParam<Lie> {};

TEST_P(LieTest, IsRefused) {
  NativeManifest manifest = Good();
  GetParam().tell(&manifest);
  EXPECT_THAT(Parse(SerializeManifest(manifest)),
              IsKind(GetParam().kind, AllOf(HasSubstr("\"m.pb\""), HasSubstr(GetParam().message))));
}

Lie FileNamed(const std::string& name, const std::string& file_name) {
  return {name, [file_name](NativeManifest* m) { m->mutable_files(0)->set_name(file_name); }, ErrorKind::kPath, ""};
}
Lie InFile(const std::string& name, ErrorKind kind, const std::function<void(FileRecord*)>& tell,
           const std::string& message = "model.safetensors") {
  return {name, [tell](NativeManifest* m) { tell(m->mutable_files(0)); }, kind, message};
}
Lie InTensor(const std::string& name, ErrorKind kind, const std::function<void(TensorRecord*)>& tell,
             const std::string& message = "\"t200\"") {
  return {name, [tell](NativeManifest* m) { tell(m->mutable_tensors(1)); }, kind, message};
}

INSTANTIATE_TEST_SUITE_P(
    All, LieTest,
    testing::Values(
        Lie{"Feature", [](NativeManifest* m) { m->add_required_features("time travel"); }, ErrorKind::kUnsupported,
            "time travel"},
        Lie{"NegativeStep", [](NativeManifest* m) { m->mutable_metadata()->mutable_training()->set_step(-1); },
            ErrorKind::kSchema, "-1"},
        Lie{"TensorTwice", [](NativeManifest* m) { m->mutable_tensors(1)->set_name("t100"); }, ErrorKind::kDupKey,
            "t100"},
        Lie{"FileTwice", [](NativeManifest* m) { *m->add_files() = m->files(0); }, ErrorKind::kDupKey,
            "model.safetensors"},
        FileNamed("DotDot", ".."), FileNamed("Parent", "../model.safetensors"), FileNamed("Absolute", "/etc/passwd"),
        FileNamed("Nested", "a/b"), FileNamed("InAssets", "assets/model.safetensors"), FileNamed("Empty", ""),
        FileNamed("Hidden", ".model"), FileNamed("Option", "-rf"), FileNamed("Control", "a\nb"),
        FileNamed("Nul", std::string("a\0b", 3)), FileNamed("Backslash", "a\\b"),
        FileNamed("Long", std::string(256, 'a')),
        Lie{"AssetParent", [](NativeManifest* m) { m->mutable_files(1)->set_name("assets/../../x"); }, ErrorKind::kPath,
            ""},
        Lie{"AssetNested", [](NativeManifest* m) { m->mutable_files(1)->set_name("assets/a/b"); }, ErrorKind::kPath,
            ""},
        Lie{"AssetNoName", [](NativeManifest* m) { m->mutable_files(1)->set_name("assets/"); }, ErrorKind::kPath, ""},
        InFile("KindUnknown", ErrorKind::kSchema, [](FileRecord* f) { f->set_kind(static_cast<FileRecord::Kind>(9)); }),
        InFile("KindMissing", ErrorKind::kSchema, [](FileRecord* f) { f->clear_kind(); }),
        InFile("NegativeSize", ErrorKind::kSchema, [](FileRecord* f) { f->set_size_bytes(-1); }),
        InFile("ChunkZero", ErrorKind::kSchema, [](FileRecord* f) { f->set_chunk_bytes(0); }),
        InFile("ChunkNegative", ErrorKind::kSchema, [](FileRecord* f) { f->set_chunk_bytes(-4096); }),
        InFile("ChunkHuge", ErrorKind::kSchema, [](FileRecord* f) { f->set_chunk_bytes(int64_t{1} << 40); }),
        InFile("ChunkOdd", ErrorKind::kSchema, [](FileRecord* f) { f->set_chunk_bytes(262'145); }),
        InFile("DigestsMissing", ErrorKind::kSizeMismatch, [](FileRecord* f) { f->clear_chunk_digests(); }),
        InFile("DigestsLonger", ErrorKind::kSizeMismatch,
               [](FileRecord* f) { f->set_chunk_digests(std::string(24, 'd')); }),
        InFile("DigestsOfOtherWidth", ErrorKind::kSizeMismatch,
               [](FileRecord* f) { f->set_chunk_digests(std::string(15, 'd')); }),
        InFile("SizeBeyondChunks", ErrorKind::kSizeMismatch, [](FileRecord* f) { f->set_size_bytes(INT64_MAX); }),
        InTensor("NegativeBegin", ErrorKind::kOffsets, [](TensorRecord* t) { t->set_begin(-100); }),
        InTensor("Backwards", ErrorKind::kOffsets, [](TensorRecord* t) { t->set_end(100); }),
        InTensor("BehindTheFile", ErrorKind::kOffsets,
                 [](TensorRecord* t) {
                   t->set_begin(299'950);
                   t->set_end(300'050);
                 }),
        InTensor("OtherSize", ErrorKind::kSizeMismatch, [](TensorRecord* t) { t->set_end(296); }),
        InTensor("NoSuchFile", ErrorKind::kSchema, [](TensorRecord* t) { t->set_file(2); }),
        InTensor("NegativeFile", ErrorKind::kSchema, [](TensorRecord* t) { t->set_file(-1); }),
        InTensor("InAnAsset", ErrorKind::kSchema, [](TensorRecord* t) { t->set_file(1); }),
        InTensor("DTypeZero", ErrorKind::kDType, [](TensorRecord* t) { t->set_dtype(0); }),
        InTensor("DTypeUnknown", ErrorKind::kDType, [](TensorRecord* t) { t->set_dtype(23); }),
        InTensor("DTypeWraps", ErrorKind::kDType, [](TensorRecord* t) { t->set_dtype(256 + 12); }),
        InTensor("DTypeNegative", ErrorKind::kDType, [](TensorRecord* t) { t->set_dtype(-244); }),
        InTensor("NegativeDimension", ErrorKind::kOverflow, [](TensorRecord* t) { t->set_shape(0, -5); }),
        InTensor("Overflow", ErrorKind::kOverflow, [](TensorRecord* t) { t->set_shape(0, INT64_MAX); }),
        InTensor("OverflowBehindZero", ErrorKind::kOverflow,
                 [](TensorRecord* t) {
                   t->set_shape(0, 0);
                   t->set_shape(1, INT64_MAX);
                   t->add_shape(INT64_MAX);
                 }),
        InTensor("PartOfAByte", ErrorKind::kSizeMismatch,
                 [](TensorRecord* t) { t->set_dtype(static_cast<int32_t>(DType::kF4)); }),
        InTensor("RankOverLimit", ErrorKind::kLimit,
                 [](TensorRecord* t) {
                   for (int i = 0; i < 100; ++i) {
                     t->add_shape(1);
                   }
                 }),
        InTensor(
            "NameOverLimit", ErrorKind::kLimit, [](TensorRecord* t) { t->set_name(std::string(70'000, 'n')); },
            "tensor_name_bytes")),
    [](const testing::TestParamInfo<Lie>& info) { return info.param.name; });

}  // namespace
}  // namespace waypoint
