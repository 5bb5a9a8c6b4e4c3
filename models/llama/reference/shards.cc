#include "models/llama/reference/shards.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/external/equal_tensors.h"
#include "checkpoint/tensor/cast.h"

namespace waypoint::models {
namespace {

constexpr size_t kSpelledOut = 10;
// Names have two digits.
constexpr int64_t kMostFiles = 100;

int64_t FindIn(const Manifest& manifest, const ShardSet& set, int64_t file, absl::string_view name) {
  return manifest.Find(absl::StrCat(set.files[file].prefix, name));
}

std::string Listed(const std::vector<std::string>& items) {
  const size_t shown = std::min(items.size(), kSpelledOut);
  return absl::StrCat(absl::StrJoin(items.begin(), items.begin() + shown, ", "), items.size() > shown ? ", ..." : "");
}

class ShardReader {
 public:
  ShardReader(const Manifest& files, const ShardSet& set)
      : files_(files), set_(set), names_(*set.names), count_(set.count()) {
    shards_.set = set;
  }

  absl::StatusOr<ShardedTensors> Read() {
    WAYPOINT_RETURN_IF_ERROR(ReadNames());
    ReferenceTensors& found = shards_.tensors;
    found.files = count_;
    WAYPOINT_ASSIGN_OR_RETURN(const Dims norm, Shape(names_.final_norm, 1));
    WAYPOINT_ASSIGN_OR_RETURN(const Dims embedding, Shape(names_.embedding, 2));
    WAYPOINT_ASSIGN_OR_RETURN(const Dims query, Shape(First(names_.query), 2));
    WAYPOINT_ASSIGN_OR_RETURN(const Dims key, Shape(First(names_.key), 2));
    WAYPOINT_ASSIGN_OR_RETURN(const Dims gate, Shape(First(names_.gate), 2));
    found.dim = norm[0];
    int64_t query_rows = 0;
    int64_t columns = 0;
    if (!CheckedMul(query[0], count_, &query_rows) || !CheckedMul(key[0], count_, &found.key_rows) ||
        !CheckedMul(gate[0], count_, &found.ffn) || !CheckedMul(embedding[1], count_, &columns)) {
      return MakeError(ErrorKind::kOverflow, "the files together have more rows than 63 bits hold");
    }
    // Files that are not there make every cut dimension too short.
    if (query_rows != found.dim) {
      const std::string text =
          absl::StrCat(Quoted(First(names_.query)), " is ", ShapeString(query), " in each of ", count_, " files, ",
                       query_rows, " rows in all, but ", names_.final_norm, " says dim ", found.dim);
      return query_rows < found.dim && found.dim % query[0] == 0
                 ? MakeError(ErrorKind::kMissing,
                             absl::StrCat(text, ": this is a part of ", found.dim / query[0], " files"))
                 : MakeError(ErrorKind::kShape,
                             absl::StrCat(text, "; the format has heads of dim / n_heads channels only"));
    }
    if (embedding[1] == found.dim) {
      shards_.embedding_dim = 0;
      if (!CheckedMul(embedding[0], count_, &found.vocab)) {
        return MakeError(ErrorKind::kOverflow, "the vocabulary has more entries than 63 bits hold");
      }
    } else if (columns == found.dim) {
      shards_.embedding_dim = 1;
      found.vocab = embedding[0];
    } else {
      return MakeError(ErrorKind::kShape,
                       absl::StrCat(Quoted(names_.embedding), " is ", ShapeString(embedding), " in each of ", count_,
                                    " files, which is no part of a table with dim ", found.dim, " by rows or columns"));
    }
    WAYPOINT_RETURN_IF_ERROR(CountLayers());
    return std::move(shards_);
  }

