#include "checkpoint/convert/config/primitives.h"

#include "checkpoint/convert/config/section.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/convert/config/test_config.pb.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Scalars;

struct Imported {
  Scalars message;
  ImportLog log;
  absl::Status status;
};

Imported Import(const PrimitivePtr& primitive, const char* document, Scalars start = {}) {
  Imported result;
  result.message = std::move(start);
  const Json json = Json::parse(document);
  Section::ImportOne({"key", primitive}, ImportContext(json, &result.log), &result.message);
  result.status = result.log.problems.ToStatus("config");
  return result;
}

absl::StatusOr<Json> Export(const PrimitivePtr& primitive, const Scalars& message, const char* original = nullptr) {
  ExportLog log;
  const Json json = original == nullptr ? Json() : Json::parse(original);
  ExportContext context(original == nullptr ? nullptr : &json, ExternalLayout::kTransformers4, &log);
  Section::ExportOne({"key", primitive}, message, context);
  if (!log.problems.empty()) {
    return log.problems.ToStatus("config");
  }
  Json result = Json::object();
  for (const ExportLog::Write& write : log.writes) {
    SetJson(write.path, write.value, &result);
  }
  return result;
}

Codec Doubling() {
  Codec codec;
  codec.to_native = [](const Json& external) -> absl::StatusOr<Json> { return Json(external.get<int64_t>() * 2); };
  codec.to_external = [](const Json& native) -> absl::StatusOr<Json> { return Json(native.get<int64_t>() / 2); };
  return codec;
}

TEST(RenameTest, GoesBothWays) {
  Scalars message;
  message.set_size(5);

  EXPECT_EQ(Import(Rename("size", "a.b"), R"({"a": {"b": 5}})").message.size(), 5);
  EXPECT_EQ(Export(Rename("size", "a.b"), message).value(), Json::parse(R"({"a": {"b": 5}})"));
}

TEST(RenameTest, MissingAndNullKeysAreNamed) {
  EXPECT_THAT(Import(Rename("size", "a.b"), "{}").status, IsKind(ErrorKind::kConfig, HasSubstr("\"a.b\" is missing")));
  EXPECT_THAT(Import(Rename("size", "n"), R"({"n": null})").status,
              IsKind(ErrorKind::kConfig, HasSubstr("\"n\" is missing")));
}

TEST(RenameTest, WrongTypeNamesKeyValueAndWhatIsWanted) {
  EXPECT_THAT(Import(Rename("size", "n"), R"({"n": "x"})").status,
              IsKind(ErrorKind::kConfig, HasSubstr("\"n\" is \"x\", wanted an integer")));
}

TEST(RenameTest, UnsetNativeFieldWithPresenceIsAProblem) {
  EXPECT_THAT(Export(Rename("window", "w"), {}), IsKind(ErrorKind::kConfig, HasSubstr("\"window\" is unset")));
}

TEST(RenameTest, CodecTranslatesBothWays) {
  Scalars message;
  message.set_size(8);

  EXPECT_EQ(Import(Rename("size", "n", Doubling()), R"({"n": 4})").message.size(), 8);
  EXPECT_EQ(Export(Rename("size", "n", Doubling()), message).value()["n"], 4);
}

TEST(ConstantExportTest, IsWrittenAndGuardsTheWayBack) {
  const PrimitivePtr constant = ConstantExport("kind", "llama");

  EXPECT_EQ(Export(constant, {}).value()["kind"], "llama");
  EXPECT_OK(Import(constant, R"({"kind": "llama"})").status);
  EXPECT_OK(Import(constant, "{}").status);
  EXPECT_OK(Import(constant, R"({"kind": null})").status);
  EXPECT_THAT(Import(constant, R"({"kind": "gpt"})").status, IsKind(ErrorKind::kConfig, HasSubstr("is \"gpt\"")));
}

TEST(ConstantExportTest, OptionsChooseTheKindAndForbidAbsence) {
  ConstantExportOptions options;
  options.mismatch = ErrorKind::kUnsupported;
  options.required = true;
  const PrimitivePtr constant = ConstantExport("kind", "llama", options);

  EXPECT_THAT(Import(constant, R"({"kind": "gpt"})").status, IsKind(ErrorKind::kUnsupported));
  EXPECT_THAT(Import(constant, R"({"kind": 7})").status, IsKind(ErrorKind::kConfig));
  EXPECT_THAT(Import(constant, "{}").status, IsKind(ErrorKind::kConfig, HasSubstr("is missing")));
}

TEST(ConstantImportTest, IsSetAndGuardsTheExport) {
  const PrimitivePtr constant = ConstantImport("rate", 0.5);
  Scalars message = Import(constant, "{}").message;
  EXPECT_EQ(message.rate(), 0.5);
  EXPECT_EQ(Export(constant, message).value(), Json::object());

  message.set_rate(0.25);

  EXPECT_THAT(Export(constant, message), IsKind(ErrorKind::kConfig, HasSubstr("\"rate\" is 0.25")));
}

TEST(ConstantImportTest, NullGuardsAbsenceOfMessagesToo) {
  Scalars message;
  EXPECT_OK(Export(ConstantImport("inner", nullptr), message));

  message.mutable_inner();

  EXPECT_THAT(Export(ConstantImport("inner", nullptr), message), IsKind(ErrorKind::kConfig, HasSubstr("its absence")));
}

TEST(DefaultTest, IsTakenForAbsentAndNullKeys) {
  EXPECT_EQ(Import(Default("size", "n", 7), "{}").message.size(), 7);
  EXPECT_EQ(Import(Default("size", "n", 7), R"({"n": null})").message.size(), 7);
  EXPECT_EQ(Import(Default("size", "n", 7), R"({"n": 8})").message.size(), 8);
}

