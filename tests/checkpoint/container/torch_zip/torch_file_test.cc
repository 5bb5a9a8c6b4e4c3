#include "checkpoint/container/torch_zip/torch_file.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_bytes.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/torch_bytes.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kFixtures[] = "tests/testdata/fixtures/pth_quirks/";

struct Loaded {
  std::map<std::string, std::string> tensors;  // "F32 [2, 3] " and the bytes
  std::vector<TorchValue> values;
};

// Lists and reads everything.
absl::StatusOr<Loaded> Load(FileSystem& fs, const std::string& path, const Limits& limits = Limits()) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(path, OpenOptions()));
  WAYPOINT_ASSIGN_OR_RETURN(const TorchContents contents, ReadTorchFile(*file, limits));
  WAYPOINT_ASSIGN_OR_RETURN(const auto source, TorchSource::Create(fs, {contents}, TorchSourceOptions()));
  Loaded loaded;
  loaded.values = contents.values;
  for (int64_t i = 0; i < source->manifest().size(); ++i) {
    const TensorMeta& meta = source->manifest()[i];
    std::string bytes(meta.num_bytes(), '\0');
    WAYPOINT_RETURN_IF_ERROR(source->Read(
        {{i, Box::Whole(meta.shape), StridedSpan::Contiguous(&bytes[0], DTypeBytes(meta.dtype), meta.shape)}}));
    // One-element tensors of any rank are alike: the expected files were written without rank 0.
    const std::string shape = meta.num_elements() == 1 ? "one" : ShapeString(meta.shape);
    loaded.tensors[meta.name] = absl::StrCat(DTypeName(meta.dtype), " ", shape, " ", bytes);
  }
  return loaded;
}

absl::StatusOr<Loaded> LoadBytes(const std::string& bytes, const Limits& limits = Limits()) {
  MemoryFileSystem fs;
  EXPECT_OK(WriteSmallFile(fs, "/x.pth", bytes));
  return Load(fs, "/x.pth", limits);
}

std::map<std::string, std::string> Expected(const std::string& path) {
  const auto file = PosixFileSystem().OpenForRead(path, OpenOptions()).value();
  const SafetensorsHeader header = ReadSafetensorsHeader(*file, Limits()).value();
  std::map<std::string, std::string> tensors;
  for (const SafetensorsEntry& entry : header.entries) {
    std::string bytes(entry.end - entry.begin, '\0');
    EXPECT_OK(file->Read(entry.begin, absl::MakeSpan(&bytes[0], bytes.size())));
    const std::string shape = NumElements(entry.shape) == 1 ? "one" : ShapeString(entry.shape);
    tensors[entry.name] = absl::StrCat(DTypeName(entry.dtype), " ", shape, " ", bytes);
  }
  return tensors;
}

class FixtureTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FixtureTest, HoldsWhatTorchSaved) {
  const std::string stem = absl::StrCat(kFixtures, GetParam());

  ASSERT_OK_AND_ASSIGN(const Loaded loaded, Load(PosixFileSystem(), stem + ".pth"));

  EXPECT_EQ(loaded.tensors, Expected(stem + ".expected.safetensors"));
}

