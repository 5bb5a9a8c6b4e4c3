#ifndef CHECKPOINT_FORMAT_DIRECTORY_KIND_H_
#define CHECKPOINT_FORMAT_DIRECTORY_KIND_H_

// What a directory or file is that people point at and that no format here reads, and what to do about it.
//
// One table (directory_kind.cc), by the names in the directory; for errors of everybody who opens a checkpoint.
// Thread-safe.

#include <string>

#include "checkpoint/storage/file_system.h"

namespace waypoint {

// "holds a checkpoint of DeepSpeed ...; run ...": goes behind the path or "it".  Empty when nothing is known, or the
// directory cannot be listed.
std::string DirectoryKind(FileSystem& fs, const std::string& directory);

// The same of a file that was given in place of a directory.
std::string FileInPlaceOfDirectory(FileSystem& fs, const std::string& path);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_DIRECTORY_KIND_H_
