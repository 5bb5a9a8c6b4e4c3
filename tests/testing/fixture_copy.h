#ifndef TESTS_TESTING_FIXTURE_COPY_H_
#define TESTS_TESTING_FIXTURE_COPY_H_

// Fixtures where a checkpoint may be opened: Bazel hands them out as links, which lead out of the directory.

#include <string>

#include "checkpoint/storage/file_system.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {

// The files of a directory on disk, and of those below it, as a new directory `to`.
inline void CopyDirectory(const std::string& from, FileSystem& fs, const std::string& to) {
  ASSERT_OK(MakeDirectories(fs, to));
  const auto entries = PosixFileSystem().List(from);
  ASSERT_OK(entries);
  for (const DirectoryEntry& entry : *entries) {
    const auto info = PosixFileSystem().Stat(JoinPath(from, entry.name));
    ASSERT_OK(info);
    if (info->type == FileType::kDirectory) {
      CopyDirectory(JoinPath(from, entry.name), fs, JoinPath(to, entry.name));
      continue;
    }
    const auto text = ReadSmallFile(PosixFileSystem(), JoinPath(from, entry.name), int64_t{4} << 20, "test_bytes");
    ASSERT_OK(text);
    ASSERT_OK(WriteSmallFile(fs, JoinPath(to, entry.name), *text));
  }
}

}  // namespace waypoint

#endif  // TESTS_TESTING_FIXTURE_COPY_H_
