#include "models/llama/fairseq2/pieces.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/external/equal_tensors.h"
#include "models/llama/fairseq2/names.h"

namespace waypoint::models {
namespace {

class Joiner {
 public:
  Joiner(const Manifest& manifest, const std::vector<Fairseq2File>& files, const Fairseq2Grid& grid,
         const ShardSet& set)
      : manifest_(manifest), files_(files), grid_(grid), set_(set) {
    for (size_t file = 0; file < files_.size(); ++file) {
      by_prefix_.emplace(files_[file].prefix, file);
    }
    names_.resize(files_.size());
    for (const TensorMeta& tensor : manifest_.tensors()) {
      // Prefixes are names of files without suffix, keys have no slash before their first dot.
      size_t slash = 0;
      for (int64_t depth = grid_depth(); depth > 0; --depth) {
        slash = tensor.name.find('/', slash) + 1;
      }
      names_[by_prefix_.at(absl::string_view(tensor.name).substr(0, slash))].push_back(
          absl::string_view(tensor.name).substr(slash));
    }
  }

  // The tensors of all ranks, first those that are in one stage or in the first of several, then the others.
  absl::Status Join() {
    for (int64_t rank = 0; rank < grid_.tensor_parallel; ++rank) {
      absl::flat_hash_map<absl::string_view, int64_t> stage_of;
      for (int64_t stage = 0; stage < grid_.stages; ++stage) {
        for (const absl::string_view name : NamesOf(stage, rank)) {
          WAYPOINT_ASSIGN_OR_RETURN(Expr whole, JoinRows(stage, rank, name));
          const auto [it, fresh] = stage_of.emplace(name, stage);
          const std::string joined = absl::StrCat(set_.files[rank].prefix, name);
          if (fresh) {
            tensors_.push_back({joined, std::move(whole)});
          } else {
            repeated_.push_back({joined, it->second, stage, std::move(whole)});
          }
        }
      }
    }
    return absl::OkStatus();
  }

  // Compares what is in several stages; source: that of the manifest.
  absl::Status CompareRepeated(TensorSource& source) {
    if (repeated_.empty()) {
      return absl::OkStatus();
    }
    std::vector<ConvertedTensor> both = tensors_;
    for (size_t i = 0; i < repeated_.size(); ++i) {
      both.push_back({absl::StrCat("again.", i, "/", repeated_[i].name), repeated_[i].whole});
    }
    WAYPOINT_ASSIGN_OR_RETURN(const auto compared, ConvertedSource::Create(&source, std::move(both)));
    for (size_t i = 0; i < repeated_.size(); ++i) {
      const std::string again = absl::StrCat("again.", i, "/", repeated_[i].name);
      WAYPOINT_ASSIGN_OR_RETURN(
          const bool equal,
          TensorsAreEqual(*compared, compared->manifest().Find(repeated_[i].name), compared->manifest().Find(again)));
      if (!equal) {
        return MakeError(ErrorKind::kDupKey,
                         absl::StrCat("tensor ", Quoted(repeated_[i].name), " is in stages ", repeated_[i].first,
                                      " and ", repeated_[i].second, ", and not the same"));
      }
    }
    return absl::OkStatus();
  }

  std::vector<ConvertedTensor> tensors() && { return std::move(tensors_); }

  std::vector<std::string> Notes() const {
    if (repeated_.empty()) {
      return {};
    }
    return {absl::StrCat(repeated_.size(), " tensors are in several stages and the same in each (",
                         Quoted(repeated_[0].name), "): took the first")};
  }

 private:
  struct Repeated {
    std::string name;
    int64_t first = 0;
    int64_t second = 0;
    Expr whole;
  };

  // Slashes in a file's prefix.
  int64_t grid_depth() const { return std::count(files_[0].prefix.begin(), files_[0].prefix.end(), '/'); }

  // Of any of the pieces, in the order of the first that has it.
  std::vector<absl::string_view> NamesOf(int64_t stage, int64_t rank) const {
    std::vector<absl::string_view> names;
    absl::flat_hash_set<absl::string_view> known;
    for (int64_t piece = 0; piece < grid_.pieces; ++piece) {
      for (const absl::string_view name : names_[grid_.FileIndex(stage, rank, piece)]) {
        if (known.insert(name).second) {
          names.push_back(name);
        }
      }
    }
    return names;
  }

