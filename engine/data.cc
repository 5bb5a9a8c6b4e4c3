#include "engine/data.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "ATen/Functions.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"

namespace waypoint::engine {
namespace {

int TokenBytes(Dataset::Kind kind) {
  switch (kind) {
    case Dataset::TOKENS_U16:
      return 2;
    case Dataset::TOKENS_I32:
      return 4;
    default:
      return 1;
  }
}

// splitmix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

template <typename Token>
int64_t TokenAt(absl::Span<const char> bytes, int64_t index) {
  Token token;
  std::memcpy(&token, bytes.data() + index * static_cast<int64_t>(sizeof(token)), sizeof(token));
  return token;
}

int64_t TokenAt(Dataset::Kind kind, absl::Span<const char> bytes, int64_t index) {
  switch (kind) {
    case Dataset::TOKENS_U16:
      return TokenAt<uint16_t>(bytes, index);
    case Dataset::TOKENS_I32:
      return TokenAt<int32_t>(bytes, index);
    default:
      return TokenAt<uint8_t>(bytes, index);
  }
}

// Whether all are from 0 to vocab_size - 1.  Of all at once, so that the loop costs less than reading does.
template <typename Token>
bool AllInside(absl::Span<const char> bytes, int64_t vocab_size) {
  Token least = std::numeric_limits<Token>::max();
  Token most = std::numeric_limits<Token>::min();
  for (size_t at = 0; at < bytes.size(); at += sizeof(Token)) {
    Token token;
    std::memcpy(&token, bytes.data() + at, sizeof(token));
    least = std::min(least, token);
    most = std::max(most, token);
  }
  return bytes.empty() || (int64_t{least} >= 0 && int64_t{most} < vocab_size);
}

bool AllInside(Dataset::Kind kind, absl::Span<const char> bytes, int64_t vocab_size) {
  switch (kind) {
    case Dataset::TOKENS_U16:
      return AllInside<uint16_t>(bytes, vocab_size);
    case Dataset::TOKENS_I32:
      return AllInside<int32_t>(bytes, vocab_size);
    default:
      return AllInside<uint8_t>(bytes, vocab_size);
  }
}

FileStamp StampOf(const struct stat& info) {
  return {info.st_dev, info.st_ino, info.st_size, int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

}  // namespace

// A Feistel network permutes the next even power of two; whatever falls outside walks on until it is inside, which
// keeps it a bijection and takes fewer than 4 rounds on average.
int64_t Shuffled(int64_t index, int64_t size, uint64_t seed) {
  int half_bits = 1;
  while (half_bits < 31 && (int64_t{1} << (2 * half_bits)) < size) {
    ++half_bits;
  }
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (Mix(Mix(seed + round) ^ right) & mask);
      left = right;
      right = next;
    }
    value = (left << half_bits) | right;
  } while (value >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(value);
}

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(const Dataset& config, int64_t vocab_size) {
  const std::string& path = config.path();
  auto file = absl::WrapUnique(new TokenFile(config, vocab_size));
  file->fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // O_NONBLOCK: a FIFO must not hang us
  struct stat info;
  if (file->fd_ < 0 || fstat(file->fd_, &info) != 0) {
    return ErrnoError(errno, absl::StrCat("data file \"", path, "\": open"));
  }
  if (!S_ISREG(info.st_mode)) {
    return MakeError(ErrorKind::kIo, absl::StrCat("data file \"", path, "\": not a regular file"));
  }
  // Its text would be taken for tokens.
  char start[kFileKindBytes];
  const ssize_t start_bytes = pread(file->fd_, start, sizeof(start), 0);
  WAYPOINT_RETURN_IF_ERROR(
      Annotate(CheckNoPointer(absl::string_view(start, start_bytes > 0 ? start_bytes : 0), path), "data file"));
  const int token_bytes = TokenBytes(config.kind());
  if (info.st_size % token_bytes != 0) {
    return MakeError(ErrorKind::kSizeMismatch,
                     absl::StrCat("data file \"", path, "\": ", info.st_size, " bytes are no whole number of ",
                                  Dataset::Kind_Name(config.kind()), " tokens of ", token_bytes, " bytes"));
  }
  file->stamp_ = StampOf(info);
  file->tokens_ = info.st_size / token_bytes;
  file->windows_ = (file->tokens_ - 1) / config.sequence_length();
  if (file->tokens_ == 0 || file->windows_ == 0) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("data file \"", path, "\": ", file->tokens_, " tokens, one sequence takes ",
                                  config.sequence_length() + 1, "; lower data.sequence_length"));
  }
  return file;
}

