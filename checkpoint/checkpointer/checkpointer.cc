#include "checkpoint/checkpointer/checkpointer.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/replaced_directory.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/format/carried_keys.h"
#include "checkpoint/format/directory_kind.h"
#include "checkpoint/storage/staged_directory.h"

namespace waypoint {
namespace {

constexpr char kRemedy[] = "lower the bytes in flight (--max-memory) or the number of threads";

std::string KnownFormats() {
  return absl::StrCat("formats that are linked: ", absl::StrJoin(Registry<CheckpointFormat>::Global().Names(), ", "));
}

bool HoldsCheckpoint(FileSystem& fs, const std::string& directory) {
  Registry<CheckpointFormat>& registry = Registry<CheckpointFormat>::Global();
  for (const std::string& name : registry.Names()) {
    const auto fits = registry.Find(name)->Probe(fs, directory);
    if (fits.ok() && *fits) {
      return true;
    }
  }
  return false;
}

absl::Status NoDirectory(FileSystem& fs, const std::string& path) {
  const std::string around = DirName(path);
  return MakeError(ErrorKind::kIo, absl::StrCat(QuotedPath(path), " ",
                                                HoldsCheckpoint(fs, around)
                                                    ? absl::StrCat("is a file of a checkpoint, which is the directory "
                                                                   "that it lies in, no directory: give ",
                                                                   QuotedPath(around))
                                                    : FileInPlaceOfDirectory(fs, path)));
}

// What to give in place of a directory that is no checkpoint and has some in it; empty when there are none.
std::string CheckpointsBelow(FileSystem& fs, const std::string& directory) {
  constexpr size_t kLookedAt = 100;
  constexpr size_t kSpelledOut = 3;
  const absl::StatusOr<std::vector<DirectoryEntry>> entries = fs.List(directory);
  if (!entries.ok()) {
    return "";
  }
  std::vector<std::string> found;
  size_t looked_at = 0;
  for (const DirectoryEntry& entry : *entries) {
    if (entry.type != FileType::kDirectory) {
      continue;
    }
    if (found.size() == kSpelledOut || looked_at++ == kLookedAt) {
      break;
    }
    const std::string path = JoinPath(directory, entry.name);
    if (HoldsCheckpoint(fs, path)) {
      found.push_back(QuotedPath(path));
    }
  }
  return found.empty() ? "" : absl::StrCat("is no checkpoint, but in it are some: give ", absl::StrJoin(found, " or "));
}

absl::StatusOr<CheckpointFormat*> FormatFitting(FileSystem& fs, const std::string& directory) {
  WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(directory));
  if (info.type != FileType::kDirectory) {
    return NoDirectory(fs, directory);
  }
  Registry<CheckpointFormat>& registry = Registry<CheckpointFormat>::Global();
  std::vector<CheckpointFormat*> fitting;
  absl::Status broken;
  for (const std::string& name : registry.Names()) {
    CheckpointFormat* format = registry.Find(name);
    const auto fits = format->Probe(fs, directory);
    if (!fits.ok()) {
      broken.Update(fits.status());
    } else if (*fits) {
      fitting.push_back(format);
    }
  }
  if (fitting.size() == 1) {
    return fitting[0];
  }
  if (fitting.empty()) {
    WAYPOINT_RETURN_IF_ERROR(broken);
    const std::string below = CheckpointsBelow(fs, directory);
    const std::string kind = below.empty() ? DirectoryKind(fs, directory) : below;
    std::vector<std::string> reasons;
    for (const std::string& name : registry.Names()) {
      const std::string reason = registry.Find(name)->WhyNot(fs, directory);
      if (!reason.empty()) {
        reasons.push_back(absl::StrCat(reason, "; "));
      }
    }
    if (!kind.empty()) {
      return MakeError(ErrorKind::kUnsupported, absl::StrCat("\"", directory, "\" ", kind, "; ", KnownFormats()));
    }
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("\"", directory, "\" looks like no format that this program knows: ",
                                  absl::StrJoin(reasons, ""), KnownFormats()));
  }
  std::vector<std::string> names;
  for (const CheckpointFormat* format : fitting) {
    names.push_back(format->name());
  }
  return MakeError(ErrorKind::kAmbiguous, absl::StrCat("\"", directory, "\" could be ", absl::StrJoin(names, " or "),
                                                       "; say which with --from"));
}

}  // namespace

