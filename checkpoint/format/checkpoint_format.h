#ifndef CHECKPOINT_FORMAT_CHECKPOINT_FORMAT_H_
#define CHECKPOINT_FORMAT_CHECKPOINT_FORMAT_H_

// The plug for a directory layout: native, Hugging Face families, ...
//
// What a format yields and takes always has native tensor names and layout: it converts on the fly.
//
//   CheckpointFormat* format = Registry<CheckpointFormat>::Global().Find("llama");
//   WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint opened, format->Open(fs, "Llama-3-8B", {}));
//   WAYPOINT_ASSIGN_OR_RETURN(auto writer, format->Create(fs, staging_path, opened.metadata, *opened.tensors, {}));
//   WAYPOINT_RETURN_IF_ERROR(writer->Write({}).status());
//   WAYPOINT_RETURN_IF_ERROR(writer->Finish());
//
// Thread-safe.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/convert/config/carried_key.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/coordination/exchange.h"
#include "checkpoint/format/held_tensors.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "checkpoint/tensor/tensor_source.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {

// The one directory below an external one whose files travel along too.
inline constexpr char kTemplateDirectory[] = "additional_chat_templates";

// A file that travels with a checkpoint unread: tokenizer, generation config, chat template.
struct Asset {
  // Plain file name in the external directory, or "additional_chat_templates/" and one.
  std::string name;
  std::string path;  // where it is now
  int64_t size_bytes = 0;
  // Checked when the file is copied; empty where nobody recorded any.
  ChunkDigests digests;
};

// A file of somebody else's format that holds tensors or says what they are.  Assets are none.
struct CheckpointFile {
  std::string name;  // below the checkpoint's directory
  std::string path;  // where it is
  int64_t size_bytes = 0;
  // The file has checksums of its own for all tensors, which whoever reads them compares.
  bool has_checksums = false;
  // With LoadOptions::record_digests, of files that are not read whole by Open: sees all that the source reads.
  std::shared_ptr<ChunkRecorder> recorder = nullptr;
};

// A file of which a list beside it has the MD5 (checklist.chk).
struct ListedFile {
  std::string path;
  std::string md5;  // 32 lower-case hexadecimal digits
  std::string list_path;
};

// Something that only one format can be told.  On a command line it is --name VALUE.
struct FormatOption {
  std::string name;
  // Placeholder for --help: "N".  Empty: a switch, whose value is "true".
  std::string value;
  std::string help;
  bool on_load = false;
  bool on_save = false;
};
// By name.  Formats refuse what they do not declare (format_options.h).
using FormatOptionValues = std::map<std::string, std::string>;

struct LoadOptions {
  Limits limits;
  // Config keys that nothing declares: false refuses them, true carries them through.
  bool carry_unknown = false;
  // What parts that an external format stores apart and ours as one tensor (keys and values) become where their element
  // types differ; kInvalid refuses such.
  DType joined_dtype = DType::kInvalid;
  // Check stored digests while reading.
  bool verify_digests = true;
  // Also check what a checksum covers beside the bytes that are asked for, before they are given out: the rest of a
  // tensor of a .bin file of which only a part is read.  Without it such a part is not checked.  Reads every such file
  // twice.  Digests of our own formats are by chunk, and need it not.
  bool verify_whole_records = false;
  // Also check what only costs time: totals of the index, JSON of assets, rival weight files.
  bool strict = false;
  // Of somebody else's format: beginnings of tensor names that are taken off before anything looks at the names, as
  // wrappers of modules leave them ("module.", "_orig_mod.").  Each in turn is taken off once of every name that begins
  // with it; E_REQUEST where none does, or two names become one.  Formats of our own refuse it.
  std::vector<std::string> strip_prefixes;
  // Digest whatever is read of files of somebody else's format (OpenedCheckpoint::files).  Reads whole chunks.
  bool record_digests = false;
  // Largest single read of tensor data; two of them per thread are held at most.
  int64_t window_bytes = int64_t{8} << 20;
  // Bytes between two wanted pieces that are read along rather than skipped, as far as max_over_read admits.
  int64_t gap_bytes = int64_t{64} << 10;
  // What Restore may read along, as a share of what it needs.  Small: ranks read little else than their own, columns in
  // many small pieces.  Digests of our own formats are by chunk (128 or 256 KiB), and to check a chunk of which a part
  // is needed, as at the ends of a rank's rows and everywhere in its columns, means to read the rest along: done for
  // the chunks where that costs least, up to this share of what is needed of tensors that are read in part (an eighth
  // of it for tensors that are read whole; 256 KiB in any case).  Bytes of the others are given out unchecked, and
  // counted in TransferStats.  Infinity checks every byte and reads in few large pieces, columns at several times their
  // size.
  double max_over_read = 0.08;
  FormatOptionValues format_options;
};

struct SaveOptions {
  // Cast weights (not optimizer state) to this; kInvalid keeps them.
  DType weights_dtype = DType::kInvalid;
  // Hugging Face's default.  A larger tensor gets a shard of its own.  Formats that many ranks write have a file per
  // rank.
  int64_t max_shard_bytes = 5'000'000'000;
  // Leave out config keys that nobody knows where the format has no place for them, with a note, instead of refusing
  // (carried_keys.h).
  bool drop_unknown = false;
  // Write optimizer state where the format can and the source has it.
  bool optimizer_state = true;
  int64_t block_bytes = int64_t{8} << 20;
  // The ranks that save together, each its own boxes of the state; null: this process alone.  Borrowed.
  Coordinator* coordinator = nullptr;
  // All formats but those with a file per rank hand tensors from rank to rank through this; it uses `coordinator`.  Not
  // needed where every rank has the whole state.  Borrowed.
  Exchange* exchange = nullptr;
  // What a rank may hold at a time beside its own state, when tensors go through `exchange`; 4 MiB at least.
  int64_t max_exchange_bytes = int64_t{64} << 20;
  // Plans that stay valid as long as no rank holds anything else.  Null: plan anew.  Borrowed.
  PlanCache* plan_cache = nullptr;
  // For each wait on other ranks, which lasts as long as the slowest of them writes its share, or rank 0 a part of what
  // it writes for all.
  absl::Duration coordination_timeout = absl::Minutes(30);
  FormatOptionValues format_options;
};

