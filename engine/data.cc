#include "engine/data.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ATen/Functions.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

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

class OwnedFd {
 public:
  explicit OwnedFd(int fd) : fd_(fd) {}
  ~OwnedFd() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

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
  const OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // O_NONBLOCK: a FIFO must not hang us
  struct stat info;
  if (fd.get() < 0 || fstat(fd.get(), &info) != 0) {
    return ErrnoError(errno, absl::StrCat("data file \"", path, "\": open"));
  }
  if (!S_ISREG(info.st_mode)) {
    return MakeError(ErrorKind::kIo, absl::StrCat("data file \"", path, "\": not a regular file"));
  }
  const int token_bytes = TokenBytes(config.kind());
  if (info.st_size % token_bytes != 0) {
    return MakeError(ErrorKind::kSizeMismatch,
                     absl::StrCat("data file \"", path, "\": ", info.st_size, " bytes are no whole number of ",
                                  Dataset::Kind_Name(config.kind()), " tokens of ", token_bytes, " bytes"));
  }
  auto file = absl::WrapUnique(new TokenFile(config, vocab_size));
  file->tokens_ = info.st_size / token_bytes;
  file->windows_ = (file->tokens_ - 1) / config.sequence_length();
  if (file->tokens_ == 0 || file->windows_ == 0) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("data file \"", path, "\": ", file->tokens_, " tokens, one sequence takes ",
                                  config.sequence_length() + 1, "; lower data.sequence_length"));
  }
  file->bytes_ = static_cast<size_t>(info.st_size);
  void* const mapped = mmap(nullptr, file->bytes_, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) {
    return ErrnoError(errno, absl::StrCat("data file \"", path, "\": mmap"));
  }
  file->data_ = static_cast<const char*>(mapped);
  return file;
}

TokenFile::~TokenFile() {
  if (data_ != nullptr) {
    munmap(const_cast<char*>(data_), bytes_);
  }
}

int64_t TokenFile::TokenAt(int64_t index) const {
  switch (config_.kind()) {
    case Dataset::TOKENS_U16: {
      uint16_t token;
      std::memcpy(&token, data_ + index * 2, 2);
      return token;
    }
    case Dataset::TOKENS_I32: {
      int32_t token;
      std::memcpy(&token, data_ + index * 4, 4);
      return token;
    }
    default:
      return static_cast<unsigned char>(data_[index]);
  }
}

int64_t TokenFile::WindowOf(int64_t sample) const {
  const auto pass = static_cast<uint64_t>(sample / windows_);
  return Shuffled(sample % windows_, windows_, Mix(config_.seed()) + Mix(~pass));
}

absl::StatusOr<Batch> TokenFile::BatchAt(int64_t position, int64_t first_row, int64_t rows) const {
  const int64_t length = config_.sequence_length();
  const int64_t first_sample = (position + length - 1) / length + first_row;
  Batch batch;
  batch.inputs = at::empty({rows, length}, at::kLong);
  batch.targets = at::empty({rows, length}, at::kLong);
  int64_t* const inputs = batch.inputs.data_ptr<int64_t>();
  int64_t* const targets = batch.targets.data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = WindowOf(first_sample + row) * length;
    for (int64_t i = 0; i <= length; ++i) {
      const int64_t token = TokenAt(begin + i);
      if (token < 0 || token >= vocab_size_) {
        return MakeError(ErrorKind::kRequest,
                         absl::StrCat("data file \"", config_.path(), "\": token ", begin + i, " is ", token,
                                      ", the model's vocabulary has ", vocab_size_, " (ids 0 to ", vocab_size_ - 1,
                                      "); tokenise for this model, or check data.kind"));
      }
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
