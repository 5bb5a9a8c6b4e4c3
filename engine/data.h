#ifndef ENGINE_DATA_H_
#define ENGINE_DATA_H_

// Batches from one file of tokens, or of bytes.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto data, TokenFile::Open(config.data(), vocab_size));
//   WAYPOINT_ASSIGN_OR_RETURN(Batch batch, data->BatchAt(position));
//
// The file is cut into windows of sequence_length tokens (the tail that fills none is left out); a sequence is one
// window and the token after it.  Each pass over the windows has its own order.  What comes next is a function of the
// seed and of the position alone, the number of tokens consumed so far, so that a resumed run needs no other state.
//
// The file must stay as it is while it is open.  Every batch looks whether it did: one that was cut short is
// E_TRUNCATED, one that was written to, or replaced by another, E_CHECKSUM; it may be removed, and be touched or
// replaced by a copy where its contents are known (Expect).  Read by pread: no mapping, which would turn a cut into
// SIGBUS.  One thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/config.pb.h"

namespace waypoint::engine {

struct Batch {
  at::Tensor inputs;   // int64 [batch_size, sequence_length]
  at::Tensor targets;  // the same windows, one token later
};

// By what a change of a file shows without reading it.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size_bytes = 0;
  int64_t modified_ns = 0;

  bool operator==(const FileStamp& other) const {
    return device == other.device && inode == other.inode && size_bytes == other.size_bytes &&
           modified_ns == other.modified_ns;
  }
};

class TokenFile {
 public:
  // `config` as FillAndCheck left it.
  // Errors: E_IO; E_SIZE_MISMATCH when the file is no whole number of tokens; E_REQUEST when it is shorter than one
  // sequence.
  static absl::StatusOr<std::unique_ptr<TokenFile>> Open(const Dataset& config, int64_t vocab_size);
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  // The batch that follows `position` consumed tokens.  A position inside a window (the sequence length was changed)
  // counts as its end.  E_REQUEST naming the token and its place when an id is outside the vocabulary.
  absl::StatusOr<Batch> BatchAt(int64_t position) { return BatchAt(position, 0, config_.batch_size()); }
  // Some rows of it: a data rank's.
  absl::StatusOr<Batch> BatchAt(int64_t position, int64_t first_row, int64_t rows);

  // Fills `out` from `offset`.  E_TRUNCATED where the file ends before.
  absl::Status Read(int64_t offset, absl::Span<char> out) const;
  // E_REQUEST for the first of `bytes` at `offset`, whole tokens both, that is outside the vocabulary.
  absl::Status CheckTokens(int64_t offset, absl::Span<const char> bytes) const;
  // What is to be said of the contents where the file looks changed: whether they are what they were.  Without it, a
  // change of time is a change.
  void Expect(std::function<absl::Status(const TokenFile& now)> same) { same_ = std::move(same); }

  const Dataset& config() const { return config_; }
  int64_t size_bytes() const { return stamp_.size_bytes; }
  int64_t tokens() const { return tokens_; }
  int64_t tokens_per_batch() const { return config_.batch_size() * config_.sequence_length(); }

 private:
  TokenFile(const Dataset& config, int64_t vocab_size) : config_(config), vocab_size_(vocab_size) {}

  absl::Status CheckUnchanged();
  int64_t WindowOf(int64_t sample) const;

  const Dataset config_;
  const int64_t vocab_size_;
  int fd_ = -1;
  FileStamp stamp_;
  int64_t tokens_ = 0;
  int64_t windows_ = 0;
  std::function<absl::Status(const TokenFile& now)> same_;
};

// Where `index` goes in the `seed`-th of many orders of 0 .. size - 1: a bijection for each seed.  size >= 1.
int64_t Shuffled(int64_t index, int64_t size, uint64_t seed);

}  // namespace waypoint::engine

#endif  // ENGINE_DATA_H_