TEST(DefaultTest, FunctionSeesWhatWasImportedBefore) {
  const auto twice = [](const google::protobuf::Message& message) -> absl::StatusOr<Json> {
    return Json(2 * static_cast<const Scalars&>(message).size());
  };
  Scalars start;
  start.set_size(21);

  EXPECT_EQ(Import(Default("window", "w", twice), "{}", start).message.window(), 42);
}

TEST(DefaultTest, FailedDefaultNamesTheKey) {
  const auto fails = [](const google::protobuf::Message&) -> absl::StatusOr<Json> {
    return MakeError(ErrorKind::kConfig, "is absent and cannot be derived");
  };

  EXPECT_THAT(Import(Default("window", "w", fails), "{}").status,
              IsKind(ErrorKind::kConfig, HasSubstr("\"w\" is absent and cannot be derived")));
}

TEST(DefaultTest, OptionsRefuseNullAndLeaveANote) {
  DefaultOptions options;
  options.refuse_null = true;
  options.note = true;

  EXPECT_THAT(Import(Default("size", "n", 7, options), R"({"n": null})").status,
              IsKind(ErrorKind::kConfig, HasSubstr("\"n\" is null")));
  EXPECT_THAT(Import(Default("size", "n", 7, options), "{}").log.notes,
              ElementsAre(HasSubstr("its default 7 was taken")));
}

TEST(OptionalTest, AbsenceIsAValue) {
  EXPECT_FALSE(Import(Optional("window", "w"), "{}").message.has_window());
  EXPECT_FALSE(Import(Optional("window", "w"), R"({"w": null})").message.has_window());
  EXPECT_EQ(Import(Optional("window", "w"), R"({"w": 0})").message.window(), 0);
  EXPECT_EQ(Export(Optional("window", "w"), {}).value(), Json::object());
  EXPECT_EQ(Export(Optional("window", "w"), {}, R"({"w": 5})").value(), Json::parse(R"({"w": null})"));
}

TEST(OptionalTest, SentinelIsNeitherWrittenNorRead) {
  Scalars message;
  EXPECT_EQ(Export(Optional("size", "n", 0), message).value(), Json::object());
  message.set_size(2);
  EXPECT_EQ(Export(Optional("size", "n", 0), message).value()["n"], 2);
  EXPECT_OK(Import(Optional("size", "n", 0), R"({"n": 0})").status);
}

TEST(OptionalTest, SentinelMustBeWhatUnsetReadsAs) {
  EXPECT_OK(Optional("size", "n", 0)->Check(*Scalars::descriptor()));
  EXPECT_FALSE(Optional("size", "n", -1)->Check(*Scalars::descriptor()).ok());
  EXPECT_FALSE(Optional("window", "w", 0)->Check(*Scalars::descriptor()).ok());
}

TEST(IgnoredTest, ClaimsAndSaysWhatIsLost) {
  const PrimitivePtr ignored = Ignored({{"inner"}}, {"old"}, "no longer used");

  const Imported imported = Import(ignored, R"({"old": 3})");

  EXPECT_OK(imported.status);
  EXPECT_THAT(imported.log.notes, ElementsAre("\"old\" is 3, ignored: no longer used"));
  EXPECT_EQ(imported.log.claims.count({"old"}), 1);
  EXPECT_TRUE(ignored->ignores_native());
}

TEST(RefusedTest, NamesTheKeyAndSaysWhatToDo) {
  EXPECT_THAT(Import(Refused("q", "dequantize it"), R"({"q": {}})").status,
              IsKind(ErrorKind::kUnsupported, HasSubstr("\"q\" is {}: dequantize it")));
  EXPECT_OK(Import(Refused("q", "dequantize it"), R"({"q": null})").status);
}

TEST(CustomTest, RunsItsFunctions) {
  const PrimitivePtr custom = Custom(
      {{"size"}, {"rate"}}, {"pair"},
      [](const google::protobuf::Message& message, ExportContext& context) {
        context.Set("pair.size", static_cast<const Scalars&>(message).size());
      },
      [](ImportContext& context, google::protobuf::Message* message) {
        static_cast<Scalars*>(message)->set_size(context.Find("pair.size")->get<int64_t>());
      });
  Scalars message;
  message.set_size(9);

  EXPECT_EQ(Import(custom, R"({"pair": {"size": 9}})").message.size(), 9);
  EXPECT_EQ(Export(custom, message).value(), Json::parse(R"({"pair": {"size": 9}})"));
}

TEST(CustomTest, StaysWithinItsClaims) {
  const PrimitivePtr custom = Custom(
      {}, {"mine"}, [](const google::protobuf::Message&, ExportContext& context) { context.Set("yours", 1); },
      [](ImportContext& context, google::protobuf::Message*) { context.Find("yours"); });

  EXPECT_EQ(Import(custom, "{}").status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Export(custom, {}).status().code(), absl::StatusCode::kInternal);
}

TEST(ImportOnlyTest, WritesNothing) {
  const PrimitivePtr derived =
      ImportOnly({{"flag"}}, {"list"}, [](ImportContext& context, google::protobuf::Message* message) {
        static_cast<Scalars*>(message)->set_flag(context.Find("list") != nullptr);
      });

  EXPECT_TRUE(Import(derived, R"({"list": []})").message.flag());
  EXPECT_EQ(Export(derived, {}).value(), Json::object());
}

}  // namespace
}  // namespace waypoint