absl::StatusOr<CheckpointFormat*> DetectFormat(FileSystem& fs, const std::string& directory) {
  return CatchAllocation("a look at a directory", kRemedy, [&] { return FormatFitting(fs, directory); });
}

absl::StatusOr<CheckpointFormat*> FindFormat(FileSystem& fs, const std::string& directory, const std::string& format) {
  if (format.empty() || format == "auto") {
    return DetectFormat(fs, directory);
  }
  CheckpointFormat* found = Registry<CheckpointFormat>::Global().Find(format);
  if (found == nullptr) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("there is no format \"", format, "\"; ", KnownFormats()));
  }
  return found;
}

namespace {

absl::StatusOr<TransferStats> RestoreTensors(OpenedCheckpoint& checkpoint, TensorSink& sink,
                                             const RestoreOptions& options) {
  const Manifest& stored = checkpoint.tensors->manifest();
  std::vector<ConvertedTensor> tensors;
  for (const TensorMeta& wanted : sink.manifest().tensors()) {
    const int64_t index = stored.Find(wanted.name);
    if (index < 0) {
      continue;  // Transfer reports all that are missing together
    }
    Expr expression = Ref(stored[index], index);
    if (options.cast && stored[index].dtype != wanted.dtype) {
      WAYPOINT_ASSIGN_OR_RETURN(expression, Cast(expression, wanted.dtype));
    }
    tensors.push_back({wanted.name, std::move(expression)});
  }
  WAYPOINT_ASSIGN_OR_RETURN(auto source, ConvertedSource::Create(checkpoint.tensors.get(), std::move(tensors)));
  return Transfer(*source, sink, options.transfer);
}

}  // namespace

absl::StatusOr<TransferStats> Restore(OpenedCheckpoint& checkpoint, TensorSink& sink, const RestoreOptions& options) {
  return CatchAllocation("a restore", kRemedy, [&] { return RestoreTensors(checkpoint, sink, options); });
}

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateWriter(CheckpointFormat& format, FileSystem& fs,
                                                               const std::string& directory,
                                                               const CheckpointMetadata& metadata, TensorSource& state,
                                                               const std::vector<Asset>& assets,
                                                               const SaveOptions& options,
                                                               std::vector<std::string>* notes) {
  WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<CheckpointWriter> writer,
                            format.Create(fs, directory, metadata, state, assets, options));
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> keys,
                            AccountForCarriedKeys(format, metadata, *writer, options.drop_unknown));
  if (notes != nullptr) {
    const std::vector<std::string> own = writer->notes();
    notes->insert(notes->end(), own.begin(), own.end());
    notes->insert(notes->end(), keys.begin(), keys.end());
  }
  return writer;
}

