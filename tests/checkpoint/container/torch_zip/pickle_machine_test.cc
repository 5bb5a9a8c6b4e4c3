#include "checkpoint/container/torch_zip/pickle_machine.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/torch_bytes.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<PickleTree> RunBody(absl::string_view bytes, const Limits& limits = Limits()) {
  return RunPickle(bytes, "\"x.pth\": \"data.pkl\"", PickleOptions(), limits);
}

std::string Repeated(absl::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) {
    absl::StrAppend(&out, text);
  }
  return out;
}

TEST(PickleMachineTest, ConstantsKeepTheirValues) {
  const std::string bytes =
      Pickle(absl::StrCat("(N\x88\x89K\x07M\x01\x02J\xfe\xff\xff\xff", absl::string_view("\x8a\x01\xff\x8a\x00", 5),
                          absl::string_view("G\x40\x04\x00\x00\x00\x00\x00\x00", 9), "U\x02hi", PickleText("\xC3\xA9"),
                          "C\x01z", ")\x85t"));

  ASSERT_OK_AND_ASSIGN(const PickleTree tree, RunBody(bytes));

  const auto items = tree.Items(tree.root);
  ASSERT_EQ(items.size(), 13u);
  EXPECT_EQ(tree.kind(items[0]), PickleKind::kNone);
  EXPECT_EQ(tree.Integer(items[1]), 1);
  EXPECT_EQ(tree.Integer(items[2]), 0);
  EXPECT_EQ(tree.Integer(items[3]), 7);
  EXPECT_EQ(tree.Integer(items[4]), 0x201);
  EXPECT_EQ(tree.Integer(items[5]), -2);
  EXPECT_EQ(tree.Integer(items[6]), -1);
  EXPECT_EQ(tree.Integer(items[7]), 0);
  EXPECT_EQ(tree.Float(items[8]), 2.5);
  EXPECT_EQ(tree.Text(items[9]), "hi");
  EXPECT_EQ(tree.Text(items[10]), "\xC3\xA9");
  EXPECT_EQ(tree.kind(items[11]), PickleKind::kBytes);
  EXPECT_EQ(tree.kind(items[12]), PickleKind::kTuple);
}

TEST(PickleMachineTest, ProtocolFourAndFiveAreRead) {
  for (const char protocol : {'\x04', '\x05'}) {
    const std::string bytes = absl::StrCat("\x80", std::string(1, protocol), "\x95", LittleEndian(11, 8),
                                           "\x8c\x0b"
                                           "collections\x94\x8c\x0b"
                                           "OrderedDict\x94\x93\x94)R\x94(\x8c\x01"
                                           "a\x94K\x05u.");
    ASSERT_OK_AND_ASSIGN(const PickleTree tree, RunBody(bytes));
    EXPECT_EQ(tree.kind(tree.root), PickleKind::kOrderedDict);
    EXPECT_EQ(tree.Items(tree.root).size(), 2u);
  }
  ASSERT_OK_AND_ASSIGN(const PickleTree set, RunBody("\x80\x04\x8f(K\x01K\x02\x90."));
  EXPECT_EQ(set.Items(set.root).size(), 2u);
  ASSERT_OK_AND_ASSIGN(const PickleTree frozen, RunBody("\x80\x04(K\x01K\x02\x91."));
  EXPECT_EQ(frozen.kind(frozen.root), PickleKind::kSet);
}

TEST(PickleMachineTest, InertValuesOfTrainersAreCarried) {
  for (const std::string& body :
       {PickleGlobal2("torch", "Size") + PickleInts({2, 3}) + "\x85R", PickleGlobal2("torch", "bfloat16"),
        PickleGlobal2("torch", "device") + PickleText("cuda") + "K\x01\x86R",
        PickleGlobal2("_codecs", "encode") + PickleText("abc") + PickleText("latin1") + "\x86R",
        PickleGlobal2("__builtin__", "set") + "](K\x01K\x02"
                                              "e\x85R",
        PickleGlobal2("__builtin__", "bytes") + ")R"}) {
    EXPECT_OK(RunBody(Pickle(body))) << body;
  }
}

