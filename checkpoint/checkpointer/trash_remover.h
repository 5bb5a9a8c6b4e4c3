#ifndef CHECKPOINT_CHECKPOINTER_TRASH_REMOVER_H_
#define CHECKPOINT_CHECKPOINTER_TRASH_REMOVER_H_

// Removes directories that are out of sight already, in a thread of its own: file systems that tell the device about
// every freed block take as long to delete a checkpoint as half of a save.  One thread calls.

#include <string>
#include <thread>
#include <vector>

#include "checkpoint/storage/file_system.h"

namespace waypoint {

class TrashRemover {
 public:
  explicit TrashRemover(FileSystem& fs) : fs_(fs) {}
  ~TrashRemover();
  TrashRemover(const TrashRemover&) = delete;
  TrashRemover& operator=(const TrashRemover&) = delete;

  // After what was begun before.
  void Begin(std::vector<std::string> paths);
  // Waits; what could not be removed since the last call, one line each.
  std::vector<std::string> Finish();

 private:
  FileSystem& fs_;
  std::thread thread_;
  std::vector<std::string> problems_;  // the thread's until it is joined
};

// `path` itself stays when it cannot be removed; the warning says so.
void RemoveLeftOver(FileSystem& fs, const std::string& path, std::vector<std::string>* warnings);

}  // namespace waypoint

#endif  // CHECKPOINT_CHECKPOINTER_TRASH_REMOVER_H_