namespace {

absl::StatusOr<TransferStats> WriteTogether(FileSystem& fs, const std::string& target, const WriteOptions& options,
                                            const CheckpointMetadata& metadata, TensorSource& state,
                                            const std::vector<Asset>& assets) {
  CheckpointFormat* format = Registry<CheckpointFormat>::Global().Find(options.format);
  if (format == nullptr) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("there is no format \"", options.format, "\"; ", KnownFormats()));
  }
  LocalCoordinator alone;
  Coordinator& ranks = options.save.coordinator == nullptr ? alone : *options.save.coordinator;
  const absl::Duration timeout = options.save.coordination_timeout;
  const bool first = ranks.rank() == 0;
  if (ranks.world_size() > 1 && !format->written_by_many_ranks()) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("format \"", options.format, "\" is written by one rank, this job has ",
                                  ranks.world_size(), "; save as \"distributed\" and convert with one process"));
  }
  if (ranks.world_size() == 1) {
    // Planned before anything is created, so that a wrong request leaves no trace.
    WAYPOINT_RETURN_IF_ERROR(CreateWriter(*format, fs, "", metadata, state, assets, options.save, nullptr).status());
  }
  // Rank 0 makes the directory and publishes it; the others write into it.  It goes, on failure, only after all have
  // agreed that it failed, so that nobody's own error is that his files vanished.
  std::unique_ptr<StagedDirectory> staged;
  ReplacedDirectory before;
  const auto stage = [&]() -> absl::StatusOr<std::string> {
    if (!first) {
      return std::string();
    }
    StageOptions stage_options;
    stage_options.overwrite = options.overwrite;
    if (options.overwrite) {
      WAYPOINT_ASSIGN_OR_RETURN(before, ReplacedDirectory::Look(fs, target, assets));
      stage_options.may_delete = [&](const std::string& directory) { return before.MayDelete(fs, directory); };
    }
    WAYPOINT_ASSIGN_OR_RETURN(staged, StagedDirectory::Create(fs, target, stage_options));
    return staged->path();
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                            ranks.AllGatherIfOk(absl::StrCat("staging directory of step ", metadata.training().step()),
                                                CatchAllocation("a staging directory", kRemedy, stage), timeout));
  const std::string& path = paths[0];

  // What a rank does alone ends in an agreement, without memory too: the others wait for it there.
  auto writer = CatchAllocation("a plan of the files", kRemedy, [&] {
    return CreateWriter(*format, fs, path, metadata, state, assets, options.save, options.notes);
  });
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("plan", writer.status(), timeout));
  const auto stats = CatchAllocation("the tensors", kRemedy, [&] { return (*writer)->Write(options.transfer); });
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("tensors", stats.status(), timeout));
  if (options.converted) {
    auto converted = CatchAllocation("what was converted", kRemedy, options.converted);
    WAYPOINT_RETURN_IF_ERROR(ranks.Agree("what was converted", converted.status(), timeout));
    (*writer)->SetConversion(*std::move(converted));
  }
  absl::Status sealed = CatchAllocation("the manifest", kRemedy, [&] { return (*writer)->Finish(); });
  if (options.before_publish) {
    // Every rank looks at what rank 0 has sealed.
    WAYPOINT_RETURN_IF_ERROR(ranks.Agree("manifest", sealed, timeout));
    sealed = CatchAllocation("a look at what is sealed", kRemedy, [&] { return options.before_publish(path); });
  }
  if (first && sealed.ok()) {
    sealed = CatchAllocation("a sync", kRemedy, [&] { return staged->Sync(); });
  }
  // All that takes long or may fail comes before: a rank that gives up while rank 0 still publishes does so within one
  // rename.
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("seal", sealed, timeout));
  const absl::Status published =
      CatchAllocation("a publication", kRemedy, [&] { return first ? staged->Publish() : absl::OkStatus(); });
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("publication", published, timeout));
  if (first && !staged->moved_aside().empty() && options.notes != nullptr) {
    options.notes->push_back(absl::StrCat("what was in ", QuotedPath(target),
                                          " had changed since it was looked at: it is kept as ",
                                          QuotedPath(staged->moved_aside())));
  }
  return *stats;
}

}  // namespace

absl::StatusOr<TransferStats> WriteCheckpoint(FileSystem& fs, const std::string& target, const WriteOptions& options,
                                              const CheckpointMetadata& metadata, TensorSource& state,
                                              const std::vector<Asset>& assets) {
  return CatchAllocation("a checkpoint", kRemedy,
                         [&] { return WriteTogether(fs, target, options, metadata, state, assets); });
}

}  // namespace waypoint
