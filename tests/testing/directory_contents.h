#ifndef TESTS_TESTING_DIRECTORY_CONTENTS_H_
#define TESTS_TESTING_DIRECTORY_CONTENTS_H_

// All files below a directory, by their relative path.

#include <map>
#include <string>

#include "checkpoint/storage/file_system.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {

using DirectoryContents = std::map<std::string, std::string>;

inline void ReadContents(FileSystem& fs, const std::string& path, const std::string& prefix,
                         DirectoryContents* contents) {
  const auto entries = fs.List(path);
  EXPECT_OK(entries);
  if (!entries.ok()) {
    return;
  }
  for (const DirectoryEntry& entry : *entries) {
    const std::string full = JoinPath(path, entry.name);
    if (entry.type == FileType::kDirectory) {
      ReadContents(fs, full, prefix + entry.name + "/", contents);
      continue;
    }
    const auto bytes = ReadSmallFile(fs, full, int64_t{64} << 20, "test_bytes");
    EXPECT_OK(bytes);
    (*contents)[prefix + entry.name] = bytes.value_or("");
  }
}

inline DirectoryContents ReadContents(FileSystem& fs, const std::string& path) {
  DirectoryContents contents;
  ReadContents(fs, path, "", &contents);
  return contents;
}

// Replaces a file.
inline void Rewrite(FileSystem& fs, const std::string& path, const std::string& bytes) {
  EXPECT_OK(RemoveTree(fs, path));
  EXPECT_OK(WriteSmallFile(fs, path, bytes));
}

}  // namespace waypoint

#endif  // TESTS_TESTING_DIRECTORY_CONTENTS_H_
