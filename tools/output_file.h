#ifndef TOOLS_OUTPUT_FILE_H_
#define TOOLS_OUTPUT_FILE_H_

// A file that a tool writes because its user named it: `--output FILE`.
//
//   WAYPOINT_ASSIGN_OR_RETURN(OutputFile output, OutputFile::Check("--output", request.output, request.overwrite));
//   ... the work ...
//   WAYPOINT_RETURN_IF_ERROR(output.Write({header, data}));
//
// What stands there decides:
//   nothing           the file appears whole, or not at all: it is written beside, synced, and renamed
//   a regular file    the same with overwrite, which keeps its permissions; refused without
//   a device, a FIFO  written into, never replaced; also where a link leads to it, as /dev/stdout and <(...) do
//   standard output   or standard error, by whatever name: written to where they write, behind what is there
//   a link            to anything else is refused: a rename would replace the link, not what it leads to
//   a directory       refused
//
// Of the kernel's file system.  Does not link libtorch.  One thread.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace waypoint {

class OutputFile {
 public:
  // Before the work begins.  `flag` names the option in errors.  Nothing is made or opened.
  // Errors: E_EXISTS for a regular file without `overwrite`; E_REQUEST for a directory, a link, a socket; E_IO where
  // the directory is missing or cannot be written.
  static absl::StatusOr<OutputFile> Check(absl::string_view flag, const std::string& path, bool overwrite);

  const std::string& path() const { return path_; }
  // A regular file is there and will be replaced.
  bool replaces() const { return way_ == Way::kReplace; }
  // A report on standard output would stand in the middle of the data.
  bool is_standard_output() const { return descriptor_ == 1; }

  // All pieces, one behind the other.  What stands there is looked at once more: what Check would refuse by now is not
  // touched.  A FIFO is waited for until somebody reads it.
  // Errors: those of Check, E_IO, E_NO_SPACE; Cancelled when a signal came while a FIFO was waited for.
  absl::Status Write(absl::Span<const absl::string_view> pieces) const;

 private:
  enum class Way { kCreate, kReplace, kInto };

  OutputFile(absl::string_view flag, std::string path, bool overwrite)
      : flag_(flag), path_(std::move(path)), overwrite_(overwrite) {}

  // Sets way_ and descriptor_.
  absl::Status Look();
  absl::Status WriteInto(absl::Span<const absl::string_view> pieces) const;
  absl::Status WriteBeside(absl::Span<const absl::string_view> pieces) const;

  std::string flag_;
  std::string path_;
  bool overwrite_;
  Way way_ = Way::kCreate;
  // Of this process, where the path names it: 1 or 2.
  int descriptor_ = -1;
};

}  // namespace waypoint

#endif  // TOOLS_OUTPUT_FILE_H_