TEST(PickleMachineTest, OnlyTheWholeNameOfTheTableIsAllowed) {
  const std::vector<std::pair<std::string, std::string>> names = {{"posix", "mkdir"},
                                                                  {"os", "system"},
                                                                  {"builtins", "eval"},
                                                                  {"__builtin__", "exec"},
                                                                  {"torch", "load"},
                                                                  {"torch.hub", "load"},
                                                                  {"torch._utils", "os.system"},
                                                                  {"torch._utils", "_rebuild_tensor_v22"},
                                                                  {"collections", "OrderedDict "},
                                                                  {"functools", "partial"},
                                                                  {"copyreg", "_reconstructor"},
                                                                  {"numpy.core.multiarray", "_reconstruct"},
                                                                  {"argparse", "Namespace"},
                                                                  {"", ""},
                                                                  {std::string(1 << 20, 'a'), "b"}};
  for (const auto& [module, name] : names) {
    // Named and dropped again is enough to be refused.
    EXPECT_THAT(RunBody(Pickle(PickleGlobal2(module, name) + "}")), IsKind(ErrorKind::kCode)) << module << name;
    EXPECT_THAT(RunBody(absl::StrCat("\x80\x04", PickleText(module), PickleText(name), "\x93.")),
                IsKind(ErrorKind::kCode));
  }
  EXPECT_THAT(RunBody(Pickle("(iposix\nmkdir\n")), IsKind(ErrorKind::kCode, HasSubstr("\"posix\" \"mkdir\"")));
}