  absl::StatusOr<Expr> JoinRows(int64_t stage, int64_t rank, absl::string_view name) const {
    const auto find = [&](int64_t piece) {
      return manifest_.Find(absl::StrCat(files_[grid_.FileIndex(stage, rank, piece)].prefix, name));
    };
    if (grid_.pieces == 1) {
      const int64_t index = find(0);
      return Ref(manifest_[index], index);
    }
    std::vector<Expr> parts;
    std::vector<int64_t> rows(grid_.pieces, 0);
    std::vector<bool> present(grid_.pieces, false);
    int64_t first = -1;
    int64_t all_rows = 0;
    for (int64_t piece = 0; piece < grid_.pieces; ++piece) {
      const int64_t index = find(piece);
      present[piece] = index >= 0;
      if (index < 0 || manifest_[index].num_elements() == 0) {
        continue;
      }
      const TensorMeta& tensor = manifest_[index];
      if (tensor.shape.empty()) {
        return MakeError(ErrorKind::kShape, absl::StrCat(In(stage, rank, piece, name), " has no rows to be cut along"));
      }
      const TensorMeta& begin = manifest_[first < 0 ? index : find(first)];
      if (tensor.dtype != begin.dtype) {
        return MakeError(ErrorKind::kDType, absl::StrCat(In(stage, rank, piece, name), " is ", DTypeName(tensor.dtype),
                                                         ", an earlier piece ", DTypeName(begin.dtype)));
      }
      if (tensor.shape.size() != begin.shape.size() ||
          !std::equal(tensor.shape.begin() + 1, tensor.shape.end(), begin.shape.begin() + 1)) {
        return MakeError(ErrorKind::kShape,
                         absl::StrCat(In(stage, rank, piece, name), " is ", ShapeString(tensor.shape),
                                      ", an earlier piece ", ShapeString(begin.shape)));
      }
      first = first < 0 ? piece : first;
      rows[piece] = tensor.shape[0];
      all_rows += tensor.shape[0];
      parts.push_back(Ref(tensor, index));
    }
    if (parts.empty()) {
      return MakeError(ErrorKind::kShape,
                       absl::StrCat(In(stage, rank, 0, name), " has no elements, nor has any piece"));
    }
    bool later = false;
    for (int64_t piece = grid_.pieces; piece-- > 0;) {
      if (!present[piece] && later) {
        return MakeError(ErrorKind::kMissing,
                         absl::StrCat(In(stage, rank, piece, name), " is absent, and later pieces have rows of it"));
      }
      later = later || rows[piece] > 0;
    }
    const int64_t each = (all_rows + grid_.pieces - 1) / grid_.pieces;
    for (int64_t piece = 0; piece < grid_.pieces; ++piece) {
      const int64_t wanted = std::max<int64_t>(std::min(each, all_rows - piece * each), 0);
      if (rows[piece] != wanted) {
        return MakeError(ErrorKind::kShape,
                         absl::StrCat(In(stage, rank, piece, name), " has ", rows[piece], " rows; of ", all_rows,
                                      " rows in ", grid_.pieces, " pieces it should have ", wanted));
      }
    }
    return Concat(std::move(parts), 0);
  }

  std::string In(int64_t stage, int64_t rank, int64_t piece, absl::string_view name) const {
    return absl::StrCat(files_[grid_.FileIndex(stage, rank, piece)].name, ": tensor ", Quoted(name));
  }

  const Manifest& manifest_;
  const std::vector<Fairseq2File>& files_;
  const Fairseq2Grid& grid_;
  const ShardSet& set_;
  absl::flat_hash_map<absl::string_view, size_t> by_prefix_;
  std::vector<std::vector<absl::string_view>> names_;  // by file
  std::vector<ConvertedTensor> tensors_;
  std::vector<Repeated> repeated_;
};

}  // namespace

ShardSet Fairseq2Shards(const std::vector<Fairseq2File>& files, const Fairseq2Grid& grid) {
  ShardSet set;
  set.names = &kFairseq2Names;
  for (int64_t rank = 0; rank < grid.tensor_parallel; ++rank) {
    const Fairseq2File& file = files[rank * grid.pieces];
    const std::string name = absl::StrFormat("tp_%02d", rank);
    const bool one_file = grid.num_files() == grid.tensor_parallel;
    const bool in_tree = absl::StrContains(file.prefix, "/tp_");
    set.files.push_back({one_file ? file.name : name, in_tree ? absl::StrCat(name, "/") : file.prefix});
  }
  return set;
}

absl::StatusOr<JoinedPieces> JoinPieces(std::unique_ptr<TensorSource> source, const std::vector<Fairseq2File>& files,
                                        const Fairseq2Grid& grid, const ShardSet& set) {
  Joiner joiner(source->manifest(), files, grid, set);
  WAYPOINT_RETURN_IF_ERROR(joiner.Join());
  WAYPOINT_RETURN_IF_ERROR(joiner.CompareRepeated(*source));
  JoinedPieces joined;
  joined.notes = joiner.Notes();
  WAYPOINT_ASSIGN_OR_RETURN(joined.tensors, ConvertedSource::Create(std::move(source), std::move(joiner).tensors()));
  return joined;
}

}  // namespace waypoint::models
