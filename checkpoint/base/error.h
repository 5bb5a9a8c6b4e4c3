#ifndef CHECKPOINT_BASE_ERROR_H_
#define CHECKPOINT_BASE_ERROR_H_

// One stable kind per kind of refusal.
//
// Every error that the library raises about its input or its output carries an ErrorKind as a payload of the
// absl::Status, so that scripts and tests can tell refusals apart without reading messages.  The kind's name
// ("E_TRUNCATED") is printed by the tools and never changes.
//
//   return MakeError(ErrorKind::kTruncated, absl::StrCat("\"", path, "\": header ends at ", end, ", file has ", size));
//
// Thread-safe.

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace waypoint {

// The absl::StatusCode of each kind is given behind it.  Values are not stored anywhere; names are stable.
enum class ErrorKind {
  kUnknown,       // no kind was attached (for example a bug: Internal)
  kRequest,       // E_REQUEST: the request is wrong whatever the state (InvalidArgument)
  kIo,            // E_IO: missing, unreadable, not a regular file, failed write (NotFound or Unavailable)
  kNoSpace,       // E_NO_SPACE: disk or quota full (ResourceExhausted)
  kNoMemory,      // E_NO_MEMORY: an allocation failed (ResourceExhausted)
  kTruncated,     // E_TRUNCATED: file ends before what it declares (DataLoss)
  kHeader,        // E_HEADER: not this format at all (DataLoss)
  kLimit,         // E_LIMIT: over a documented limit, see limits.h (ResourceExhausted)
  kUtf8,          // E_UTF8: text is not UTF-8 (DataLoss)
  kJson,          // E_JSON: not JSON (DataLoss)
  kDupKey,        // E_DUP_KEY: same name twice (DataLoss)
  kSchema,        // E_SCHEMA: valid syntax, wrong field or type (DataLoss)
  kDType,         // E_DTYPE: unknown or unusable element type (DataLoss)
  kOffsets,       // E_OFFSETS: byte ranges overlap, leave holes, run backwards or leave the file (DataLoss)
  kSizeMismatch,  // E_SIZE_MISMATCH: declared size is not the bytes present (DataLoss)
  kOverflow,      // E_OVERFLOW: integer arithmetic would overflow (DataLoss)
  kTrailing,      // E_TRAILING: bytes after the end (DataLoss)
  kZip,           // E_ZIP: archive inconsistent or ambiguous (DataLoss)
  kChecksum,      // E_CHECKSUM: digest does not match the bytes (DataLoss)
  kPickle,        // E_PICKLE: pickle stream malformed or outside the subset (DataLoss)
  kCode,          // E_CODE: stream names a function or type outside the table (DataLoss)
  kStorage,       // E_STORAGE: tensor does not fit its storage (DataLoss)
  kPath,          // E_PATH: path leaves the directory, or is not a plain name (DataLoss)
  kConfig,        // E_CONFIG: model configuration impossible or not convertible (FailedPrecondition)
  kMissing,       // E_MISSING: a required tensor or file is absent (FailedPrecondition)
  kExtra,         // E_EXTRA: a tensor nobody expects (FailedPrecondition)
  kShape,         // E_SHAPE: shape disagrees with the configuration (FailedPrecondition)
  kTokenizer,     // E_TOKENIZER: tokenizer file malformed (DataLoss)
  kUnsupported,   // E_UNSUPPORTED: recognised, deliberately not supported (Unimplemented)
  kAmbiguous,     // E_AMBIGUOUS: two answers are possible (FailedPrecondition)
  kExists,        // E_EXISTS: the output is there already (AlreadyExists)
  kLocked,        // E_LOCKED: somebody else holds the directory (FailedPrecondition)
  kVerify,        // E_VERIFY: what was written does not verify (DataLoss)
  kRank,          // E_RANK: another rank failed or stalled (Aborted)
  kDiverged,      // E_DIVERGED: a training step computed NaN or infinity (FailedPrecondition)
};

// "E_TRUNCATED"; "E_UNKNOWN" for kUnknown.
absl::string_view ErrorKindName(ErrorKind kind);

// A Status with the code that belongs to the kind and the kind as payload.  The message becomes one line, fit for a
// terminal whatever names from files are in it (visible_text.h); list_error.h has messages of several lines.
absl::Status MakeError(ErrorKind kind, absl::string_view message);

// The kind attached to a status; kUnknown for OK and for statuses without one.
ErrorKind GetErrorKind(const absl::Status& status);

// For another process: "E_DTYPE: message"; without a kind, the code's name.
std::string ErrorText(const absl::Status& status);
// E_RANK, with `context` before what another process said by ErrorText.
absl::Status RankError(absl::string_view context, absl::string_view error_text);
// The kind of what made a RankError; of any other status its own.
ErrorKind GetCause(const absl::Status& status);

// The same status with "context: " before its message, kind kept.  OK stays OK.  The context becomes fit for a
// terminal, as with MakeError.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

// An allocation of so many bytes for `what` failed.  `remedy` says what to lower or to free: "lower --max-memory".
absl::Status NoMemoryError(size_t bytes, absl::string_view what, absl::string_view remedy);

// errno of a failed system call as a status: ENOSPC and EDQUOT are kNoSpace, ENOMEM is kNoMemory, all else kIo.
// `what` says what was tried on which path: "fsync of \"a/b\"".
absl::Status ErrnoError(int error_number, absl::string_view what);

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_ERROR_H_
