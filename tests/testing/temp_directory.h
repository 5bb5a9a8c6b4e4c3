#ifndef TESTS_TESTING_TEMP_DIRECTORY_H_
#define TESTS_TESTING_TEMP_DIRECTORY_H_

// A directory on the real file system that goes away with the object; for what memory has not: links, FIFOs.

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {

class TempDirectory {
 public:
  TempDirectory() : path_(::testing::TempDir() + "/waypoint.XXXXXX") {
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
    path_ = PosixFileSystem().RealPath(path_).value();
  }
  ~TempDirectory() { EXPECT_OK(RemoveTree(PosixFileSystem(), path_)); }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(absl::string_view name) const { return JoinPath(path_, name); }

  // Replaces what is there.
  void Write(absl::string_view name, absl::string_view contents) const {
    Remove(name);
    ASSERT_OK(WriteSmallFile(PosixFileSystem(), Path(name), contents));
  }
  void Remove(absl::string_view name) const { ASSERT_OK(RemoveTree(PosixFileSystem(), Path(name))); }
  void MakeDirectory(absl::string_view name) const { ASSERT_OK(MakeDirectories(PosixFileSystem(), Path(name))); }
  void Link(const std::string& target, absl::string_view name) const {
    Remove(name);
    ASSERT_EQ(symlink(target.c_str(), Path(name).c_str()), 0);
  }
  void Fifo(absl::string_view name) const {
    Remove(name);
    ASSERT_EQ(mkfifo(Path(name).c_str(), 0600), 0);
  }

 private:
  std::string path_;
};

}  // namespace waypoint

#endif  // TESTS_TESTING_TEMP_DIRECTORY_H_
