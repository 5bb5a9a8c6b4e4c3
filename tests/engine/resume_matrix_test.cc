// Jobs of 1, 2, 3, 4 and 6 ranks that begin with a Hugging Face directory, stop, and go on: on the same mesh as if they
// had not stopped, on any other with the same bits.

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/layouts.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kHalf = 5;

// Where tensor ranks cut other rows: these take the place of what would be chosen.
constexpr std::pair<const char*, const char*> kAlways[] = {{"tp4", "tp6"}, {"tp3", "tp2"}};

// One layout for each number of ranks, other ones for another source or turn, but never the source.
std::vector<Layout> TargetsOf(const Layout& source, size_t turn) {
  std::vector<Layout> targets;
  for (const int ranks : {1, 2, 3, 4, 6}) {
    std::vector<Layout> choices;
    for (const Layout& layout : kLayouts) {
      if (layout.ranks == ranks && absl::string_view(layout.name) != source.name) {
        choices.push_back(layout);
      }
    }
    Layout target = choices[turn % choices.size()];
    for (const Layout& choice : choices) {
      for (const auto& [from, to] : kAlways) {
        if (absl::string_view(from) == source.name && absl::string_view(to) == choice.name) {
          target = choice;
        }
      }
    }
    targets.push_back(target);
  }
  return targets;
}

GlobalState WeightsOf(const GlobalState& state) {
  GlobalState weights;
  for (const auto& [name, tensor] : state) {
    if (!absl::StrContains(name, '/')) {
      weights.emplace(name, tensor);
    }
  }
  return weights;
}

void ExpectOk(const JobRun& run) {
  ASSERT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(run.problem, "");
}

void ExpectSameLosses(const JobRun& run, const JobRun& whole) {
  ASSERT_LE(run.losses.size(), whole.losses.size());
  const size_t first = whole.losses.size() - run.losses.size();
  for (size_t i = 0; i < run.losses.size(); ++i) {
    EXPECT_NEAR(run.losses[i], whole.losses[first + i], 1e-5) << "step " << first + i + 1;
  }
}

// Where all jobs begin, a checkpoint of Hugging Face's format, and one rank's way from there.
struct Reference {
  std::string data;
  std::string path;
  GlobalState weights;
  JobRun run;
};

std::string Begin(const Reference& reference, const std::string& output) {
  return absl::StrCat(JobConfig(output, reference.data, 2 * kHalf), " pretrained { path: \"", reference.path, "\" }");
}

Reference NewReference() {
  const std::string directory = FreshDirectory("reference");
  Reference reference;
  reference.data = TextFile(directory);
  const JobRun source =
      RunJob(1, {JobConfig(directory + "/source", reference.data, 1), "export { format: \"llama\" }"});
  ExpectOk(source);
  reference.path = source.reports[0].exports.at(0);
  reference.weights = WeightsOf(source.end);
  reference.run = RunJob(1, {Begin(reference, directory + "/one")});
  ExpectOk(reference.run);
  return reference;
}

class ResumeMatrixTest : public ::testing::TestWithParam<std::tuple<size_t, std::string>> {
 protected:
  void SetUp() override {
    static const Reference* const reference = new Reference(NewReference());
    reference_ = reference;
    directory_ = FreshDirectory(absl::StrCat(layout_.name, "_", format_));
  }

  JobRun Run(const std::string& name, const Layout& layout, const JobOptions& options = {}) {
    return RunJob(layout.ranks,
                  {Begin(*reference_, absl::StrCat(directory_, "/", name)), layout.config,
                   absl::StrCat("checkpoint { format: \"", format_, "\" } export { format: \"llama\" }")},
                  options);
  }

