#include "models/llama/fairseq2/directory.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/format/file_checks.h"
#include "checkpoint/format/strip_prefix.h"
#include "checkpoint/storage/confined_directory.h"
#include "models/llama/fairseq2/state_dict.h"

namespace waypoint::models {
namespace {

constexpr char kWhole[] = "model.pt";
constexpr char kTree[] = "model";
constexpr char kBelow[] = "a tree below model/";
constexpr char kFirstStage[] = "pp_00";
constexpr size_t kSpelledOut = 20;

std::string PieceName(int64_t rank) { return absl::StrCat("model.", rank, ".pt"); }
std::string StageName(int64_t stage) { return absl::StrFormat("pp_%02d", stage); }
std::string RankName(int64_t rank) { return absl::StrFormat("tp_%02d", rank); }
std::string FsdpName(int64_t piece) { return absl::StrFormat("sdp_%02d.pt", piece); }

// Is `name` what `make` calls some number?
bool IsNumbered(absl::string_view name, absl::string_view prefix, absl::string_view suffix,
                std::string (*make)(int64_t)) {
  absl::string_view digits = name;
  int64_t number = 0;
  return absl::ConsumePrefix(&digits, prefix) && absl::ConsumeSuffix(&digits, suffix) &&
         absl::SimpleAtoi(digits, &number) && number >= 0 && make(number) == name;
}
bool IsPiece(absl::string_view name) { return IsNumbered(name, "model.", ".pt", PieceName); }
bool IsStage(absl::string_view name) { return IsNumbered(name, "pp_", "", StageName); }
bool IsRank(absl::string_view name) { return IsNumbered(name, "tp_", "", RankName); }
bool IsFsdp(absl::string_view name) { return IsNumbered(name, "sdp_", ".pt", FsdpName); }

bool IsOfAnotherFormat(absl::string_view name) {
  return absl::EndsWith(name, ".safetensors") || absl::StartsWith(name, "pytorch_model") ||
         absl::StartsWith(name, "consolidated.");
}

// How many entries of a kind there are, which must be numbered from zero without gaps.
absl::StatusOr<int64_t> Count(const ConfinedDirectory& directory, const std::string& shown,
                              bool (*is_one)(absl::string_view), std::string (*make)(int64_t)) {
  const int64_t count = std::count_if(directory.entries().begin(), directory.entries().end(),
                                      [is_one](const DirectoryEntry& entry) { return is_one(entry.name); });
  for (int64_t i = 0; i < count; ++i) {
    if (!directory.Has(make(i))) {
      return MakeError(ErrorKind::kMissing,
                       absl::StrCat(shown, ": ", make(i), " is absent, and there are ", count, " of its kind"));
    }
  }
  return count;
}

class Reader {
 public:
  Reader(FileSystem& fs, const LoadOptions& options) : fs_(fs), options_(options), stripper_(options.strip_prefixes) {}

  absl::StatusOr<Fairseq2Directory> Read(const std::string& path) {
    WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory directory, ConfinedDirectory::Open(fs_, path));
    const std::string shown = QuotedPath(path);
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t pieces, Count(directory, shown, IsPiece, PieceName));
    absl::optional<ConfinedDirectory> tree;
    std::vector<std::string> models;
    if (directory.Has(kWhole)) {
      models.emplace_back(kWhole);
    }
    if (pieces > 0) {
      models.push_back(absl::StrCat(PieceName(0), pieces > 1 ? " and more" : ""));
    }
    const auto has_stage = [](const ConfinedDirectory& in) {
      return std::any_of(in.entries().begin(), in.entries().end(),
                         [](const DirectoryEntry& entry) { return IsStage(entry.name); });
    };
    if (has_stage(directory)) {
      models.emplace_back("a tree of pp_NN");
      tree = directory;
    }
    if (directory.Has(kTree)) {
      WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory below, OpenBelow(directory, kTree));
      if (has_stage(below)) {
        models.emplace_back(kBelow);
        tree = below;
      }
    }
    if (models.empty()) {
      return MakeError(ErrorKind::kMissing,
                       absl::StrCat(shown, ": holds neither model.pt nor model.0.pt nor pp_00/ nor model/pp_00/"));
    }
    if (models.size() > 1) {
      return MakeError(ErrorKind::kAmbiguous,
                       absl::StrCat(shown, ": holds ", absl::StrJoin(models, " and "),
                                    ", which may be different models; move what is not meant elsewhere"));
    }

