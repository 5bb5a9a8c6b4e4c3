#include "checkpoint/format/external/hf_directory.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"
#include "checkpoint/container/safetensors/index.h"
#include "checkpoint/container/shard_files.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/format/directory_kind.h"
#include "checkpoint/format/external/hf_assets.h"
#include "checkpoint/format/file_checks.h"
#include "checkpoint/format/strip_prefix.h"
#include "checkpoint/storage/confined_directory.h"

namespace waypoint {
namespace {

constexpr absl::string_view kConfigName = "config.json";
constexpr absl::string_view kSingleName = "model.safetensors";
constexpr absl::string_view kSingleBinName = "pytorch_model.bin";
// Spelled out in one message.
constexpr size_t kNamedItems = 10;

// "a", "b" and 3 more
std::string QuotedList(const std::vector<std::string>& items) {
  const size_t shown = std::min(items.size(), kNamedItems);
  std::string out = absl::StrJoin(items.begin(), items.begin() + shown, ", ",
                                  [](std::string* s, const std::string& item) { s->append(Quoted(item)); });
  if (shown < items.size()) {
    absl::StrAppend(&out, " and ", items.size() - shown, " more");
  }
  return out;
}

bool IsBinFile(absl::string_view name) {
  return absl::StartsWith(name, "pytorch_model") && absl::EndsWith(name, ".bin");
}

class Reader {
 public:
  Reader(FileSystem& fs, const ConfinedDirectory& files, const LoadOptions& options)
      : fs_(fs), files_(files), options_(options) {}

  absl::StatusOr<HfDirectory> Read() {
    hf_.path = files_.path();
    WAYPOINT_RETURN_IF_ERROR(ReadConfig());
    WAYPOINT_RETURN_IF_ERROR(ReadWeights());
    WAYPOINT_RETURN_IF_ERROR(ReadAssets());
    WAYPOINT_RETURN_IF_ERROR(CheckCase());
    WAYPOINT_RETURN_IF_ERROR(StripPrefixes());
    return std::move(hf_);
  }

 private:
  // A second possible answer: an error for those who want to be told, else a note.
  absl::Status Ambiguous(std::string message) {
    if (options_.strict) {
      return MakeError(ErrorKind::kAmbiguous, absl::StrCat(QuotedPath(files_.path()), ": ", message));
    }
    hf_.notes.push_back(std::move(message));
    return absl::OkStatus();
  }

  absl::Status ReadConfig() {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files_.Resolve(kConfigName));
    WAYPOINT_ASSIGN_OR_RETURN(hf_.config_text,
                              ReadSmallRealFile(fs_, path, options_.limits.json_file_bytes, "json_file_bytes"));
    const std::string shown = QuotedPath(JoinPath(files_.path(), kConfigName));
    WAYPOINT_ASSIGN_OR_RETURN(hf_.config, ParseJson(hf_.config_text, shown, options_.limits));
    if (!hf_.config.is_object()) {
      return MakeError(ErrorKind::kSchema, absl::StrCat(shown, ": is ", hf_.config.type_name(), ", must be an object"));
    }
    used_.emplace(kConfigName);
    return AddTextFile(kConfigName, path, hf_.config_text);
  }

  absl::Status AddTextFile(absl::string_view name, const std::string& path, absl::string_view contents) {
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile file, TextFile(name, path, contents, options_));
    hf_.files.push_back(std::move(file));
    return absl::OkStatus();
  }