 private:
  // The same names in all files, with the same shapes and types.
  absl::Status ReadNames() {
    std::vector<std::string> missing;
    std::vector<std::string> extra;
    std::vector<std::string> different;
    absl::flat_hash_set<std::string> known;
    for (const TensorMeta& tensor : files_.tensors()) {
      absl::string_view name = tensor.name;
      if (!absl::ConsumePrefix(&name, set_.files[0].prefix)) {
        continue;
      }
      shards_.names.emplace_back(name);
      known.emplace(name);
      for (int64_t file = 1; file < count_; ++file) {
        const int64_t index = Find(file, name);
        if (index < 0) {
          missing.push_back(absl::StrCat(Quoted(name), " in ", set_.files[file].name));
        } else if (files_[index].shape != tensor.shape || files_[index].dtype != tensor.dtype) {
          different.push_back(absl::StrCat(Quoted(name), " is ", DTypeName(tensor.dtype), " ",
                                           ShapeString(tensor.shape), " in ", set_.files[0].name, " and ",
                                           DTypeName(files_[index].dtype), " ", ShapeString(files_[index].shape),
                                           " in ", set_.files[file].name));
        }
      }
    }
    absl::flat_hash_map<absl::string_view, absl::string_view> file_names;  // by prefix
    for (const ShardSet::File& file : set_.files) {
      file_names.emplace(file.prefix, file.name);
    }
    for (const TensorMeta& tensor : files_.tensors()) {
      const size_t name_begin = tensor.name.find('/') + 1;
      const absl::string_view prefix = absl::string_view(tensor.name).substr(0, name_begin);
      const absl::string_view name = absl::string_view(tensor.name).substr(name_begin);
      if (prefix != set_.files[0].prefix && !known.contains(name)) {
        extra.push_back(absl::StrCat(Quoted(name), " in ", file_names.at(prefix)));
      }
    }
    if (!missing.empty()) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(missing.size(), " tensors of ", set_.files[0].name,
                                                         " are not in every file: ", Listed(missing)));
    }
    if (!extra.empty()) {
      return MakeError(ErrorKind::kExtra,
                       absl::StrCat(extra.size(), " tensors are not in ", set_.files[0].name, ": ", Listed(extra)));
    }
    if (!different.empty()) {
      return MakeError(ErrorKind::kShape,
                       absl::StrCat(different.size(), " tensors are not cut evenly: ", Listed(different)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Dims> Shape(absl::string_view name, size_t rank) {
    const int64_t index = Find(0, name);
    if (index < 0) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(set_.files[0].name, " has no tensor ", Quoted(name),
                                                         "; every ", names_.code, " checkpoint has it"));
    }
    const Dims& shape = files_[index].shape;
    if (shape.size() != rank || NumElements(shape) == 0) {
      return MakeError(ErrorKind::kShape, absl::StrCat(Quoted(name), " is ", ShapeString(shape), ", wanted ", rank,
                                                       rank == 1 ? " dimension" : " dimensions"));
    }
    return shape;
  }

  absl::Status CountLayers() {
    int64_t last = 0;
    for (const std::string& tensor : shards_.names) {
      absl::string_view name = tensor;
      int64_t layer = 0;
      if (absl::ConsumePrefix(&name, names_.layers) && absl::SimpleAtoi(name.substr(0, name.find('.')), &layer)) {
        last = std::max(last, layer);
      }
    }
    // A number in a name makes rules for so many layers.
    if (last >= static_cast<int64_t>(shards_.names.size())) {
      return MakeError(ErrorKind::kMissing,
                       absl::StrCat("there is a tensor of layer ", last, ", but the file holds only ",
                                    shards_.names.size(), " tensors"));
    }
    shards_.tensors.layers = last + 1;
    return absl::OkStatus();
  }

  int64_t Find(int64_t file, absl::string_view name) const { return FindIn(files_, set_, file, name); }

  std::string First(absl::string_view tensor) const { return LayerTensorName(names_, 0, tensor); }

  const Manifest& files_;
  const ShardSet& set_;
  const LlamaNames& names_;
  const int64_t count_;
  ShardedTensors shards_;
};

absl::StatusOr<std::vector<float>> ReadFloats(TensorSource& files, int64_t index) {
  const TensorMeta& meta = files.manifest()[index];
  AlignedBuffer stored(std::max<int64_t>(meta.num_bytes(), 1));
  const Box whole = Box::Whole(meta.shape);
  const std::vector<ReadRequest> requests = {
      {index, whole, StridedSpan::Contiguous(stored.data(), DTypeBytes(meta.dtype), whole.sizes)}};
  WAYPOINT_RETURN_IF_ERROR(files.Read(requests));
  std::vector<float> values(meta.num_elements());
  CastElements(meta.dtype, stored.data(), DType::kF32, reinterpret_cast<char*>(values.data()), meta.num_elements());
  return values;
}

// Every file holds it whole, and nothing computes it.
bool IsReplica(const LlamaNames& names, absl::string_view name) {
  return name == names.final_norm ||
         (absl::StartsWith(name, names.layers) && (absl::EndsWith(name, absl::StrCat(".", names.attention_norm)) ||
                                                   absl::EndsWith(name, absl::StrCat(".", names.ffn_norm))));
}

}  // namespace

ShardSet ReferenceShards(int64_t count) {
  ShardSet set;
  for (int64_t file = 0; file < count; ++file) {
    set.files.push_back({ReferenceFileName(file), ReferencePrefix(file)});
  }
  return set;
}

absl::StatusOr<ShardedTensors> ReadShards(const Manifest& files, const ShardSet& set) {
  return ShardReader(files, set).Read();
}

absl::StatusOr<std::vector<ConvertedTensor>> MergeShards(const Manifest& files, const ShardedTensors& shards,
                                                         int64_t kv_copies) {
  std::vector<ConvertedTensor> merged;
  for (const std::string& name : shards.names) {
    const ReferenceCut cut = CutOf(*shards.set.names, name);
    const int64_t step = cut == ReferenceCut::kHeads ? kv_copies : 1;
    const int64_t count = cut == ReferenceCut::kCopied ? 1 : shards.tensors.files;
    const int dim = cut == ReferenceCut::kColumns || (cut == ReferenceCut::kEmbedding && shards.embedding_dim == 1);
    std::vector<Expr> parts;
    for (int64_t file = 0; file < count; file += step) {
      const int64_t index = FindIn(files, shards.set, file, name);
      parts.push_back(Ref(files[index], index));
    }
    auto whole = Concat(std::move(parts), dim);
    if (!whole.ok()) {
      return Annotate(whole.status(), Quoted(name));
    }
    merged.push_back({name, *std::move(whole)});
  }
  return merged;
}

absl::StatusOr<int64_t> CountKvCopies(TensorSource& files, const ShardedTensors& shards) {
  const int64_t count = shards.tensors.files;
  int64_t copies = count;
  for (const std::string& name : shards.names) {
    if (CutOf(*shards.set.names, name) != ReferenceCut::kHeads) {
      continue;
    }
    for (int64_t file = 1; file < count && copies > 1; ++file) {
      if (file % copies == 0) {
        continue;  // known to begin another head
      }
      WAYPOINT_ASSIGN_OR_RETURN(const bool equal,
                                TensorsAreEqual(files, FindIn(files.manifest(), shards.set, file - 1, name),
                                                FindIn(files.manifest(), shards.set, file, name)));
      if (!equal) {
        copies = std::gcd(copies, file);
      }
    }
  }
  return copies;
}

absl::StatusOr<bool> KvHeadsHaveValues(TensorSource& files, const ShardedTensors& shards) {
  for (const std::string& name : shards.names) {
    if (CutOf(*shards.set.names, name) != ReferenceCut::kHeads) {
      continue;
    }
    for (int64_t file = 0; file < shards.tensors.files; ++file) {
      WAYPOINT_ASSIGN_OR_RETURN(const bool one_value,
                                HasOneValue(files, FindIn(files.manifest(), shards.set, file, name)));
      if (!one_value) {
        return true;
      }
    }
  }
  return false;
}

absl::StatusOr<ReplicaDeviation> CompareReplicas(TensorSource& files, const ShardedTensors& shards, double tolerance) {
  ReplicaDeviation deviation;
  if (shards.tensors.files == 1) {
    return deviation;
  }
  for (const std::string& name : shards.names) {
    const int64_t first = FindIn(files.manifest(), shards.set, 0, name);
    if (!IsReplica(*shards.set.names, name) || !IsCastable(files.manifest()[first].dtype)) {
      continue;
    }
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<float> wanted, ReadFloats(files, first));
    double largest = 0;
    for (int64_t file = 1; file < shards.tensors.files; ++file) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<float> found,
                                ReadFloats(files, FindIn(files.manifest(), shards.set, file, name)));
      for (size_t i = 0; i < wanted.size(); ++i) {
        if (std::memcmp(&found[i], &wanted[i], sizeof(float)) == 0) {
          continue;  // NaN and infinity too
        }
        const double distance = std::fabs(static_cast<double>(found[i]) - static_cast<double>(wanted[i]));
        // Also when one is NaN.
        if (!(distance <= tolerance)) {
          return MakeError(
              ErrorKind::kAmbiguous,
              absl::StrCat(Quoted(name), " should be the same in every file: element ", i, " is ", wanted[i], " in ",
                           shards.set.files[0].name, " and ", found[i], " in ", shards.set.files[file].name,
                           ", further apart than ", tolerance, " (--replica-tolerance)"));
        }
        largest = std::max(largest, distance);
      }
    }
    deviation.tensors += largest > 0;
    if (largest > deviation.largest) {
      deviation.largest = largest;
      deviation.tensor = name;
    }
  }
  return deviation;
}