TEST(PickleMachineTest, TensorsThatAreNotPlainAreNamed) {
  EXPECT_THAT(RunBody(Pickle(PickleGlobal2("torch._utils", "_rebuild_qtensor"))), IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(RunBody(Pickle(PickleGlobal2("torch", "QInt8Storage"))), IsKind(ErrorKind::kDType));
}

TEST(PickleMachineTest, MalformedStreamsAreErrorsWithAPlace) {
  const std::vector<std::string> bodies = {"R",
                                           "b",
                                           "\x85",
                                           "\x87",
                                           "Q",
                                           "s",
                                           "a",
                                           "\x81",
                                           "q\x01",
                                           "u",
                                           "t",
                                           "e",
                                           "}(K\x01u",
                                           "h\x05",
                                           "1",
                                           "\xFF",
                                           "l",
                                           "d",
                                           "0",
                                           "(",
                                           "NN",
                                           "N.N",
                                           "Pabc\n",
                                           "o",
                                           "\x97",
                                           "\x98",
                                           "\x8b\xFF\xFF\xFF\xFF",
                                           "}]K\x01s",
                                           "NK\x01"
                                           "a",
                                           "K\x01K\x02K\x03s",
                                           "](K\x01\x90",
                                           "K\x05)R",
                                           "]NR",
                                           PickleGlobal2("torch", "float32") + ")R",
                                           PickleGlobal2("torch", "FloatStorage") + ")R",
                                           PickleGlobal2("collections", "OrderedDict") + "NR",
                                           PickleGlobal2("collections", "OrderedDict") + "]\x85R",
                                           "}}b",
                                           "]}b",
                                           PickleOrderedDict() + PickleDict({{"__class__", "}"}}) + "b",
                                           PickleOrderedDict() + PickleDict({{"_metadata", "}"}, {"x", "}"}}) + "b",
                                           PickleOrderedDict() + PickleDict({{"_metadata", "N"}}) + "b"};
  for (const std::string& body : bodies) {
    EXPECT_THAT(RunBody(Pickle(body)), IsKind(ErrorKind::kPickle, AllOf(HasSubstr("\"x.pth\""), HasSubstr("byte "))))
        << body;
  }
  for (const absl::string_view bytes : {"", "N.", "}.", "\x80", "\x80\x02", "\x80\x01N.", "\x80\x06N.", "\x80\xFFN.",
                                        "\x80\x02X\xFF\xFF\xFF\xFFN.", "\x80\x04\x8d\0\0\0\0\0\0\0\x80."}) {
    EXPECT_THAT(RunBody(bytes), IsKind(ErrorKind::kPickle)) << bytes;
  }
  EXPECT_THAT(RunBody(Pickle("X\x01" + std::string(3, '\0') + "\xFF")), IsKind(ErrorKind::kUtf8));
}

TEST(PickleMachineTest, OnlyMetadataOfAnOrderedDictIsBuilt) {
  EXPECT_OK(RunBody(Pickle(PickleOrderedDict() + PickleDict({{"_metadata", PickleOrderedDict()}}) + "b")));
}

TEST(PickleMachineTest, ValuesThatHoldThemselvesAreRefused) {
  EXPECT_THAT(RunBody(Pickle("]q\x01h\x01"
                             "a")),
              IsKind(ErrorKind::kPickle, HasSubstr("holds itself")));
  EXPECT_THAT(RunBody(Pickle("}q\x01" + PickleText("me") + "h\x01s")), IsKind(ErrorKind::kPickle));
  EXPECT_THAT(RunBody(Pickle("]q\x01h\x01\x85q\x02"
                             "a")),
              IsKind(ErrorKind::kPickle));
  // Twice the same is no circle.
  EXPECT_OK(
      RunBody(Pickle("](]q\x01h\x01"
                     "e")));
}

TEST(PickleMachineTest, KeysOccurOnce) {
  EXPECT_THAT(RunBody(Pickle(PickleDict({{"a", "N"}, {"b", "N"}, {"a", "N"}}))),
              IsKind(ErrorKind::kDupKey, HasSubstr("\"a\"")));
  EXPECT_THAT(RunBody(Pickle("}(K\x01N\x88Nu")), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(RunBody(Pickle("}(NNNNu")), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(RunBody(Pickle("}(]Nu")), IsKind(ErrorKind::kPickle, HasSubstr("key is a list")));
}

TEST(PickleMachineTest, DepthNeedsNoStackAndHasALimit) {
  EXPECT_THAT(RunBody(Pickle("N" + Repeated("\x85", 1'000'000))), IsKind(ErrorKind::kLimit, HasSubstr("pickle_depth")));
  EXPECT_THAT(RunBody(Pickle(Repeated("]", 200'000) + Repeated("a", 199'999))), IsKind(ErrorKind::kLimit));
  EXPECT_THAT(RunBody(Pickle(Repeated("(", 1'000'000))), IsKind(ErrorKind::kLimit));
  EXPECT_OK(RunBody(Pickle("N" + Repeated("\x85", 255))));
  EXPECT_THAT(RunBody(Pickle("N" + Repeated("\x85", 256))), IsKind(ErrorKind::kLimit));
  // Shared parts are as deep as they are, wherever they were reached first.
  EXPECT_THAT(RunBody(Pickle("N" + Repeated("\x85", 200) + "q\x01" + Repeated("\x85", 100) + "h\x01\x86")),
              IsKind(ErrorKind::kLimit));
}

// A list of one item takes three bytes of pickle and a hundred of memory.
TEST(PickleMachineTest, ContainersAndTheirItemsCountByTheirMemory) {
  Limits limits;
  limits.pickle_values = 3 + 4 + 10 * 4 + 10 * 2 / 4;
  const auto lists = [](int n) { return Pickle("](" + Repeated("]Na", n) + "e"); };
  EXPECT_OK(RunBody(lists(10), limits));
  EXPECT_THAT(RunBody(lists(11), limits), IsKind(ErrorKind::kLimit, HasSubstr("a list, set or dict counts as 4")));
  // None makes no value; that it is held takes memory all the same.
  limits.pickle_values = 3 + 4 + 10;
  EXPECT_OK(RunBody(Pickle("](" + Repeated("N", 40) + "e"), limits));
  EXPECT_THAT(RunBody(Pickle("](" + Repeated("N", 41) + "e"), limits), IsKind(ErrorKind::kLimit));
}

TEST(PickleMachineTest, MemoAndStackAndValuesHaveLimits) {
  EXPECT_THAT(RunBody(Pickle("Nr\xFF\xFF\xFF\xFF")), IsKind(ErrorKind::kLimit, HasSubstr("pickle_memo")));
  EXPECT_THAT(RunBody(Pickle("Nj\xFF\xFF\xFF\xFF")), IsKind(ErrorKind::kPickle));
  Limits limits;
  limits.pickle_stack = 10;
  EXPECT_THAT(RunBody(Pickle("(" + Repeated("N", 11) + "t"), limits),
              IsKind(ErrorKind::kLimit, HasSubstr("pickle_stack")));
  EXPECT_OK(RunBody(Pickle("(" + Repeated("N", 10) + "t"), limits));
  // Three values are always there, the tuple is one, and its items are a quarter each.
  limits.pickle_values = 14;
  limits.pickle_stack = 100;
  EXPECT_OK(RunBody(Pickle("(" + Repeated("K\x01", 8) + "t"), limits));
  EXPECT_THAT(RunBody(Pickle("(" + Repeated("K\x01", 9) + "t"), limits),
              IsKind(ErrorKind::kLimit, HasSubstr("pickle_values")));
}

TEST(PickleMachineTest, PersistentIdsNameStorages) {
  // The tree points into the bytes.
  const std::string bytes = Pickle(PickledTensor().ToString());
  ASSERT_OK_AND_ASSIGN(const PickleTree tree, RunBody(bytes));
  ASSERT_EQ(tree.storages.size(), 1u);
  EXPECT_EQ(tree.storages[0].key, "0");
  EXPECT_EQ(tree.storages[0].numel, 24);
  EXPECT_EQ(tree.storages[0].dtype, DType::kF32);

  EXPECT_THAT(RunBody(Pickle("K\x01Q")), IsKind(ErrorKind::kPickle));
  EXPECT_THAT(RunBody(Pickle(PickleText("storage") + "Q")), IsKind(ErrorKind::kPickle));
  EXPECT_THAT(RunBody(Pickle(PickleTuple({PickleText("module"), PickleGlobal2("torch", "FloatStorage"), PickleText("0"),
                                          PickleText("cpu"), PickleInt(1)}) +
                             "Q")),
              IsKind(ErrorKind::kPickle));
  const std::string two = PickleStorageId("FloatStorage", "0", 4);
  EXPECT_OK(RunBody(Pickle(two + two + "\x86")));
  EXPECT_THAT(RunBody(Pickle(two + PickleStorageId("FloatStorage", "0", 5) + "\x86")), IsKind(ErrorKind::kStorage));
  EXPECT_THAT(RunBody(Pickle(two + PickleStorageId("IntStorage", "0", 4) + "\x86")), IsKind(ErrorKind::kStorage));
}

TEST(PickleMachineTest, ArgumentsOfTensorsAreChecked) {
  const std::string storage = PickleStorageId("FloatStorage", "0", 24);
  const std::string one = PickleInts({1});
  const std::string huge = absl::StrCat("\x8a\x09", std::string(8, '\0'), "\x01");
  const auto kind = [](const std::string& tensor) { return GetErrorKind(RunBody(Pickle(tensor)).status()); };
  EXPECT_EQ(kind(PickleTensorOf(storage, "K\x00", one, one)), ErrorKind::kPickle);  // cut by the NUL
  EXPECT_EQ(kind(PickleTensorOf("N", PickleInt(0), one, one)), ErrorKind::kPickle);
  EXPECT_EQ(kind(PickleTensorOf(storage, "N", one, one)), ErrorKind::kSchema);
  EXPECT_EQ(kind(PickleTensorOf(storage, huge, one, one)), ErrorKind::kOverflow);
  EXPECT_EQ(kind(PickleTensorOf(storage, PickleInt(0), "N", one)), ErrorKind::kSchema);
  EXPECT_EQ(kind(PickleTensorOf(storage, PickleInt(0), PickleTuple({huge}), one)), ErrorKind::kOverflow);
  EXPECT_EQ(kind(PickleTensorOf(storage, PickleInt(0), PickleTuple({"N"}), one)), ErrorKind::kSchema);
  EXPECT_EQ(kind(PickleTensorOf(storage, PickleInt(0), one, PickleInts({1, 1}))), ErrorKind::kSchema);
  EXPECT_EQ(kind(PickleTensorOf(storage, PickleInt(0), PickleInts(std::vector<int64_t>(65, 1)),
                                PickleInts(std::vector<int64_t>(65, 1)))),
            ErrorKind::kLimit);

  const auto rebuild = [](const std::vector<std::string>& args) {
    return PickleGlobal2("torch._utils", "_rebuild_tensor_v2") + PickleTuple(args) + "R";
  };
  const std::string ok = PickleInt(0);
  const std::string hooks = PickleOrderedDict();
  EXPECT_EQ(kind(rebuild({storage, ok, one, one, "\x89"})), ErrorKind::kPickle);
  EXPECT_EQ(kind(rebuild({storage, ok, one, one, "\x89", "N"})), ErrorKind::kPickle);
  EXPECT_EQ(kind(rebuild({storage, ok, one, one, "\x89", PickleDict({{"a", "N"}})})), ErrorKind::kPickle);
  EXPECT_TRUE(RunBody(Pickle(rebuild({storage, ok, one, one, "\x88", hooks, "}"}))).ok());
  EXPECT_EQ(kind(rebuild({storage, ok, one, one, "\x89", hooks, PickleDict({{"conj", "\x88"}})})),
            ErrorKind::kUnsupported);
  EXPECT_EQ(kind(rebuild({storage, ok, one, one, "\x89", hooks, "N", "N"})), ErrorKind::kPickle);
  EXPECT_EQ(kind(PickledTensor().ToString() + PickleDict({{"a", "N"}}) + "b"), ErrorKind::kPickle);
  EXPECT_EQ(kind(PickledTensor().ToString() + "K\x01K\x01s"), ErrorKind::kPickle);
}

}  // namespace
}  // namespace waypoint