  // What `first` saved, continued by `other`, as `whole` went on.
  void ExpectContinues(const Layout& other, const JobRun& first, const JobRun& whole) {
    SCOPED_TRACE(absl::StrCat("to ", other.name));
    const std::string output = absl::StrCat(directory_, "/", other.name);
    ASSERT_OK(MakeDirectories(PosixFileSystem(), output + "/checkpoint"));
    std::filesystem::copy(first.reports[0].checkpoints.at(0), output + "/checkpoint/step-00000005",
                          std::filesystem::copy_options::recursive);

    const JobRun second = Run(other.name, other);

    ExpectOk(second);
    EXPECT_EQ(second.reports[0].first_step, kHalf);
    EXPECT_EQ(DifferenceOf(second.start, first.end), "");
    EXPECT_EQ(second.losses.size(), size_t{kHalf});
    ExpectSameLosses(second, whole);
    const auto note = HasSubstr(absl::StrCat("saved by ", layout_.ranks));
    if (other.ranks == layout_.ranks && std::string(other.config) == layout_.config) {
      EXPECT_THAT(second.lines, Not(Contains(note)));
    } else {
      EXPECT_THAT(second.lines, Contains(note));
    }
  }

  // The weights that a new job of these ranks begins with.
  GlobalState StartFrom(const std::string& exported, const Layout& layout) {
    const JobRun run = RunJob(layout.ranks, {JobConfig(directory_ + "/exported", reference_->data, 0), layout.config,
                                             absl::StrCat("pretrained { path: \"", exported, "\" }")});
    ExpectOk(run);
    return WeightsOf(run.start);
  }

  const size_t index_ = std::get<0>(GetParam());
  const std::string format_ = std::get<1>(GetParam());
  const Layout layout_ = kLayouts[index_];
  const Reference* reference_ = nullptr;
  std::string directory_;
};

INSTANTIATE_TEST_SUITE_P(Layouts, ResumeMatrixTest,
                         ::testing::Combine(::testing::Range(size_t{0}, std::size(kLayouts)),
                                            ::testing::Values("distributed", "native")),
                         [](const auto& info) {
                           return absl::StrCat(kLayouts[std::get<0>(info.param)].name, "_", std::get<1>(info.param));
                         });

TEST_P(ResumeMatrixTest, TenStepsEqualFiveAResumeAndFiveHereAndElsewhere) {
  JobOptions stop;
  stop.stop_after = kHalf;

  const JobRun whole = Run("whole", layout_);
  const JobRun first = Run("halves", layout_, stop);
  ASSERT_EQ(first.reports[0].checkpoints.size(), 1u);
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(PosixFileSystem(), first.reports[0].checkpoints[0]));
  EXPECT_EQ(format->name(), format_);
  // Copies it, so before its own job goes on.
  const size_t turn = index_ + (format_ == "native" ? 1 : 0);
  const std::vector<Layout> targets = TargetsOf(layout_, turn);
  for (const Layout& other : targets) {
    ExpectContinues(other, first, whole);
  }
  const JobRun second = Run("halves", layout_);

  for (const JobRun* run : {&whole, &first, &second}) {
    ExpectOk(*run);
  }
  EXPECT_EQ(DifferenceOf(WeightsOf(whole.start), reference_->weights), "") << "read from Hugging Face's files";
  EXPECT_EQ(whole.losses.size(), reference_->run.losses.size());
  ExpectSameLosses(whole, reference_->run);
  EXPECT_EQ(DifferenceOf(second.start, first.end), "");
  EXPECT_EQ(DifferenceOf(second.end, whole.end), "");
  EXPECT_EQ(second.losses, std::vector<double>(whole.losses.begin() + kHalf, whole.losses.end()));
  // Of chunks whose other parts are other ranks' business a rank may say that it did not check them.
  EXPECT_THAT(second.lines, Not(Contains(AllOf(HasSubstr("note:"), Not(HasSubstr("were not checked"))))));
  EXPECT_EQ(
      DifferenceOf(StartFrom(second.reports[0].exports.at(0), targets[turn % targets.size()]), WeightsOf(second.end)),
      "")
      << "exported by these ranks and read by others";
}

}  // namespace
}  // namespace waypoint::engine