struct OpenedCheckpoint {
  CheckpointMetadata metadata;
  // Native names and layout.
  std::unique_ptr<TensorSource> tensors;
  std::vector<Asset> assets;
  // What was left out on purpose, one line each with the reason: "ignored 32 tensors \"...rotary_emb.inv_freq\":
  // recomputed".
  std::vector<std::string> notes;
  // Identity: changes with every byte that belongs to the checkpoint.  Empty where the format keeps none.
  std::string sha256;
  // Of somebody else's format: its files.  Those of ours are in the sealed manifest, for which `sha256` speaks.
  std::vector<CheckpointFile> files;
  // Files, assets among them, that file_checks.h compares with what is listed.  Open does not read them for that.
  std::vector<ListedFile> listed;
};

// A checkpoint that is being written into a directory that nobody reads yet.
class CheckpointWriter {
 public:
  virtual ~CheckpointWriter() = default;
  // What the sink asks for: the state in the format's own names, layout and dtypes, composed with the source's own
  // conversion.
  virtual TensorSource& source() = 0;
  virtual TensorSink& sink() = 0;
  // Moves all tensors that this rank writes, once.  With several ranks, all call it and get errors together where they
  // exchange tensors.
  virtual absl::StatusOr<TransferStats> Write(const TransferOptions& options) {
    return Transfer(source(), sink(), options);
  }
  // target tensor -> expression over the tensors of the innermost source, one per line in order; for --print-plan.
  virtual std::vector<std::string> PlanLines() const = 0;
  // What was read to make the checkpoint, after Write and before Finish; formats that have no place for it forget it.
  // Finish adds the assets.
  virtual void SetConversion(Conversion conversion) {}
  // After Write: completes and syncs every file, writes what seals the checkpoint last.  Of several ranks, one alone
  // may fail in it: agree before the checkpoint is published.
  virtual absl::Status Finish() = 0;
  // What was left out on purpose.
  virtual std::vector<std::string> notes() const { return {}; }
  // The config files that Finish writes, by name, of a format that does not keep CheckpointMetadata whole: what is not
  // in one of them, no reader will find.
  virtual std::map<std::string, std::string> ExternalConfigs() const { return {}; }
  // Load options of the format that say what its files alone leave to guesses: what was written, read with them, is the
  // model that was given, whatever values its tensors have.
  virtual FormatOptionValues ReadBackOptions() const { return {}; }
};

class CheckpointFormat {
 public:
  virtual ~CheckpointFormat() = default;

  virtual std::string name() const = 0;
  // One line for --help.
  virtual std::string description() const = 0;
  // False: ours, true: somebody else's.
  virtual bool external() const = 0;
  virtual bool supports_optimizer_state() const = 0;
  // Create works with a coordinator of several ranks.  Reading by many ranks always works: each opens and reads by
  // itself.
  virtual bool written_by_many_ranks() const { return false; }
  // Files are split by SaveOptions::max_shard_bytes; false where something else says how many there are.
  virtual bool split_by_bytes() const { return false; }
  // What may be in LoadOptions::format_options and SaveOptions::format_options.
  virtual std::vector<FormatOption> options() const { return {}; }

  // Does the directory look like this format?  Cheap: a small file or two.  False where those files are not there or
  // speak of something else; an error where they are there and broken, so that the user learns that instead of
  // "unknown format".
  virtual absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) = 0;

  // Of metadata that a checkpoint of this format was opened with, now or long ago: what its external_configs say beyond
  // the native config, by file name.  Null values say nothing.
  virtual absl::StatusOr<std::map<std::string, std::vector<CarriedKey>>> FindCarriedKeys(
      const CheckpointMetadata& metadata) const {
    return std::map<std::string, std::vector<CarriedKey>>();
  }

  // Where no format fits: what speaks against this one, for the message ("its config.json has model_type \"mistral\"");
  // empty for nothing worth telling.
  virtual std::string WhyNot(FileSystem& fs, const std::string& directory) const { return ""; }
  // The files of the checkpoint in `directory`, relative to it: those that its manifest or index names, which include
  // what travels along only in formats with a manifest; where that cannot be read, those with names that this format
  // gives. All else is somebody's own, and not replaced together with the checkpoint.
  virtual absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem& fs, const std::string& directory) const = 0;

  // Everything but tensor data is read and checked: missing, extra and misshapen tensors are errors here.
  virtual absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, const std::string& directory,
                                                const LoadOptions& options) = 0;

  // Plans a checkpoint of `state` (native names; borrowed, outlives the writer) in an existing empty `directory`.
  // Nothing is written before the sink's first Write when `directory` is empty ("" = plan only, for --dry-run).
  // `assets` are copied along, by rank 0.  With several ranks, all call it, and the writer's Finish.
  virtual absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                   const CheckpointMetadata& metadata,
                                                                   TensorSource& state,
                                                                   const std::vector<Asset>& assets,
                                                                   const SaveOptions& options) = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_CHECKPOINT_FORMAT_H_