TokenFile::~TokenFile() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

absl::Status TokenFile::Read(int64_t offset, absl::Span<char> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = pread(fd_, out.data() + done, out.size() - done, offset + static_cast<int64_t>(done));
    if (got < 0) {
      if (errno == EINTR) {
        continue;
      }
      return ErrnoError(errno, absl::StrCat("data file \"", config_.path(), "\": read at ", offset));
    }
    if (got == 0) {
      return MakeError(
          ErrorKind::kTruncated,
          absl::StrCat("data file \"", config_.path(), "\": it ends at byte ", offset + static_cast<int64_t>(done),
                       " and had ", stamp_.size_bytes, " when it was opened; it was cut short while the run reads it"));
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status TokenFile::CheckTokens(int64_t offset, absl::Span<const char> bytes) const {
  if (AllInside(config_.kind(), bytes, vocab_size_)) {
    return absl::OkStatus();
  }
  const int token_bytes = TokenBytes(config_.kind());
  int64_t index = 0;
  int64_t token = TokenAt(config_.kind(), bytes, index);
  while (token >= 0 && token < vocab_size_) {
    token = TokenAt(config_.kind(), bytes, ++index);
  }
  return MakeError(ErrorKind::kRequest,
                   absl::StrCat("data file \"", config_.path(), "\": token ", offset / token_bytes + index, " is ",
                                token, ", the model's vocabulary has ", vocab_size_, " (ids 0 to ", vocab_size_ - 1,
                                "); tokenise for this model, or check data.kind"));
}

absl::Status TokenFile::CheckUnchanged() {
  struct stat opened;
  if (fstat(fd_, &opened) != 0) {
    return ErrnoError(errno, absl::StrCat("data file \"", config_.path(), "\": stat"));
  }
  // One that was removed is read on: what was opened is still whole.
  struct stat named;
  const bool replaced = stat(config_.path().c_str(), &named) == 0 && !(StampOf(named) == StampOf(opened));
  if (!replaced && StampOf(opened) == stamp_) {
    return absl::OkStatus();
  }
  if (opened.st_size < stamp_.size_bytes) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat("data file \"", config_.path(), "\" has ", opened.st_size, " bytes and had ",
                                  stamp_.size_bytes, "; it was cut short while the run reads it"));
  }
  absl::StatusOr<std::unique_ptr<TokenFile>> now = Open(config_, vocab_size_);
  absl::Status same = now.status();
  if (same.ok()) {
    same = same_ ? same_(**now) : MakeError(ErrorKind::kChecksum, "nobody knows what its contents were");
  }
  WAYPOINT_RETURN_IF_ERROR(
      Annotate(same, absl::StrCat("data file \"", config_.path(), "\" was ",
                                  replaced ? "replaced by another file" : "written to", " while the run reads it")));
  // The same contents: touched, or put there anew.
  std::swap(fd_, (*now)->fd_);
  stamp_ = (*now)->stamp_;
  return absl::OkStatus();
}

int64_t TokenFile::WindowOf(int64_t sample) const {
  const auto pass = static_cast<uint64_t>(sample / windows_);
  return Shuffled(sample % windows_, windows_, Mix(config_.seed()) + Mix(~pass));
}

absl::StatusOr<Batch> TokenFile::BatchAt(int64_t position, int64_t first_row, int64_t rows) {
  WAYPOINT_RETURN_IF_ERROR(CheckUnchanged());
  const int64_t length = config_.sequence_length();
  const int token_bytes = TokenBytes(config_.kind());
  const int64_t first_sample = (position + length - 1) / length + first_row;
  Batch batch;
  batch.inputs = at::empty({rows, length}, at::kLong);
  batch.targets = at::empty({rows, length}, at::kLong);
  int64_t* const inputs = batch.inputs.data_ptr<int64_t>();
  int64_t* const targets = batch.targets.data_ptr<int64_t>();
  std::vector<char> bytes(static_cast<size_t>((length + 1) * token_bytes));
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t offset = WindowOf(first_sample + row) * length * token_bytes;
    WAYPOINT_RETURN_IF_ERROR(Read(offset, absl::MakeSpan(bytes)));
    WAYPOINT_RETURN_IF_ERROR(CheckTokens(offset, bytes));
    for (int64_t i = 0; i <= length; ++i) {
      const int64_t token = TokenAt(config_.kind(), bytes, i);
      if (i < length) {
        inputs[row * length + i] = token;
      }
      if (i > 0) {
        targets[row * length + i - 1] = token;
      }
    }
  }
  return batch;
}

}  // namespace waypoint::engine
