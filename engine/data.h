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
// The file is memory-mapped and must not shrink while it is open.  Thread-compatible.

#include <cstdint>
#include <memory>
#include <string>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "engine/config.pb.h"

namespace waypoint::engine {

struct Batch {
  at::Tensor inputs;   // int64 [batch_size, sequence_length]
  at::Tensor targets;  // the same windows, one token later
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
  absl::StatusOr<Batch> BatchAt(int64_t position) const { return BatchAt(position, 0, config_.batch_size()); }
  // Some rows of it: a data rank's.
  absl::StatusOr<Batch> BatchAt(int64_t position, int64_t first_row, int64_t rows) const;

  int64_t tokens() const { return tokens_; }
  int64_t tokens_per_batch() const { return config_.batch_size() * config_.sequence_length(); }

 private:
  TokenFile(const Dataset& config, int64_t vocab_size) : config_(config), vocab_size_(vocab_size) {}

  int64_t TokenAt(int64_t index) const;
  int64_t WindowOf(int64_t sample) const;

  const Dataset config_;
  const int64_t vocab_size_;
  const char* data_ = nullptr;
  size_t bytes_ = 0;
  int64_t tokens_ = 0;
  int64_t windows_ = 0;
};

// Where `index` goes in the `seed`-th of many orders of 0 .. size - 1: a bijection for each seed.  size >= 1.
int64_t Shuffled(int64_t index, int64_t size, uint64_t seed);

}  // namespace waypoint::engine

#endif  // ENGINE_DATA_H_
