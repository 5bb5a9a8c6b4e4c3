#include "tools/exit_codes.h"

#include "checkpoint/base/error.h"

namespace waypoint {

ExitCode ExitCodeFor(const absl::Status& status) {
  if (status.ok()) {
    return kExitOk;
  }
  if (absl::IsCancelled(status)) {
    return kExitInterrupted;
  }
  switch (GetCause(status)) {
    case ErrorKind::kUnknown:
      return absl::IsInvalidArgument(status) ? kExitRequest : kExitInternal;
    case ErrorKind::kRank:
    case ErrorKind::kDiverged:
      return kExitInternal;
    case ErrorKind::kRequest:
    case ErrorKind::kExists:
    case ErrorKind::kLocked:
      return kExitRequest;
    case ErrorKind::kVerify:
      return kExitVerify;
    case ErrorKind::kIo:
    case ErrorKind::kNoSpace:
    case ErrorKind::kNoMemory:
      return kExitIo;
    case ErrorKind::kTruncated:
    case ErrorKind::kHeader:
    case ErrorKind::kLimit:
    case ErrorKind::kUtf8:
    case ErrorKind::kJson:
    case ErrorKind::kDupKey:
    case ErrorKind::kSchema:
    case ErrorKind::kDType:
    case ErrorKind::kOffsets:
    case ErrorKind::kSizeMismatch:
    case ErrorKind::kOverflow:
    case ErrorKind::kTrailing:
    case ErrorKind::kZip:
    case ErrorKind::kChecksum:
    case ErrorKind::kPickle:
    case ErrorKind::kCode:
    case ErrorKind::kStorage:
    case ErrorKind::kPath:
    case ErrorKind::kConfig:
    case ErrorKind::kMissing:
    case ErrorKind::kExtra:
    case ErrorKind::kShape:
    case ErrorKind::kTokenizer:
    case ErrorKind::kUnsupported:
    case ErrorKind::kAmbiguous:
      return kExitInput;
  }
  return kExitInternal;
}

absl::string_view ExitCodesHelp() {
  return "Exit codes: 0 done, 1 internal error, 2 wrong request, 3 bad input, 4 failed verification or a difference,\n"
         "5 I/O error or no memory, 130 interrupted.";
}

}  // namespace waypoint