std::vector<std::string> FixtureNames() {
  std::vector<std::string> names;
  for (const char* name :
       {"plain_dict", "mixed", "many", "nested", "parameters", "state_dict_with_metadata", "legacy_not_zip"}) {
    names.push_back(absl::StrCat(name, "_torch1.13"));
    names.push_back(absl::StrCat(name, "_torch2.14"));
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Torch, FixtureTest, ::testing::ValuesIn(FixtureNames()), [](const auto& info) {
  std::string name = info.param;
  name[name.find('.')] = '_';
  return name;
});

TEST(TorchFileTest, ObjectsOfForeignClassesAreRefusedByName) {
  for (const char* name : {"namespace_torch1.13.pth", "namespace_torch2.14.pth"}) {
    EXPECT_THAT(Load(PosixFileSystem(), absl::StrCat(kFixtures, name)),
                IsKind(ErrorKind::kCode, HasSubstr("\"argparse\" \"Namespace\"")));
  }
}

TEST(TorchFileTest, LeavesThatAreNoTensorsAreListed) {
  ASSERT_OK_AND_ASSIGN(const Loaded loaded, Load(PosixFileSystem(), absl::StrCat(kFixtures, "nested_torch2.14.pth")));
  std::map<std::string, std::string> values;
  for (const TorchValue& value : loaded.values) {
    values[value.path] = absl::StrCat(value.type, " ", value.text);
  }
  EXPECT_EQ(values["epoch"], "int 3");
  EXPECT_EQ(values["name"], "str x\xC3\xA9");
  EXPECT_EQ(values["none"], "None ");
  EXPECT_EQ(values["ok"], "bool True");
  EXPECT_EQ(values["list.1"], "float 2.5");
  EXPECT_EQ(values["size.1"], "int 3");
  EXPECT_EQ(values["dtype"], "dtype bfloat16");
}

TEST(TorchFileTest, OtherFilesAreNamed) {
  EXPECT_THAT(LoadBytes(""), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(LoadBytes("version https://git-lfs.github.com/spec/v1\n"),
              IsKind(ErrorKind::kHeader, HasSubstr("git-lfs")));
  EXPECT_THAT(LoadBytes("<!DOCTYPE html>"), IsKind(ErrorKind::kHeader, HasSubstr("web page")));
  EXPECT_THAT(LoadBytes("\x1F\x8B\x08"), IsKind(ErrorKind::kHeader, HasSubstr("gzip")));
  EXPECT_THAT(LoadBytes(std::string(257, 'x') + "ustar"), IsKind(ErrorKind::kHeader, HasSubstr("tar")));
  EXPECT_THAT(LoadBytes(std::string(1000, '\0')), IsKind(ErrorKind::kHeader));
  EXPECT_THAT(LoadBytes(Pickle("}")), IsKind(ErrorKind::kHeader, HasSubstr("pickle")));
}

std::vector<ZipItem> GoodItems() {
  return TorchItems(Pickle(PickleDict({{"a", PickledTensor().ToString()}})), {SomeBytes(96)});
}

TEST(TorchFileTest, RecordsAroundTheDataAreChecked) {
  EXPECT_OK(LoadBytes(ZipBytes(GoodItems())));
  const auto with = [](const std::string& name, const std::string& data) {
    std::vector<ZipItem> items = GoodItems();
    for (ZipItem& item : items) {
      if (item.name == name) {
        item.data = data;
        return ZipBytes(items);
      }
    }
    items.push_back({name, data});
    return ZipBytes(items);
  };
  EXPECT_THAT(LoadBytes(with("archive/version", "99\n")), IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(LoadBytes(with("archive/version", "x\n")), IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(LoadBytes(with("archive/version", std::string(5000, '1'))), IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(LoadBytes(with("archive/byteorder", "big")), IsKind(ErrorKind::kUnsupported, HasSubstr("big")));
  EXPECT_THAT(LoadBytes(with("archive/constants.pkl", "")), IsKind(ErrorKind::kUnsupported, HasSubstr("TorchScript")));
  EXPECT_THAT(LoadBytes(with("archive/code/x.py", "")), IsKind(ErrorKind::kUnsupported));
  EXPECT_OK(LoadBytes(with("archive/.data/serialization_id", "0123")));

  std::vector<ZipItem> items = GoodItems();
  items.erase(items.begin() + 1);
  EXPECT_OK(LoadBytes(ZipBytes(items)));  // older files have no byteorder
  items.pop_back();
  EXPECT_THAT(LoadBytes(ZipBytes(items)), IsKind(ErrorKind::kZip, HasSubstr("version")));
  items = GoodItems();
  items.erase(items.begin());
  EXPECT_THAT(LoadBytes(ZipBytes(items)), IsKind(ErrorKind::kZip, HasSubstr("data.pkl")));
}

absl::StatusOr<Loaded> LoadTensor(const PickledTensor& tensor, const Limits& limits = Limits()) {
  return LoadBytes(TorchBytes(Pickle(PickleDict({{"t", tensor.ToString()}})), {SomeBytes(96)}), limits);
}

TEST(TorchFileTest, StoragesHaveTheirRecords) {
  for (const char* key : {"1", "../data.pkl", "..", "", "0/", "/0", "\\0", "data.pkl"}) {
    PickledTensor tensor;
    tensor.key = key;
    EXPECT_THAT(LoadTensor(tensor), IsKind(ErrorKind::kStorage, HasSubstr("data/"))) << key;
  }
  for (const int64_t numel : {int64_t{0}, int64_t{23}, int64_t{25}, int64_t{1} << 62, int64_t{-1}}) {
    PickledTensor tensor;
    tensor.numel = numel;
    EXPECT_THAT(LoadTensor(tensor), IsKind(ErrorKind::kStorage)) << numel;
  }
  PickledTensor doubles;
  doubles.type = "DoubleStorage";
  EXPECT_THAT(LoadTensor(doubles), IsKind(ErrorKind::kStorage));
}

TEST(TorchFileTest, TensorsLieInTheirStorages) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  struct Case {
    ErrorKind kind;
    int64_t offset;
    std::vector<int64_t> shape;
    std::vector<int64_t> strides;
  };
  const std::vector<Case> cases = {
      {ErrorKind::kStorage, 1, {4, 6}, {6, 1}},
      {ErrorKind::kStorage, kHuge, {4, 6}, {6, 1}},
      {ErrorKind::kStorage, INT64_MAX, {4, 6}, {6, 1}},
      {ErrorKind::kStorage, -1, {4, 6}, {6, 1}},
      {ErrorKind::kStorage, 0, {-4, 6}, {6, 1}},
      {ErrorKind::kStorage, 0, {5, 6}, {6, 1}},
      {ErrorKind::kStorage, 0, {4, 6}, {7, 1}},
      {ErrorKind::kStorage, 0, {4, 6}, {6, -1}},
      {ErrorKind::kStorage, 0, {5}, {kHuge}},
      {ErrorKind::kStorage, 25, {0}, {1}},
      {ErrorKind::kStorage, 24, {}, {}},
      {ErrorKind::kOverflow, 0, {int64_t{1} << 32, int64_t{1} << 32}, {1, 1}},
      {ErrorKind::kOverflow, 0, {0, kHuge, kHuge}, {1, 1, 1}},
      {ErrorKind::kLimit, 0, {int64_t{1} << 40}, {0}},
      {ErrorKind::kLimit, 0, {1 << 20, 1 << 20}, {0, 0}},
  };
  for (const Case& c : cases) {
    PickledTensor tensor;
    tensor.offset = c.offset;
    tensor.shape = c.shape;
    tensor.strides = c.strides;
    EXPECT_THAT(LoadTensor(tensor), IsKind(c.kind, HasSubstr("\"t\""))) << ShapeString(c.shape) << c.offset;
  }
  PickledTensor empty;
  empty.offset = 24;
  empty.shape = {0};
  empty.strides = {1};
  EXPECT_OK(LoadTensor(empty));
}

// 96 bytes of storage, each tensor of which may unfold to 64 MiB: a small file would be hashed for hours.
TEST(TorchFileTest, RepeatedElementsAreLimitedTogether) {
  const auto list = [](int tensors, int64_t elements, const Limits& limits) {
    PickledTensor tensor;
    tensor.shape = {elements};
    tensor.strides = {0};
    std::vector<std::pair<std::string, std::string>> items;
    for (int i = 0; i < tensors; ++i) {
      items.emplace_back(absl::StrCat("t", i), tensor.ToString());
    }
    MemoryFileSystem fs;
    EXPECT_OK(WriteSmallFile(fs, "/x.pth", TorchBytes(Pickle(PickleDict(items)), {SomeBytes(96)})));
    return ReadTorchFile(*fs.OpenForRead("/x.pth", OpenOptions()).value(), limits).status();
  };
  // 256 MiB in all.
  EXPECT_OK(list(4, 16 << 20, Limits()));
  EXPECT_THAT(list(5, 16 << 20, Limits()),
              IsKind(ErrorKind::kLimit, AllOf(HasSubstr("\"t4\""), HasSubstr("expand_file_bytes"))));

  Limits limits;
  limits.expand_file_bytes = 0;
  EXPECT_OK(list(100, 24, limits)) << "the file is larger than a 64th of what its tensors have";
  limits.expand_file_factor = 0;
  EXPECT_THAT(list(1, 24, limits), IsKind(ErrorKind::kLimit, HasSubstr("expand_file_factor = 0")));
}

// Elements that lie apart are read one by one, which costs more than their bytes say.
TEST(TorchFileTest, ElementsThatLieApartCountForMore) {
  const auto list = [](const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
    PickledTensor tensor;
    tensor.type = "ByteStorage";
    tensor.numel = 8192;
    tensor.shape = shape;
    tensor.strides = strides;
    MemoryFileSystem fs;
    EXPECT_OK(
        WriteSmallFile(fs, "/x.pth", TorchBytes(Pickle(PickleDict({{"t", tensor.ToString()}})), {SomeBytes(8192)})));
    return ReadTorchFile(*fs.OpenForRead("/x.pth", OpenOptions()).value(), Limits()).status();
  };
  // 16 MiB each.
  EXPECT_OK(list({4096, 4096}, {1, 1}));
  EXPECT_OK(list({4096, 4096}, {0, 2}));
  EXPECT_OK(list({2048, 8192}, {2, 0}));
  EXPECT_OK(list({2047, 2049, 2}, {2, 2, 1}));
  // 4 MiB each.
  EXPECT_OK(list({2047, 2049}, {2, 2}));
  EXPECT_THAT(list({2048, 2049}, {2, 2}), IsKind(ErrorKind::kLimit, HasSubstr("each counted as 16 bytes")));
}

// Whoever reads tensors of one compressed record in another order than its own decompresses it for each.
TEST(TorchFileTest, ManyTensorsOfOneCompressedRecordAreLimited) {
  constexpr int64_t kElements = 1 << 20;
  const auto list = [](int tensors, bool deflated) {
    std::vector<std::pair<std::string, std::string>> views;
    for (int i = 0; i < tensors; ++i) {
      PickledTensor tensor;
      tensor.numel = kElements;
      tensor.offset = kElements - tensors + i;
      tensor.shape = {1};
      tensor.strides = {1};
      views.emplace_back(absl::StrCat("t", i), tensor.ToString());
    }
    std::vector<ZipItem> items = TorchItems(Pickle(PickleDict(views)), {std::string(4 * kElements, '\0')});
    for (ZipItem& item : items) {
      item.deflated = deflated;
    }
    MemoryFileSystem fs;
    EXPECT_OK(WriteSmallFile(fs, "/x.pth", ZipBytes(items)));
    return ReadTorchFile(*fs.OpenForRead("/x.pth", OpenOptions()).value(), Limits()).status();
  };
  EXPECT_OK(list(60, true));
  EXPECT_OK(list(100, false));
  EXPECT_THAT(list(100, true), IsKind(ErrorKind::kLimit, HasSubstr("expand_file_bytes")));
}

// A transposed tensor of 9 MiB is read in two blocks, each of which decompresses the record from its start.
TEST(TorchFileTest, CompressedRecordsAreNotReadOutOfOrderWithoutLimit) {
  constexpr int64_t kRows = 3 << 18;
  using Sizes = std::vector<int64_t>;
  const auto list = [](bool deflated, const Sizes& shape, const Sizes& strides, const Limits& limits) {
    PickledTensor tensor;
    tensor.numel = 3 * kRows;
    tensor.shape = shape;
    tensor.strides = strides;
    std::vector<ZipItem> items =
        TorchItems(Pickle(PickleDict({{"t", tensor.ToString()}})), {std::string(12 * kRows, '\0')});
    for (ZipItem& item : items) {
      item.deflated = deflated;
    }
    MemoryFileSystem fs;
    EXPECT_OK(WriteSmallFile(fs, "/x.pth", ZipBytes(items)));
    return ReadTorchFile(*fs.OpenForRead("/x.pth", OpenOptions()).value(), limits).status();
  };
  Limits limits;
  limits.expand_bytes = int64_t{16} << 20;
  limits.expand_factor = 1;
  EXPECT_OK(list(true, {3, kRows}, {kRows, 1}, limits));
  EXPECT_OK(list(false, {kRows, 3}, {1, kRows}, limits));
  EXPECT_THAT(list(true, {kRows, 3}, {1, kRows}, limits),
              IsKind(ErrorKind::kLimit, AllOf(HasSubstr("\"t\""), HasSubstr("out of its order"))));
  EXPECT_OK(list(true, {kRows, 3}, {1, kRows}, Limits()));

  // What it repeats counts as well, of a record that is cheap to decompress.
  PickledTensor tiny;
  tiny.shape = {int64_t{1} << 35, 24};
  tiny.strides = {0, 1};
  std::vector<ZipItem> items = TorchItems(Pickle(PickleDict({{"t", tiny.ToString()}})), {SomeBytes(96)});
  for (ZipItem& item : items) {
    item.deflated = true;
  }
  MemoryFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/x.pth", ZipBytes(items)));
  EXPECT_THAT(ReadTorchFile(*fs.OpenForRead("/x.pth", OpenOptions()).value(), Limits()),
              IsKind(ErrorKind::kLimit, HasSubstr("\"t\"")));
}

TEST(TorchFileTest, UntypedStoragesTakeTheTypeOfTheTensor) {
  const std::string storage = PickleTuple({PickleText("storage"), PickleGlobal2("torch.storage", "UntypedStorage"),
                                           PickleText("0"), PickleText("cpu"), PickleInt(96)}) +
                              "Q";
  const auto file = [&](const std::string& dtype) {
    return TorchBytes(
        Pickle(PickleDict({{"t", PickleGlobal2("torch._utils", "_rebuild_tensor_v3") +
                                     PickleTuple({storage, PickleInt(2), PickleInts({3}), PickleInts({1}), "\x89",
                                                  PickleOrderedDict(), PickleGlobal2("torch", dtype)}) +
                                     "R"}})),
        {SomeBytes(96)});
  };
  ASSERT_OK_AND_ASSIGN(const Loaded eight, LoadBytes(file("float8_e4m3fn")));
  EXPECT_EQ(eight.tensors.at("t"), absl::StrCat("F8_E4M3 [3] ", SomeBytes(96).substr(2, 3)));
  ASSERT_OK_AND_ASSIGN(const Loaded sixteen, LoadBytes(file("uint16")));
  EXPECT_EQ(sixteen.tensors.at("t"), absl::StrCat("U16 [3] ", SomeBytes(96).substr(4, 6)));
  EXPECT_THAT(LoadBytes(file("complex128")), IsKind(ErrorKind::kDType));
  EXPECT_THAT(LoadBytes(TorchBytes(
                  Pickle(PickleDict({{"t", PickleTensorOf(storage, PickleInt(0), PickleInts({1}), PickleInts({1}))}})),
                  {SomeBytes(96)})),
              IsKind(ErrorKind::kPickle, HasSubstr("untyped")));
}

TEST(TorchFileTest, TheRootIsADict) {
  for (const std::string& root : {std::string("]"), std::string("N"), PickledTensor().ToString()}) {
    EXPECT_THAT(LoadBytes(TorchBytes(Pickle(root), {SomeBytes(96)})), IsKind(ErrorKind::kSchema));
  }
  ASSERT_OK_AND_ASSIGN(const Loaded empty, LoadBytes(TorchBytes(Pickle("}"), {})));
  EXPECT_THAT(empty.tensors, IsEmpty());
}

TEST(TorchFileTest, NamesAreUniqueAfterFlattening) {
  const std::string tensor = PickledTensor().ToString();
  EXPECT_THAT(
      LoadBytes(TorchBytes(Pickle(PickleDict({{"a.b", tensor}, {"a", PickleDict({{"b", tensor}})}})), {SomeBytes(96)})),
      IsKind(ErrorKind::kDupKey, HasSubstr("\"a.b\"")));
  EXPECT_THAT(LoadBytes(TorchBytes(Pickle("}(K\x01" + tensor + PickleText("1") + tensor + "u"), {SomeBytes(96)})),
              IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(LoadBytes(TorchBytes(Pickle(PickleDict({{std::string("a\0b", 3), tensor}})), {SomeBytes(96)})),
              IsKind(ErrorKind::kSchema, HasSubstr("NUL")));
}

TEST(TorchFileTest, RepeatedContainersAreCountedAsOftenAsTheyOccur) {
  // Each level holds the one before twice.
  std::string body = "](Neq" + std::string(1, '\0') + "0";
  body = "](Neq" + std::string(1, '\0');
  for (char level = 1; level < 60; ++level) {
    body += absl::StrCat("](h", std::string(1, level - 1), "h", std::string(1, level - 1), "eq", std::string(1, level));
  }
  // All of them stay on the stack; a tuple takes them.
  const std::string pickle = Pickle("}" + PickleText("a") + "(" + body + "ts");
  EXPECT_THAT(LoadBytes(TorchBytes(pickle, {})), IsKind(ErrorKind::kLimit, HasSubstr("pickle_values")));
}

TEST(TorchFileTest, ListingHasALimit) {
  Limits limits;
  limits.torch_listing_bytes = 100;
  EXPECT_THAT(LoadTensor(PickledTensor(), limits), IsKind(ErrorKind::kLimit, HasSubstr("torch_listing_bytes")));
  limits = Limits();
  limits.tensor_name_bytes = 0;
  EXPECT_THAT(LoadTensor(PickledTensor(), limits), IsKind(ErrorKind::kLimit, HasSubstr("tensor_name_bytes")));
  limits = Limits();
  limits.pickle_bytes = 10;
  EXPECT_THAT(LoadTensor(PickledTensor(), limits), IsKind(ErrorKind::kLimit, HasSubstr("pickle_bytes")));
}

// --- Before 1.6 ----------------------------------------------------------------------------------------------------

std::string LegacyObject(int64_t numel, const char* view = "N") {
  const std::string storage = PickleTuple({PickleText("storage"), PickleGlobal2("torch", "FloatStorage"),
                                           PickleText("94"), PickleText("cpu"), PickleInt(numel), view}) +
                              "Q";
  return Pickle(PickleDict({{"a", PickleTensorOf(storage, PickleInt(0), PickleInts({4, 6}), PickleInts({6, 1}))}}));
}

TEST(LegacyFileTest, StoragesFollowThePickles) {
  ASSERT_OK_AND_ASSIGN(const Loaded loaded, LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {{24, SomeBytes(96)}})));
  EXPECT_EQ(loaded.tensors.at("a"), absl::StrCat("F32 [4, 6] ", SomeBytes(96)));
}

TEST(LegacyFileTest, LiesAreRefused) {
  const std::string data = SomeBytes(96);
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {{23, data}})), IsKind(ErrorKind::kStorage));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {{int64_t{1} << 62, data}})),
              IsKind(ErrorKind::kStorage));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"95"}, {{24, data}})), IsKind(ErrorKind::kStorage));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94", "94"}, {{24, data}, {24, data}})),
              IsKind(ErrorKind::kStorage));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {}, {})), IsKind(ErrorKind::kStorage));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {{24, data.substr(1)}})), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {})), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {{24, data + "x"}})), IsKind(ErrorKind::kTrailing));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24), {"94"}, {{24, data}}, false)),
              IsKind(ErrorKind::kUnsupported, HasSubstr("big-endian")));
  EXPECT_THAT(LoadBytes(LegacyBytes(LegacyObject(24, ")"), {"94"}, {{24, data}})), IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(LoadBytes(LegacyBytes(Pickle(PickleGlobal2("os", "system")), {}, {})), IsKind(ErrorKind::kCode));
}

