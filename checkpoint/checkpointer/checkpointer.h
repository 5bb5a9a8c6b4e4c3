#ifndef CHECKPOINT_CHECKPOINTER_CHECKPOINTER_H_
#define CHECKPOINT_CHECKPOINTER_CHECKPOINTER_H_

// What a trainer calls to save, export and restore.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto source, NewLiveSource(state));
//   CheckpointRoot root(PosixFileSystem(), "run/checkpoint");
//   WAYPOINT_RETURN_IF_ERROR(root.Save({.format = "native"}, metadata, *source).status());
//   WAYPOINT_ASSIGN_OR_RETURN(auto latest, root.Latest());            // newest sealed one
//   WAYPOINT_RETURN_IF_ERROR(Restore(fs, latest->path, {}, *sink).status());
//
// Many ranks save together when SaveOptions::coordinator says so: all call Save or WriteCheckpoint with the same
// arguments and their own state, and all get OK or an error that names who failed.  Files must be on a file system that
// all of them see.  Any rank opens and restores by itself.
//
// One thread, one writer (or job) per root: the root is locked while a save runs, or for as long as a job holds it
// (Hold).

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/checkpointer/retention.h"
#include "checkpoint/checkpointer/trash_remover.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {

struct CheckpointRef {
  int64_t step = 0;
  int64_t attempt = 1;
  std::string path;
};

// What stands under the name of a checkpoint and is none.
struct PassedOver {
  CheckpointRef checkpoint;
  // With the path: a whole sentence.
  std::string why;
};

// What the name of a checkpoint's directory says; empty for a name that no CheckpointRoot gives.
absl::optional<CheckpointRef> CheckpointRefOf(const std::string& path);

struct CheckpointerOptions {
  std::string format = "native";
  SaveOptions save;
  TransferOptions transfer;
  Retention retention;
};

struct SaveReport {
  CheckpointRef checkpoint;
  TransferStats stats;
  std::vector<std::string> deleted;  // paths, after the new one was published; only rank 0 knows them
  // What went wrong beside the save itself: old checkpoints that could not be judged or deleted.  The new one is
  // published all the same.  Only rank 0 knows them.
  std::vector<std::string> warnings;
};

// A directory of checkpoints: <root>/step-<8 digits>[.a<attempt>].  Order is (step, attempt), never a clock.
class CheckpointRoot {
 public:
  CheckpointRoot(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)), remover_(fs) {}

  // Takes the lock <root>/.lock until Release, the end of this object or the death of the process, so that another job
  // that saves here is refused between saves too.  Without it, each Save takes and drops the lock.
  // Save then takes old checkpoints out of sight and leaves their removal to a thread.
  // Of ranks that save together, rank 0 alone calls it.
  // Errors: E_LOCKED, at once, naming the holder's pid, host and since when it has it.
  absl::Status Hold();
  // Waits for removals; what they could not remove since the last Save, one line each.
  std::vector<std::string> Release();

  // metadata.training().step() names the directory.  A step that is there already gets the next attempt.
  absl::StatusOr<SaveReport> Save(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                                  TensorSource& state, const std::vector<Asset>& assets = {});
  // Instead of Save, on a rank of several that has no state to save: the others, which call Save, get E_RANK with
  // `why`, and nothing is written.  Returns `why`, which is not OK.
  static absl::Status GiveUp(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                             const absl::Status& why);

  // Complete (sealed, probed) ones in ascending order; other names in the directory are ignored.  A link to a directory
  // is followed, as the root itself may be one.  What has the name of a checkpoint and is none goes into `passed_over`,
  // if that is not null: checkpoints whose seal is missing or was cut short, which no crash of ours leaves but a broken
  // disk or copy may, files, links to nothing.  A damaged one counts: opening it tells.
  // E_IO when one cannot be probed, or the root is a link to nothing: nobody knows then which is the newest.
  absl::StatusOr<std::vector<CheckpointRef>> List(std::vector<PassedOver>* passed_over = nullptr);
  // The newest; empty when there is none.
  absl::StatusOr<absl::optional<CheckpointRef>> Latest(std::vector<PassedOver>* passed_over = nullptr);

  // Takes a checkpoint that is damaged out of the way, durably: it is renamed to "<name>.damaged", or, where that is
  // there, "<name>.damaged-2" and so on, and counts no more.  Returns its new path.  The root should be held.
  absl::StatusOr<std::string> SetAside(const std::string& path);

 private:
  absl::StatusOr<std::unique_ptr<FileLock>> Lock();
  absl::StatusOr<SaveReport> SaveTogether(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                                          TensorSource& state, const std::vector<Asset>& assets);
  absl::StatusOr<std::string> PrepareSave(int64_t step, SaveReport& report);
  void RemoveTrash(SaveReport& report);
  void ApplyRetention(const Retention& retention, SaveReport& report);

  FileSystem& fs_;
  std::string path_;
  PlanCache plan_cache_;
  std::unique_ptr<FileLock> held_;
  TrashRemover remover_;
};

