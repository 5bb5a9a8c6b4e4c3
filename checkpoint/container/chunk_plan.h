#ifndef CHECKPOINT_CONTAINER_CHUNK_PLAN_H_
#define CHECKPOINT_CONTAINER_CHUNK_PLAN_H_

// What a transfer needs of files whose chunks have digests: which chunks are read whole and checked, and which are left
// unchecked because they would cost too much.
//
//   ChunkPlan plan(files);
//   plan.Need(file, offset, bytes);      // every byte that will be asked for
//   plan.Cut(file, begin, end);          // tensors that are needed in part
//   plan.Decide(0.08);
//   if (plan.Find(file, chunk).by_parts) ...
//
// A chunk that is needed in full costs nothing.  Of the others, those are checked that cost least, as long as their
// other bytes add up to no more than the given share of what is needed of tensors that are needed in part; an eighth of
// that share for tensors that are needed whole, which are many ranks' common case, and 256 KiB in any case.
//
// Pure arithmetic.  One thread until Decide, then thread-compatible.

#include <cstdint>
#include <utility>
#include <vector>

namespace waypoint {

class ChunkPlan {
 public:
  struct File {
    int64_t file_bytes = 0;
    // 0: no digests; nothing is planned for it.
    int64_t chunk_bytes = 0;
  };
  struct Chunk {
    int32_t needed_bytes = 0;
    // Of those, what nobody has asked for yet (shared_chunks.h).
    int32_t left_bytes = 0;
    // Bytes of a tensor that is needed in part are among them.
    bool cut = false;
    // What is needed is read by itself, unchecked.
    bool by_parts = false;
  };

  explicit ChunkPlan(std::vector<File> files) : files_(std::move(files)), chunks_(files_.size()) {}

  // Bytes inside the file that are needed twice are added twice.
  void Need(int64_t file, int64_t offset, int64_t bytes);
  void Cut(int64_t file, int64_t begin, int64_t end);
  // `over_read` may be infinite: everything is checked.
  void Decide(double over_read);

  // Null for a chunk that nothing is needed of.
  Chunk* Find(int64_t file, int64_t chunk);

 private:
  int64_t BytesOf(int64_t file, int64_t chunk) const;

  std::vector<File> files_;
  std::vector<std::vector<Chunk>> chunks_;  // by file; none before something is needed of it
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_CHUNK_PLAN_H_