// --- Every file that is almost right -------------------------------------------------------------------------------

TEST(DamageTest, EveryTruncationIsAnError) {
  for (const std::string& good :
       {ZipBytes(GoodItems()), LegacyBytes(LegacyObject(24), {"94"}, {{24, SomeBytes(96)}})}) {
    for (size_t size = 0; size < good.size(); ++size) {
      ASSERT_FALSE(LoadBytes(good.substr(0, size)).ok()) << size;
    }
  }
}

TEST(DamageTest, EveryFlippedBitIsAnErrorOrHarmless) {
  std::string bytes = ZipBytes(GoodItems());
  ASSERT_OK_AND_ASSIGN(const Loaded good, LoadBytes(bytes));
  int harmless = 0;
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
    const absl::StatusOr<Loaded> loaded = LoadBytes(bytes);
    if (loaded.ok()) {
      ++harmless;
      ASSERT_EQ(loaded->tensors, good.tensors) << bit;
    }
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
  EXPECT_GT(harmless, 0);
}

// A few bytes that repeat a dict of long names cost as much time as the names are long.
TEST(TorchFileTest, LongNamesThatAreVisitedAgainAndAgainAreRefused) {
  std::vector<std::pair<std::string, std::string>> keys;
  for (int i = 0; i < 20; ++i) {
    keys.emplace_back(absl::StrCat(i, std::string(60'000, 'k')), "N");
  }
  // One dict, then its place in the memo 200 times.
  std::string list = "](" + PickleDict(keys) + "q\x01";
  for (int i = 0; i < 200; ++i) {
    list += "h\x01";
  }
  Limits limits;
  limits.torch_listing_bytes = 1 << 20;
  MemoryFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/a", TorchBytes(Pickle(absl::StrCat("}", PickleText("a"), list, "es")), {})));
  const auto file = fs.OpenForRead("/a", OpenOptions()).value();

  EXPECT_THAT(ReadTorchFile(*file, limits), IsKind(ErrorKind::kLimit, HasSubstr("8 * torch_listing_bytes = 8388608")));
  EXPECT_OK(ReadTorchFile(*file, Limits()));
}

}  // namespace
}  // namespace waypoint