// Detects the format of a directory.  E_UNSUPPORTED when none fits, E_AMBIGUOUS when several do; both list the choices.
absl::StatusOr<CheckpointFormat*> DetectFormat(FileSystem& fs, const std::string& directory);

// `format` "" or "auto" detects; otherwise E_REQUEST listing the linked formats when there is none of that name.
absl::StatusOr<CheckpointFormat*> FindFormat(FileSystem& fs, const std::string& directory, const std::string& format);

// Where the checkpoint is that somebody means.
struct FoundCheckpoint {
  CheckpointFormat* format = nullptr;
  std::string path;
  // Says which one was taken, where several could be meant.
  std::vector<std::string> notes;
};

// FindFormat of what `path` names: a checkpoint, or a directory around some, of which the newest sealed one is taken: a
// training run's output, its checkpoint folder, a folder of exports, or a model's place in the cache of the Hugging
// Face Hub with one snapshot.
//
// Errors: those of FindFormat; E_IO where nothing is, where a link leads nowhere and for a file, saying what it is;
// E_AMBIGUOUS for exports of several formats.
absl::StatusOr<FoundCheckpoint> FindCheckpoint(FileSystem& fs, const std::string& path, const std::string& format);

struct RestoreOptions {
  std::string format = "auto";
  LoadOptions load;
  TransferOptions transfer;
  // Cast stored weights to the sink's dtype; false makes another dtype an E_DTYPE.
  bool cast = true;
};

// Fills the sink (native names) from a checkpoint of any format: E_MISSING names what the sink wants and the checkpoint
// lacks.  Tensors that the sink does not want are left unread.
absl::StatusOr<TransferStats> Restore(OpenedCheckpoint& checkpoint, TensorSink& sink, const RestoreOptions& options);

// The format's writer of a checkpoint (CheckpointFormat::Create), with every config key of `metadata` accounted for
// (format/carried_keys.h).  Whoever writes a checkpoint gets the writer here.  What is left out on purpose is added to
// `notes`, if that is not null.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateWriter(
    CheckpointFormat& format, FileSystem& fs, const std::string& directory, const CheckpointMetadata& metadata,
    TensorSource& state, const std::vector<Asset>& assets, const SaveOptions& options, std::vector<std::string>* notes);

// One checkpoint, published atomically at `target`.
struct WriteOptions {
  std::string format = "native";
  // Replace what is at `target`, if it is empty or a checkpoint and nothing else (replaced_directory.h).
  bool overwrite = false;
  SaveOptions save;
  TransferOptions transfer;
  // Called on every rank (or on none) when all tensors are written: what was read for them, which formats that have a
  // place for it record.
  std::function<absl::StatusOr<Conversion>()> converted;
  // Called on every rank (or on none) with the staging directory when everything is written and synced; an error keeps
  // it from being published.
  std::function<absl::Status(const std::string& staged_path)> before_publish;
  // Gets a line for all that was left out on purpose, if it is not null.  Borrowed.
  std::vector<std::string>* notes = nullptr;
};
absl::StatusOr<TransferStats> WriteCheckpoint(FileSystem& fs, const std::string& target, const WriteOptions& options,
                                              const CheckpointMetadata& metadata, TensorSource& state,
                                              const std::vector<Asset>& assets);

}  // namespace waypoint

#endif  // CHECKPOINT_CHECKPOINTER_CHECKPOINTER_H_