  absl::Status ReadWeights() {
    std::vector<std::string> bin_files;
    std::vector<std::string> loose;
    for (const DirectoryEntry& entry : files_.entries()) {
      if (IsBinFile(entry.name)) {
        bin_files.push_back(entry.name);
      } else if (absl::EndsWith(entry.name, ".safetensors")) {
        loose.push_back(entry.name);
      }
    }
    if (files_.Has(kSingleName) || files_.Has(kSafetensorsIndexName)) {
      WAYPOINT_RETURN_IF_ERROR(ReadSet(kSingleName, kSafetensorsIndexName, ".safetensors"));
      if (!bin_files.empty()) {
        used_.insert(bin_files.begin(), bin_files.end());
        used_.emplace(kBinIndexName);
        return Ambiguous(absl::StrCat("took safetensors, not ", QuotedList(bin_files)));
      }
      return absl::OkStatus();
    }
    if (files_.Has(kSingleBinName) || files_.Has(kBinIndexName)) {
      return ReadSet(kSingleBinName, kBinIndexName, ".bin");
    }
    loose.insert(loose.end(), bin_files.begin(), bin_files.end());
    if (const std::string kind = DirectoryKind(fs_, files_.path()); !kind.empty()) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(QuotedPath(files_.path()), ": has a ", kConfigName,
                                                         " but no weights that are read; it ", kind));
    }
    return MakeError(
        ErrorKind::kMissing,
        absl::StrCat(QuotedPath(files_.path()), ": has none of ", kSingleName, ", ", kSafetensorsIndexName, ", ",
                     kSingleBinName, " and ", kBinIndexName,
                     loose.empty() ? "" : absl::StrCat("; files that nothing refers to: ", QuotedList(loose))));
  }

  // The one file, or else those of the index.
  absl::Status ReadSet(absl::string_view single, absl::string_view index, absl::string_view extension) {
    if (!files_.Has(single)) {
      return ReadIndexed(index, extension);
    }
    WAYPOINT_RETURN_IF_ERROR(ReadShard(std::string(single)));
    WAYPOINT_RETURN_IF_ERROR(MapTensors());
    if (files_.Has(index)) {
      used_.emplace(index);
      return Ambiguous(absl::StrCat("took ", Quoted(single), ", not the files of ", Quoted(index)));
    }
    return absl::OkStatus();
  }

  absl::Status ReadIndexed(absl::string_view index_name, absl::string_view extension) {
    const std::string shown = JoinPath(files_.path(), index_name);
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files_.Resolve(index_name));
    SafetensorsIndex index;
    {
      WAYPOINT_ASSIGN_OR_RETURN(const std::string text,
                                ReadSmallRealFile(fs_, path, options_.limits.index_file_bytes, "index_file_bytes"));
      WAYPOINT_ASSIGN_OR_RETURN(index, ParseSafetensorsIndex(text, shown, options_.limits, extension));
      WAYPOINT_RETURN_IF_ERROR(AddTextFile(index_name, path, text));
    }
    used_.emplace(index_name);

    // All of them, before the first is opened: an index may name very many.
    std::vector<std::string> missing;
    for (const std::string& file : index.files) {
      if (!files_.Has(file)) {
        missing.push_back(file);
      }
    }
    if (!missing.empty()) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(QuotedPath(shown), ": of ", index.files.size(), " files ",
                                                         missing.size(), " are absent: ", QuotedList(missing)));
    }
    for (const std::string& file : index.files) {
      WAYPOINT_RETURN_IF_ERROR(ReadShard(file));
    }
    WAYPOINT_RETURN_IF_ERROR(MapTensors());
    return CheckIndex(index, shown);
  }

  absl::Status ReadShard(const std::string& name) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files_.Resolve(name));
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs_.OpenForRead(path, OpenOptions()));
    used_.insert(name);
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile tensors, TensorFile(name, path, file->size_bytes(), options_));
    if (IsBinFile(name)) {
      WAYPOINT_ASSIGN_OR_RETURN(TorchContents contents, ReadTorchFile(*file, options_.limits));
      const int64_t values = static_cast<int64_t>(contents.values.size()) + contents.values_left_out;
      if (values > 0) {
        hf_.notes.push_back(absl::StrCat("left behind, no tensors: ", values, " values of ", Quoted(name)));
      }
      tensors.has_checksums = HasChecksums(contents);
      hf_.bin_shards.push_back({name, std::move(contents), tensors.recorder});
      hf_.files.push_back(std::move(tensors));
      return absl::OkStatus();
    }
    HfShard shard;
    shard.name = name;
    shard.path = path;
    shard.recorder = tensors.recorder;
    WAYPOINT_ASSIGN_OR_RETURN(shard.header, ReadSafetensorsHeader(*file, options_.limits));
    hf_.shards.push_back(std::move(shard));
    hf_.files.push_back(std::move(tensors));
    return absl::OkStatus();
  }

  // One of the two lists is empty.
  size_t shard_count() const { return hf_.shards.size() + hf_.bin_shards.size(); }
  const std::string& ShardName(size_t shard) const {
    return hf_.shards.empty() ? hf_.bin_shards[shard].name : hf_.shards[shard].name;
  }
  std::vector<absl::string_view> TensorNames(size_t shard) const {
    std::vector<absl::string_view> names;
    if (hf_.shards.empty()) {
      for (const TorchTensor& tensor : hf_.bin_shards[shard].contents.tensors) {
        names.push_back(tensor.name);
      }
    } else {
      for (const SafetensorsEntry& entry : hf_.shards[shard].header.entries) {
        names.push_back(entry.name);
      }
    }
    return names;
  }

  // Fills shard_of_; its keys are the names in the shards.
  absl::Status MapTensors() {
    for (size_t shard = 0; shard < shard_count(); ++shard) {
      for (const absl::string_view name : TensorNames(shard)) {
        const auto [it, inserted] = shard_of_.try_emplace(name, shard);
        if (!inserted) {
          return MakeError(ErrorKind::kDupKey,
                           absl::StrCat(QuotedPath(files_.path()), ": tensor ", Quoted(name), " is in ",
                                        Quoted(ShardName(it->second)), " and in ", Quoted(ShardName(shard))));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckIndex(const SafetensorsIndex& index, const std::string& shown) {
    std::vector<std::string> missing;
    size_t found = 0;
    for (const SafetensorsIndex::Place& place : index.places) {
      const auto it = shard_of_.find(place.tensor);
      if (it == shard_of_.end() || static_cast<int>(it->second) != place.file) {
        missing.push_back(absl::StrCat(place.tensor, " in ", index.files[place.file],
                                       it == shard_of_.end() ? "" : ", but in " + ShardName(it->second)));
      } else {
        ++found;
      }
    }
    if (!missing.empty()) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(QuotedPath(shown), ": ", missing.size(),
                                                         " tensors are not where it says: ", QuotedList(missing)));
    }
    if (found < shard_of_.size()) {
      absl::flat_hash_set<absl::string_view> listed;
      for (const SafetensorsIndex::Place& place : index.places) {
        listed.insert(place.tensor);
      }
      std::vector<std::string> extra;
      for (size_t shard = 0; shard < shard_count(); ++shard) {
        for (const absl::string_view name : TensorNames(shard)) {
          if (!listed.contains(name)) {
            extra.push_back(absl::StrCat(name, " in ", ShardName(shard)));
          }
        }
      }
      return MakeError(ErrorKind::kExtra, absl::StrCat(QuotedPath(shown), ": does not list ", extra.size(),
                                                       " tensors of its files: ", QuotedList(extra)));
    }
    if (options_.strict && index.total_bytes.has_value()) {
      int64_t total = 0;  // fits: each summand is at most the size of a file
      for (const HfShard& shard : hf_.shards) {
        total += shard.header.file_bytes - shard.header.data_begin;
      }
      // transformers counts tensors that share their elements once.
      for (const HfBinShard& shard : hf_.bin_shards) {
        for (const TorchStorage& storage : shard.contents.storages) {
          total += storage.bytes;
        }
      }
      if (total != *index.total_bytes) {
        return MakeError(ErrorKind::kSizeMismatch,
                         absl::StrCat(QuotedPath(shown), ": total_size is ", *index.total_bytes, ", the tensors have ",
                                      total, " bytes"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadAssets() {
    std::vector<std::string> left_behind;
    const auto is_used = [this](absl::string_view name) { return used_.count(std::string(name)) > 0; };
    WAYPOINT_ASSIGN_OR_RETURN(hf_.assets, ReadHfAssets(fs_, files_, is_used, options_.limits, &left_behind));
    for (const Asset& asset : hf_.assets) {
      used_.insert(asset.name);
    }
    if (!left_behind.empty()) {
      hf_.notes.push_back(absl::StrCat("left behind, not known to belong to a model: ", QuotedList(left_behind)));
    }
    return absl::OkStatus();
  }

  // Where case does not count, one of two such files would be lost.
  absl::Status CheckCase() {
    std::map<std::string, const std::string*> lower;
    for (const DirectoryEntry& entry : files_.entries()) {
      const auto [it, inserted] = lower.emplace(absl::AsciiStrToLower(entry.name), &entry.name);
      if (!inserted && (used_.count(entry.name) > 0 || used_.count(*it->second) > 0)) {
        WAYPOINT_RETURN_IF_ERROR(
            Ambiguous(absl::StrCat(Quoted(*it->second), " and ", Quoted(entry.name), " differ only by case")));
      }
    }
    return absl::OkStatus();
  }

  absl::Status StripPrefixes() {
    shard_of_.clear();  // has the names as they were
    std::vector<std::string*> names;
    for (HfShard& shard : hf_.shards) {
      for (SafetensorsEntry& entry : shard.header.entries) {
        names.push_back(&entry.name);
      }
    }
    for (HfBinShard& shard : hf_.bin_shards) {
      for (TorchTensor& tensor : shard.contents.tensors) {
        names.push_back(&tensor.name);
      }
    }
    PrefixStripper stripper(options_.strip_prefixes);
    WAYPOINT_RETURN_IF_ERROR(Annotate(stripper.Apply(names), QuotedPath(files_.path())));
    return Annotate(stripper.Finish(), QuotedPath(files_.path()));
  }

  FileSystem& fs_;
  const ConfinedDirectory& files_;
  const LoadOptions& options_;
  HfDirectory hf_;
  std::set<std::string> used_;  // names that are accounted for
  absl::flat_hash_map<absl::string_view, size_t> shard_of_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> HfOwnFiles(FileSystem& fs, const std::string& directory) {
  std::vector<std::string> names = {"config.json"};
  const std::pair<absl::string_view, absl::string_view> kinds[] = {{kSafetensorsIndexName, ".safetensors"},
                                                                   {kBinIndexName, ".bin"}};
  // Of rival kinds, the one that is read.
  for (const auto& [index_name, extension] : kinds) {
    const std::string index_path = JoinPath(directory, index_name);
    WAYPOINT_ASSIGN_OR_RETURN(const bool sharded, Exists(fs, index_path));
    if (sharded) {
      names.emplace_back(index_name);
      const Limits limits;
      const auto text = ReadSmallFile(fs, index_path, limits.index_file_bytes, "index_file_bytes");
      const auto index = text.ok() ? ParseSafetensorsIndex(*text, index_path, limits, extension) : text.status();
      if (index.ok()) {
        names.insert(names.end(), index->files.begin(), index->files.end());
      }
      return names;
    }
    const std::string single = absl::StrCat(extension == ".bin" ? "pytorch_model" : "model", extension);
    WAYPOINT_ASSIGN_OR_RETURN(const bool whole, Exists(fs, JoinPath(directory, single)));
    if (whole) {
      names.push_back(single);
      return names;
    }
  }
  return names;
}

absl::StatusOr<HfDirectory> ReadHfDirectory(FileSystem& fs, const std::string& directory, const LoadOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, ConfinedDirectory::Open(fs, directory));
  return Reader(fs, files, options).Read();
}

}  // namespace waypoint