absl::Status CheckLayout(const LlamaShape& shape, const ReferenceLayout& layout) {
  const auto misfits = [&](int64_t files) {
    std::vector<std::string> texts;
    const auto check = [&](absl::string_view what, int64_t size) {
      if (size % files != 0) {
        texts.push_back(absl::StrCat(what, " ", size));
      }
    };
    check("n_heads", shape.heads);
    check("hidden layer", shape.ffn);
    check("vocabulary", shape.vocab);
    if (layout.embedding_dim == 1) {
      check("dim", shape.dim);
    }
    if (shape.kv_heads % files != 0 && files % shape.kv_heads != 0) {
      texts.push_back(absl::StrCat("n_kv_heads ", shape.kv_heads));
    }
    return texts;
  };
  const bool countable = layout.files >= 1 && layout.files <= kMostFiles;
  const std::vector<std::string> texts = countable ? misfits(layout.files) : std::vector<std::string>();
  if (countable && texts.empty()) {
    return absl::OkStatus();
  }
  std::vector<int64_t> possible;
  for (int64_t files = 1; files <= std::min(shape.heads, kMostFiles); ++files) {
    if (misfits(files).empty()) {
      possible.push_back(files);
    }
  }
  return MakeError(ErrorKind::kRequest,
                   absl::StrCat("model-parallel ", layout.files,
                                countable ? absl::StrCat(" does not divide ", absl::StrJoin(texts, ", "))
                                          : absl::StrCat(" is not between 1 and ", kMostFiles),
                                "; possible for this model: ", absl::StrJoin(possible, ", ")));
}

absl::StatusOr<std::vector<ConvertedTensor>> SplitShards(const std::vector<ConvertedTensor>& tensors,
                                                         const ShardSet& set, const LlamaShape& shape,
                                                         const ReferenceLayout& layout) {
  std::vector<ConvertedTensor> split;
  for (int64_t file = 0; file < layout.files; ++file) {
    for (const ConvertedTensor& tensor : tensors) {
      const ReferenceCut cut = CutOf(*set.names, tensor.name);
      Expr part = tensor.expression;
      if (cut != ReferenceCut::kCopied) {
        const int dim = cut == ReferenceCut::kColumns || (cut == ReferenceCut::kEmbedding && layout.embedding_dim == 1);
        // More files than heads: neighbours share one.
        const int64_t parts = cut == ReferenceCut::kHeads ? std::min(layout.files, shape.kv_heads) : layout.files;
        const int64_t size = part->shape()[dim] / parts;
        WAYPOINT_ASSIGN_OR_RETURN(part, Narrow(part, dim, file / (layout.files / parts) * size, size));
      }
      split.push_back({absl::StrCat(set.files[file].prefix, tensor.name), std::move(part)});
    }
  }
  return split;
}

}  // namespace waypoint::models
