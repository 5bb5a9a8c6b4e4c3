#include "models/llama/reference/directory.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/format/file_checks.h"
#include "checkpoint/format/strip_prefix.h"
#include "checkpoint/storage/confined_directory.h"
#include "models/llama/reference/weights.h"

namespace waypoint::models {
namespace {

absl::StatusOr<int64_t> CountFiles(const ConfinedDirectory& files) {
  int64_t count = 0;
  std::vector<std::string> strays;
  for (const DirectoryEntry& entry : files.entries()) {
    if (IsReferenceFile(entry.name)) {
      ++count;
    } else if (absl::EndsWith(entry.name, ".pth")) {
      strays.push_back(Quoted(entry.name));
    }
  }
  const std::string shown = QuotedPath(files.path());
  if (!strays.empty()) {
    return MakeError(
        ErrorKind::kExtra,
        absl::StrCat(shown, ": ", absl::StrJoin(strays, ", "), strays.size() == 1 ? " is" : " are",
                     " no consolidated.NN.pth, and loaders of this format take every *.pth for a part of the "
                     "model; move it elsewhere"));
  }
  if (count == 0) {
    return MakeError(ErrorKind::kMissing, absl::StrCat(shown, ": has no consolidated.00.pth"));
  }
  for (int64_t file = 0; file < count; ++file) {
    if (!files.Has(ReferenceFileName(file))) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(shown, ": ", ReferenceFileName(file),
                                                         " is absent, and there are ", count, " files of that kind"));
    }
  }
  return count;
}

// torch.save puts the name of the file into it.
absl::Status CheckSavedAs(const TorchContents& contents, const std::string& name) {
  const std::string saved_as = absl::StrCat(contents.archive_name, ".pth");
  if (saved_as == name || !IsReferenceFile(saved_as)) {
    return absl::OkStatus();
  }
  return MakeError(ErrorKind::kAmbiguous,
                   absl::StrCat(QuotedPath(contents.path), " was saved as ", Quoted(saved_as),
                                ", as its archive says; give the files the names that they were saved under, or save "
                                "this one again if its name is right"));
}

// Trainers save {"model": state dict}, often with more beside it, or under these names.
constexpr absl::string_view kWrappers[] = {"model.", "weights.", "state_dict."};

// Leaves the state dict; true where there was one in another.
absl::StatusOr<bool> UnwrapModel(TorchContents* contents) {
  const auto holds_model = [contents](absl::string_view wrapper) {
    return std::any_of(contents->tensors.begin(), contents->tensors.end(), [wrapper](const TorchTensor& tensor) {
      return tensor.name == absl::StrCat(wrapper, kReferenceNames.embedding);
    });
  };
  const auto wrapper = std::find_if(std::begin(kWrappers), std::end(kWrappers), holds_model);
  if (wrapper == std::end(kWrappers)) {
    return false;
  }
  const auto is_wrapped = [wrapper](const TorchTensor& tensor) { return absl::StartsWith(tensor.name, *wrapper); };
  const int64_t wrapped = std::count_if(contents->tensors.begin(), contents->tensors.end(), is_wrapped);
  const int64_t beside = static_cast<int64_t>(contents->tensors.size()) - wrapped;
  if (beside > 0) {
    const auto other = std::find_if_not(contents->tensors.begin(), contents->tensors.end(), is_wrapped);
    return MakeError(ErrorKind::kExtra,
                     absl::StrCat(QuotedPath(contents->path), ": the model's ", wrapped, " tensors stand under ",
                                  Quoted(*wrapper), ", and beside them ", beside, " others, for example ",
                                  Quoted(other->name), "; save the inner dict alone"));
  }
  for (TorchTensor& tensor : contents->tensors) {
    tensor.name.erase(0, wrapper->size());
  }
  return true;
}

}  // namespace

bool IsReferenceFile(absl::string_view name) {
  return name.size() == 19 && absl::StartsWith(name, "consolidated.") && absl::EndsWith(name, ".pth") &&
         absl::ascii_isdigit(name[13]) && absl::ascii_isdigit(name[14]);
}

absl::StatusOr<bool> LooksLikeReference(FileSystem& fs, const std::string& directory) {
  WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, ConfinedDirectory::Open(fs, directory));
  return (files.Has(kParamsName) || !files.Has("config.json")) &&
         std::any_of(files.entries().begin(), files.entries().end(),
                     [](const DirectoryEntry& entry) { return IsReferenceFile(entry.name); });
}

absl::StatusOr<ReferenceDirectory> ReadReferenceDirectory(FileSystem& fs, const std::string& directory,
                                                          const LoadOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, ConfinedDirectory::Open(fs, directory));
  ReferenceDirectory reference;
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t count, CountFiles(files));
  PrefixStripper stripper(options.strip_prefixes);
  int64_t values = 0;
  int64_t wrapped = 0;
  for (int64_t i = 0; i < count; ++i) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files.Resolve(ReferenceFileName(i)));
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenForRead(path, OpenOptions()));
    WAYPOINT_ASSIGN_OR_RETURN(TorchContents contents, ReadTorchFile(*file, options.limits));
    WAYPOINT_RETURN_IF_ERROR(CheckSavedAs(contents, ReferenceFileName(i)));
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile described,
                              TensorFile(ReferenceFileName(i), path, file->size_bytes(), options));
    described.has_checksums = HasChecksums(contents);
    reference.described.push_back(std::move(described));
    std::vector<std::string*> names;
    for (TorchTensor& tensor : contents.tensors) {
      names.push_back(&tensor.name);
    }
    WAYPOINT_RETURN_IF_ERROR(Annotate(stripper.Apply(names), QuotedPath(path)));
    WAYPOINT_ASSIGN_OR_RETURN(const bool was_wrapped, UnwrapModel(&contents));
    wrapped += was_wrapped;
    const std::string prefix = ReferencePrefix(i);
    for (TorchTensor& tensor : contents.tensors) {
      tensor.name.insert(0, prefix);
    }
    values += static_cast<int64_t>(contents.values.size()) + contents.values_left_out;
    reference.files.push_back(std::move(contents));
  }
  WAYPOINT_RETURN_IF_ERROR(stripper.Finish());
  if (wrapped > 0) {
    reference.notes.push_back(absl::StrCat("took the tensors of ", wrapped, " of ", count,
                                           " .pth files from a dict inside, where Meta's files have none"));
  }
  if (values > 0) {
    reference.notes.push_back(absl::StrCat("left behind, no tensors: ", values, " values of the .pth files"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(reference.sidecars, ReadSidecars(fs, files, IsReferenceFile, options));
  std::vector<std::string>& notes = reference.sidecars.notes;
  reference.notes.insert(reference.notes.end(), notes.begin(), notes.end());
  return reference;
}

}  // namespace waypoint::models
