#include "checkpoint/base/error.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/visible_text.h"

namespace waypoint {
namespace {

constexpr char kPayloadUrl[] = "waypoint/error-kind";
constexpr char kCauseUrl[] = "waypoint/error-cause";

struct KindRow {
  ErrorKind kind;
  absl::StatusCode code;
  const char* name;
};

constexpr KindRow kKinds[] = {
    {ErrorKind::kUnknown, absl::StatusCode::kInternal, "E_UNKNOWN"},
    {ErrorKind::kRequest, absl::StatusCode::kInvalidArgument, "E_REQUEST"},
    {ErrorKind::kIo, absl::StatusCode::kUnavailable, "E_IO"},
    {ErrorKind::kNoSpace, absl::StatusCode::kResourceExhausted, "E_NO_SPACE"},
    {ErrorKind::kNoMemory, absl::StatusCode::kResourceExhausted, "E_NO_MEMORY"},
    {ErrorKind::kTruncated, absl::StatusCode::kDataLoss, "E_TRUNCATED"},
    {ErrorKind::kHeader, absl::StatusCode::kDataLoss, "E_HEADER"},
    {ErrorKind::kLimit, absl::StatusCode::kResourceExhausted, "E_LIMIT"},
    {ErrorKind::kUtf8, absl::StatusCode::kDataLoss, "E_UTF8"},
    {ErrorKind::kJson, absl::StatusCode::kDataLoss, "E_JSON"},
    {ErrorKind::kDupKey, absl::StatusCode::kDataLoss, "E_DUP_KEY"},
    {ErrorKind::kSchema, absl::StatusCode::kDataLoss, "E_SCHEMA"},
    {ErrorKind::kDType, absl::StatusCode::kDataLoss, "E_DTYPE"},
    {ErrorKind::kOffsets, absl::StatusCode::kDataLoss, "E_OFFSETS"},
    {ErrorKind::kSizeMismatch, absl::StatusCode::kDataLoss, "E_SIZE_MISMATCH"},
    {ErrorKind::kOverflow, absl::StatusCode::kDataLoss, "E_OVERFLOW"},
    {ErrorKind::kTrailing, absl::StatusCode::kDataLoss, "E_TRAILING"},
    {ErrorKind::kZip, absl::StatusCode::kDataLoss, "E_ZIP"},
    {ErrorKind::kChecksum, absl::StatusCode::kDataLoss, "E_CHECKSUM"},
    {ErrorKind::kPickle, absl::StatusCode::kDataLoss, "E_PICKLE"},
    {ErrorKind::kCode, absl::StatusCode::kDataLoss, "E_CODE"},
    {ErrorKind::kStorage, absl::StatusCode::kDataLoss, "E_STORAGE"},
    {ErrorKind::kPath, absl::StatusCode::kDataLoss, "E_PATH"},
    {ErrorKind::kConfig, absl::StatusCode::kFailedPrecondition, "E_CONFIG"},
    {ErrorKind::kMissing, absl::StatusCode::kFailedPrecondition, "E_MISSING"},
    {ErrorKind::kExtra, absl::StatusCode::kFailedPrecondition, "E_EXTRA"},
    {ErrorKind::kShape, absl::StatusCode::kFailedPrecondition, "E_SHAPE"},
    {ErrorKind::kTokenizer, absl::StatusCode::kDataLoss, "E_TOKENIZER"},
    {ErrorKind::kUnsupported, absl::StatusCode::kUnimplemented, "E_UNSUPPORTED"},
    {ErrorKind::kAmbiguous, absl::StatusCode::kFailedPrecondition, "E_AMBIGUOUS"},
    {ErrorKind::kExists, absl::StatusCode::kAlreadyExists, "E_EXISTS"},
    {ErrorKind::kLocked, absl::StatusCode::kFailedPrecondition, "E_LOCKED"},
    {ErrorKind::kVerify, absl::StatusCode::kDataLoss, "E_VERIFY"},
    {ErrorKind::kRank, absl::StatusCode::kAborted, "E_RANK"},
    {ErrorKind::kDiverged, absl::StatusCode::kFailedPrecondition, "E_DIVERGED"},
};

const KindRow& RowOf(ErrorKind kind) {
  for (const KindRow& row : kKinds) {
    if (row.kind == kind) {
      return row;
    }
  }
  return kKinds[0];
}

ErrorKind KindIn(const absl::Status& status, absl::string_view url) {
  const absl::optional<absl::Cord> payload = status.GetPayload(url);
  if (payload.has_value()) {
    for (const KindRow& row : kKinds) {
      if (*payload == row.name) {
        return row.kind;
      }
    }
  }
  return ErrorKind::kUnknown;
}

absl::Status WithKind(ErrorKind kind, absl::string_view visible_message) {
  const KindRow& row = RowOf(kind);
  absl::Status status(row.code, visible_message);
  status.SetPayload(kPayloadUrl, absl::Cord(row.name));
  return status;
}

}  // namespace

absl::string_view ErrorKindName(ErrorKind kind) { return RowOf(kind).name; }

absl::Status MakeError(ErrorKind kind, absl::string_view message) { return WithKind(kind, VisibleText(message)); }

absl::Status MakeListError(ErrorKind kind, absl::string_view head, absl::Span<const std::string> lines,
                           absl::string_view remedy) {
  std::string message = VisibleText(head);
  for (const std::string& line : lines) {
    absl::StrAppend(&message, "\n  ", VisibleText(line));
  }
  if (!remedy.empty()) {
    absl::StrAppend(&message, "\n  ", VisibleText(remedy));
  }
  return WithKind(kind, message);
}

absl::Status MakeQuotingError(ErrorKind kind, absl::string_view message) {
  return WithKind(kind, VisibleText(message, NewLines::kIndented));
}

ErrorKind GetErrorKind(const absl::Status& status) { return KindIn(status, kPayloadUrl); }

std::string ErrorText(const absl::Status& status) {
  const ErrorKind kind = GetErrorKind(status);
  return kind == ErrorKind::kUnknown ? status.ToString(absl::StatusToStringMode::kWithNoExtraData)
                                     : absl::StrCat(ErrorKindName(kind), ": ", status.message());
}

absl::Status RankError(absl::string_view context, absl::string_view error_text) {
  absl::Status status = MakeQuotingError(ErrorKind::kRank, absl::StrCat(VisibleText(context), ": ", error_text));
  status.SetPayload(kCauseUrl, absl::Cord(error_text.substr(0, error_text.find(':'))));
  return status;
}

ErrorKind GetCause(const absl::Status& status) {
  const ErrorKind cause = KindIn(status, kCauseUrl);
  return cause == ErrorKind::kUnknown ? GetErrorKind(status) : cause;
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) {
    return status;
  }
  absl::Status annotated(status.code(), absl::StrCat(VisibleText(context), ": ", status.message()));
  status.ForEachPayload(
      [&annotated](absl::string_view url, const absl::Cord& payload) { annotated.SetPayload(url, payload); });
  return annotated;
}

absl::Status NoMemoryError(size_t bytes, absl::string_view what, absl::string_view remedy) {
  return MakeError(ErrorKind::kNoMemory, absl::StrCat("no memory for ", what, " (", bytes, " bytes); ", remedy));
}

absl::Status ErrnoError(int error_number, absl::string_view what) {
  ErrorKind kind = ErrorKind::kIo;
  absl::string_view remedy;
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      kind = ErrorKind::kNoSpace;
      break;
    case ENOMEM:
      kind = ErrorKind::kNoMemory;
      break;
    case EFBIG:
      // The disk may have room enough.
      remedy = "; the file would be larger than this process may write (see \"ulimit -f\") or the file system holds";
      break;
    default:
      break;
  }
  char buffer[256];
  return MakeError(kind, absl::StrCat(what, " failed: ", strerror_r(error_number, buffer, sizeof(buffer)), remedy));
}

}  // namespace waypoint