    if (tree.has_value()) {
      WAYPOINT_RETURN_IF_ERROR(ReadTree(*tree));
    } else {
      result_.grid.tensor_parallel = std::max<int64_t>(pieces, 1);
      for (int64_t rank = 0; rank < result_.grid.tensor_parallel; ++rank) {
        WAYPOINT_RETURN_IF_ERROR(ReadFile(directory, pieces > 0 ? PieceName(rank) : kWhole, ""));
      }
    }
    WAYPOINT_RETURN_IF_ERROR(stripper_.Finish());
    NoteLeftBehind();
    const bool below = models[0] == kBelow;
    const auto is_weights = [below](absl::string_view name) {
      return name == kWhole || IsPiece(name) || IsStage(name) || (below && name == kTree);
    };
    WAYPOINT_ASSIGN_OR_RETURN(result_.sidecars, ReadSidecars(fs_, directory, is_weights, options_));
    const std::vector<std::string>& notes = result_.sidecars.notes;
    result_.notes.insert(result_.notes.end(), notes.begin(), notes.end());
    return std::move(result_);
  }

 private:
  // A link could lead anywhere.
  absl::StatusOr<ConfinedDirectory> OpenBelow(const ConfinedDirectory& parent, const std::string& name) const {
    const std::string path = JoinPath(parent.path(), name);
    for (const DirectoryEntry& entry : parent.entries()) {
      if (entry.name == name && entry.type == FileType::kSymlink) {
        return MakeError(ErrorKind::kPath, absl::StrCat(QuotedPath(path), " is a link; copy what it leads to"));
      }
      if (entry.name == name && entry.type != FileType::kDirectory) {
        return MakeError(ErrorKind::kIo, absl::StrCat(QuotedPath(path), " is no directory"));
      }
    }
    return ConfinedDirectory::Open(fs_, path);
  }

  absl::Status ReadTree(const ConfinedDirectory& tree) {
    Fairseq2Grid& grid = result_.grid;
    WAYPOINT_ASSIGN_OR_RETURN(grid.stages, Count(tree, QuotedPath(tree.path()), IsStage, StageName));
    for (int64_t stage = 0; stage < grid.stages; ++stage) {
      WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory ranks, OpenBelow(tree, StageName(stage)));
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t count, Count(ranks, QuotedPath(ranks.path()), IsRank, RankName));
      if (stage == 0) {
        grid.tensor_parallel = count;
      }
      WAYPOINT_RETURN_IF_ERROR(CheckCount(tree, StageName(stage), "tp_NN", count, StageName(0), grid.tensor_parallel));
      for (int64_t rank = 0; rank < count; ++rank) {
        const std::string name = absl::StrCat(StageName(stage), "/", RankName(rank));
        WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, OpenBelow(ranks, RankName(rank)));
        WAYPOINT_ASSIGN_OR_RETURN(const int64_t pieces, Count(files, QuotedPath(files.path()), IsFsdp, FsdpName));
        if (stage == 0 && rank == 0) {
          grid.pieces = pieces;
        }
        WAYPOINT_RETURN_IF_ERROR(
            CheckCount(tree, name, "sdp_NN.pt", pieces, absl::StrCat(StageName(0), "/", RankName(0)), grid.pieces));
        for (int64_t piece = 0; piece < pieces; ++piece) {
          WAYPOINT_RETURN_IF_ERROR(ReadFile(files, FsdpName(piece), absl::StrCat(name, "/")));
        }
      }
    }
    return absl::OkStatus();
  }

  static absl::Status CheckCount(const ConfinedDirectory& tree, absl::string_view name, absl::string_view what,
                                 int64_t found, absl::string_view first, int64_t wanted) {
    if (found > 0 && found == wanted) {
      return absl::OkStatus();
    }
    const std::string text = absl::StrCat(QuotedPath(tree.path()), ": ", name, " holds ", found, " ", what);
    return MakeError(ErrorKind::kMissing, found == wanted ? absl::StrCat(text, ", wanted one or more")
                                                          : absl::StrCat(text, ", ", first, " ", wanted));
  }

  absl::Status ReadFile(const ConfinedDirectory& directory, const std::string& name, const std::string& folder) {
    if (static_cast<int64_t>(result_.files.size()) == options_.limits.shard_files) {
      return MakeError(ErrorKind::kLimit, absl::StrCat(QuotedPath(directory.path()), ": the number of files is over ",
                                                       "shard_files = ", options_.limits.shard_files));
    }
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, directory.Resolve(name));
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> readable, fs_.OpenForRead(path, OpenOptions()));
    Fairseq2File file;
    file.name = folder + name;
    file.prefix = absl::StrCat(absl::StripSuffix(file.name, ".pt"), "/");
    WAYPOINT_ASSIGN_OR_RETURN(file.contents, ReadTorchFile(*readable, options_.limits));
    WAYPOINT_RETURN_IF_ERROR(CheckSavedAs(file.contents, name));
    WAYPOINT_ASSIGN_OR_RETURN(file.described, TensorFile(file.name, path, readable->size_bytes(), options_));
    file.described.has_checksums = HasChecksums(file.contents);
    WAYPOINT_RETURN_IF_ERROR(Annotate(TakeStateDict(&file.contents, &left_behind_), QuotedPath(path)));
    std::vector<std::string*> names;
    for (TorchTensor& tensor : file.contents.tensors) {
      names.push_back(&tensor.name);
    }
    WAYPOINT_RETURN_IF_ERROR(Annotate(stripper_.Apply(names), QuotedPath(path)));
    for (TorchTensor& tensor : file.contents.tensors) {
      tensor.name.insert(0, file.prefix);
    }
    file.contents.values.clear();
    result_.files.push_back(std::move(file));
    return absl::OkStatus();
  }

  // torch.save puts the name of the file into it.
  static absl::Status CheckSavedAs(const TorchContents& contents, const std::string& name) {
    const std::string saved_as = absl::StrCat(contents.archive_name, ".pt");
    if (saved_as == name || !IsPiece(name) || !IsPiece(saved_as)) {
      return absl::OkStatus();
    }
    return MakeError(ErrorKind::kAmbiguous,
                     absl::StrCat(QuotedPath(contents.path), " was saved as ", Quoted(saved_as),
                                  ", as its archive says; give the files the names that they were saved under, or "
                                  "save this one again if its name is right"));
  }

  void NoteLeftBehind() {
    std::vector<std::string> texts;
    for (const auto& [key, tensors] : left_behind_) {
      if (texts.size() == kSpelledOut) {
        texts.push_back(absl::StrCat("and ", left_behind_.size() - kSpelledOut, " more"));
        break;
      }
      texts.push_back(tensors == 0 ? Quoted(key) : absl::StrCat(Quoted(key), " (", tensors, " tensors)"));
    }
    if (!texts.empty()) {
      result_.notes.push_back(
          absl::StrCat("left behind what the files hold beside the model: ", absl::StrJoin(texts, ", ")));
    }
  }

  FileSystem& fs_;
  const LoadOptions& options_;
  PrefixStripper stripper_;
  LeftBehind left_behind_;
  Fairseq2Directory result_;
};

}  // namespace

bool IsFairseq2File(absl::string_view name) { return name == kWhole || IsPiece(name); }

absl::StatusOr<bool> LooksLikeFairseq2(FileSystem& fs, const std::string& directory) {
  WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, ConfinedDirectory::Open(fs, directory));
  bool found = false;
  for (const DirectoryEntry& entry : files.entries()) {
    if (IsOfAnotherFormat(entry.name)) {
      return false;
    }
    if (entry.name == kTree && entry.type == FileType::kDirectory) {
      WAYPOINT_ASSIGN_OR_RETURN(const bool below, Exists(fs, JoinPath(JoinPath(files.path(), kTree), kFirstStage)));
      found = found || below;
    }
    found = found || entry.name == kWhole || entry.name == PieceName(0) ||
            (entry.name == kFirstStage && entry.type == FileType::kDirectory);
  }
  return found;
}

absl::StatusOr<Fairseq2Directory> ReadFairseq2Directory(FileSystem& fs, const std::string& directory,
                                                        const LoadOptions& options) {
  return Reader(fs, options).Read(directory);
}

}  // namespace waypoint::models
