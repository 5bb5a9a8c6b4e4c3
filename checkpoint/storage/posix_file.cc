#include "checkpoint/storage/posix_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/file_errors.h"

namespace waypoint {
namespace {

// Below this a direct read is dominated by the device's latency, and the page cache saves the next one.
constexpr int64_t kSmallReadBytes = 16 << 10;
// Up to here, what is not aligned is read through the page cache: whole pages around it would be too much.
constexpr int64_t kSmallUnalignedReadBytes = 64 << 10;
// Data whose address does not fit O_DIRECT passes through a buffer of this size, one per thread: one huge page.
constexpr int64_t kBounceBytes = kHugePageBytes;
// Incomplete pages kept per file before the oldest one goes through the page cache.
constexpr size_t kMaxPartialPages = 256;

absl::Status CallError(int error_number, absl::string_view call, absl::string_view path) {
  if (error_number == ENOENT) {
    return FileNotFoundError(path);
  }
  return ErrnoError(error_number, absl::StrCat(call, " of \"", path, "\""));
}

bool IsAligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kDirectAlignment == 0; }

char* BounceBuffer() {
  // Reused: faulting in fresh pages would cost more than the copy.
  thread_local AlignedBuffer buffer;
  buffer.Reserve(kBounceBytes);
  return buffer.data();
}

// pread until `out` is full or the file ends; the bytes read, or -errno.
int64_t ReadFully(int fd, int64_t offset, char* out, int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = pread(fd, out + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return -errno;
    }
    if (n == 0) {
      break;
    }
    done += n;
  }
  return done;
}

// pwrite of everything; 0 or an errno.
int WriteFully(int fd, int64_t offset, const char* data, int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = pwrite(fd, data + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return errno;
    }
    if (n == 0) {
      return EIO;
    }
    done += n;
  }
  return 0;
}

// A second descriptor with O_DIRECT on the file behind `fd`; none where that is impossible.  The path may name another
// file by now, hence the comparison.
Descriptor OpenDirect(const std::string& path, int fd, int access) {
  Descriptor direct = OpenDescriptor(path, access | O_DIRECT | O_NONBLOCK);
  struct stat plain_stat;
  struct stat direct_stat;
  if (!direct.valid() || fstat(fd, &plain_stat) != 0 || fstat(direct.get(), &direct_stat) != 0 ||
      plain_stat.st_dev != direct_stat.st_dev || plain_stat.st_ino != direct_stat.st_ino) {
    return Descriptor();
  }
  return direct;
}

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(std::string path, Descriptor plain, Descriptor direct, int64_t size_bytes)
      : path_(std::move(path)),
        plain_(std::move(plain)),
        direct_(std::move(direct)),
        size_bytes_(size_bytes),
        use_direct_(direct_.valid()) {}

  const std::string& path() const override { return path_; }
  int64_t size_bytes() const override { return size_bytes_; }

  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    const int64_t bytes = static_cast<int64_t>(out.size());
    if (offset < 0 || bytes > size_bytes_ || offset > size_bytes_ - bytes) {
      return ReadPastEndError(path_, offset, bytes, size_bytes_);
    }
    const bool whole_pages = offset % kDirectAlignment == 0 && bytes % kDirectAlignment == 0;
    if (!use_direct_ || bytes <= (whole_pages ? kSmallReadBytes : kSmallUnalignedReadBytes)) {
      return ReadPlain(offset, out);
    }
    const int64_t body = AlignUp(offset, kDirectAlignment);
    const int64_t body_end = AlignDown(offset + bytes, kDirectAlignment);
    if (body >= body_end) {
      return ReadPlain(offset, out);
    }
    if (!IsAligned(out.data() + (body - offset))) {
      return ReadThroughBounce(offset, out);
    }
    WAYPOINT_RETURN_IF_ERROR(ReadPlain(offset, out.first(body - offset)));
    absl::Span<char> aligned = out.subspan(body - offset, body_end - body);
    const int64_t n = ReadFully(direct_.get(), body, aligned.data(), aligned.size());
    if (n == -EINVAL) {
      // Some file systems accept the flag and refuse the I/O.
      use_direct_ = false;
      return ReadPlain(offset, out);
    }
    WAYPOINT_RETURN_IF_ERROR(CheckRead(n, body, aligned.size()));
    return ReadPlain(body_end, out.subspan(body_end - offset));
  }

  void WillRead(int64_t offset, int64_t bytes) const override {
    posix_fadvise(plain_.get(), offset, bytes, POSIX_FADV_WILLNEED);
  }

 private:
  absl::Status CheckRead(int64_t n, int64_t offset, int64_t bytes) const {
    if (n < 0) {
      return CallError(static_cast<int>(-n), absl::StrCat("read at ", offset), path_);
    }
    return n < bytes ? ReadPastEndError(path_, offset, bytes, offset + n) : absl::OkStatus();
  }

  absl::Status ReadPlain(int64_t offset, absl::Span<char> out) const {
    return CheckRead(ReadFully(plain_.get(), offset, out.data(), out.size()), offset, out.size());
  }

  // Whole pages around the range, in pieces, copied out.
  absl::Status ReadThroughBounce(int64_t offset, absl::Span<char> out) const {
    char* bounce = BounceBuffer();
    const int64_t end = offset + static_cast<int64_t>(out.size());
    for (int64_t begin = AlignDown(offset, kDirectAlignment); begin < end; begin += kBounceBytes) {
      const int64_t piece = std::min(kBounceBytes, AlignUp(end, kDirectAlignment) - begin);
      int64_t n = pread(direct_.get(), bounce, piece, begin);
      while (n < 0 && errno == EINTR) {
        n = pread(direct_.get(), bounce, piece, begin);
      }
      const int64_t from = std::max(begin, offset);
      const int64_t to = std::min(begin + piece, end);
      if (n < to - begin) {
        // The end of the file, a short read, or direct I/O refused: the plain descriptor gives the true answer.
        use_direct_ = use_direct_ && !(n < 0 && errno == EINVAL);
        WAYPOINT_RETURN_IF_ERROR(ReadPlain(from, out.subspan(from - offset, to - from)));
        continue;
      }
      std::memcpy(out.data() + (from - offset), bounce + (from - begin), to - from);
    }
    return absl::OkStatus();
  }

  const std::string path_;
  const Descriptor plain_;
  const Descriptor direct_;
  const int64_t size_bytes_;
  mutable std::atomic<bool> use_direct_;
};

// A page of which some bytes are known.
struct PartialPage {
  AlignedBuffer bytes{static_cast<size_t>(kDirectAlignment)};
  std::vector<std::pair<int64_t, int64_t>> ranges;  // sorted, disjoint, not touching; within the page

  void Add(int64_t begin, absl::Span<const char> data) {
    int64_t end = begin + static_cast<int64_t>(data.size());
    std::memcpy(bytes.data() + begin, data.data(), data.size());
    std::vector<std::pair<int64_t, int64_t>> merged;
    for (const auto& range : ranges) {
      if (range.second < begin || range.first > end) {
        merged.push_back(range);
      } else {
        begin = std::min(begin, range.first);
        end = std::max(end, range.second);
      }
    }
    merged.emplace_back(begin, end);
    std::sort(merged.begin(), merged.end());
    ranges = std::move(merged);
  }
  bool Complete() const { return ranges.size() == 1 && ranges[0].first == 0 && ranges[0].second == kDirectAlignment; }
};

// In direct mode no page is ever dirty in the page cache while it is written directly: bytes that do not fill a page
// wait in memory until its other bytes come, and what is incomplete at the end goes through the page cache then.
class PosixWritableFile : public WritableFile {
 public:
  // `allocated_bytes`: what the file has already.  `end`: the size that it has at the end in any case.
  PosixWritableFile(std::string path, Descriptor plain, Descriptor direct, int64_t allocated_bytes, int64_t end)
      : path_(std::move(path)),
        plain_(std::move(plain)),
        direct_(std::move(direct)),
        use_direct_(direct_.valid()),
        end_(end),
        file_bytes_(allocated_bytes) {}

  const std::string& path() const override { return path_; }

  absl::Status Write(int64_t offset, absl::Span<const char> data) override {
    const int64_t bytes = static_cast<int64_t>(data.size());
    if (offset < 0 || offset > INT64_MAX - bytes) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("\"", path_, "\": cannot write ", bytes, " bytes at ", offset));
    }
    WAYPOINT_RETURN_IF_ERROR(FirstError());
    const int64_t end = offset + bytes;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      end_ = std::max(end_, end);
      file_bytes_ = std::max(file_bytes_, end);
    }
    if (!use_direct_) {
      return WritePlain(offset, data);
    }
    const int64_t body = std::min(AlignUp(offset, kDirectAlignment), end);
    const int64_t body_end = std::max(AlignDown(end, kDirectAlignment), body);
    WAYPOINT_RETURN_IF_ERROR(WritePartial(offset, data.first(body - offset)));
    WAYPOINT_RETURN_IF_ERROR(WritePages(body, data.subspan(body - offset, body_end - body)));
    return WritePartial(body_end, data.subspan(body_end - offset));
  }

  absl::Status Sync() override {
    WAYPOINT_RETURN_IF_ERROR(Settle());
    return fsync(plain_.get()) == 0 ? absl::OkStatus() : Fail(CallError(errno, "fsync", path_));
  }

  absl::Status Close() override {
    absl::Status status = plain_.valid() ? Settle() : FirstError();
    for (Descriptor* descriptor : {&direct_, &plain_}) {
      const int error_number = descriptor->Close();
      if (status.ok() && error_number != 0) {
        status = Fail(CallError(error_number, "close", path_));
      }
    }
    return status;
  }

 private:
  // Keeps the first failure: what was lost then stays lost, whatever later calls say.
  absl::Status Fail(absl::Status status) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (first_error_.ok()) {
      first_error_ = std::move(status);
    }
    return first_error_;
  }

  absl::Status FirstError() {
    std::lock_guard<std::mutex> lock(mutex_);
    return first_error_;
  }

  absl::Status WritePlain(int64_t offset, absl::Span<const char> data) {
    const int error_number = WriteFully(plain_.get(), offset, data.data(), data.size());
    return error_number == 0 ? absl::OkStatus()
                             : Fail(CallError(error_number, absl::StrCat("write at ", offset), path_));
  }

  // Whole pages.
  absl::Status WritePages(int64_t offset, absl::Span<const char> data) {
    if (data.empty()) {
      return absl::OkStatus();
    }
    {
      // Older bytes of the same pages are overwritten.
      std::lock_guard<std::mutex> lock(mutex_);
      partial_.erase(partial_.lower_bound(offset), partial_.lower_bound(offset + static_cast<int64_t>(data.size())));
    }
    if (IsAligned(data.data())) {
      return WriteAligned(offset, data);
    }
    char* bounce = BounceBuffer();
    while (!data.empty()) {
      const int64_t piece = std::min<int64_t>(kBounceBytes, data.size());
      std::memcpy(bounce, data.data(), piece);
      WAYPOINT_RETURN_IF_ERROR(WriteAligned(offset, absl::MakeConstSpan(bounce, piece)));
      offset += piece;
      data.remove_prefix(piece);
    }
    return absl::OkStatus();
  }

  // Whole pages from an aligned address.
  absl::Status WriteAligned(int64_t offset, absl::Span<const char> data) {
    while (!data.empty() && use_direct_) {
      const ssize_t n = pwrite(direct_.get(), data.data(), data.size(), offset);
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n < 0 && errno != EINVAL) {
        return Fail(CallError(errno, absl::StrCat("write at ", offset), path_));
      }
      if (n < 0) {
        // Some file systems accept the flag and refuse the I/O.
        use_direct_ = false;
      }
      const int64_t whole = AlignDown(std::max<ssize_t>(n, 0), kDirectAlignment);
      if (whole == 0) {
        break;
      }
      offset += whole;
      data.remove_prefix(whole);
    }
    // Nothing, unless direct I/O made no progress: then the plain descriptor finishes or names the reason.
    return WritePlain(offset, data);
  }

  // Less than a page, within one page.
  absl::Status WritePartial(int64_t offset, absl::Span<const char> data) {
    while (!data.empty()) {
      const int64_t page = AlignDown(offset, kDirectAlignment);
      const int64_t piece = std::min<int64_t>(data.size(), page + kDirectAlignment - offset);
      PartialPage ready;
      int64_t ready_page = -1;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        PartialPage& partial = partial_[page];
        partial.Add(offset - page, data.first(piece));
        if (partial.Complete()) {
          ready_page = page;
        } else if (partial_.size() > kMaxPartialPages) {
          ready_page = partial_.begin()->first;
        }
        if (ready_page >= 0) {
          ready = std::move(partial_[ready_page]);
          partial_.erase(ready_page);
        }
      }
      if (ready_page >= 0) {
        WAYPOINT_RETURN_IF_ERROR(WriteRanges(ready_page, ready));
      }
      offset += piece;
      data.remove_prefix(piece);
    }
    return absl::OkStatus();
  }

  absl::Status WriteRanges(int64_t page, const PartialPage& partial) {
    if (partial.Complete()) {
      return WriteAligned(page, partial.bytes.span());
    }
    for (const auto& range : partial.ranges) {
      WAYPOINT_RETURN_IF_ERROR(WritePlain(
          page + range.first, absl::MakeConstSpan(partial.bytes.data() + range.first, range.second - range.first)));
    }
    return absl::OkStatus();
  }

  // Hands everything to the kernel and gives the file its exact size.
  absl::Status Settle() {
    WAYPOINT_RETURN_IF_ERROR(FirstError());
    std::map<int64_t, PartialPage> partial;
    int64_t end = 0;
    bool resize = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      partial.swap(partial_);
      end = end_;
      resize = file_bytes_ != end_;
    }
    for (const auto& page : partial) {
      WAYPOINT_RETURN_IF_ERROR(WriteRanges(page.first, page.second));
    }
    if (resize) {
      int result = ftruncate(plain_.get(), end);
      while (result != 0 && errno == EINTR) {
        result = ftruncate(plain_.get(), end);
      }
      if (result != 0) {
        return Fail(CallError(errno, "truncation", path_));
      }
      std::lock_guard<std::mutex> lock(mutex_);
      file_bytes_ = end;
    }
    return absl::OkStatus();
  }

  const std::string path_;
  Descriptor plain_;
  Descriptor direct_;
  std::atomic<bool> use_direct_;
  std::mutex mutex_;
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, PartialPage> partial_ ABSL_GUARDED_BY(mutex_);
  int64_t end_ ABSL_GUARDED_BY(mutex_) = 0;         // largest end written
  int64_t file_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // what stat says
};

}  // namespace

Descriptor::~Descriptor() { Close(); }

int Descriptor::Close() {
  const int fd = std::exchange(fd_, -1);
  // Linux frees the descriptor even when close is interrupted; a second close could hit somebody else's file.
  return fd < 0 || close(fd) == 0 || errno == EINTR ? 0 : errno;
}

Descriptor OpenDescriptor(const std::string& path, int flags) {
  int fd = -1;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  return Descriptor(fd);
}

absl::StatusOr<std::unique_ptr<ReadableFile>> OpenPosixFile(const std::string& path, const OpenOptions& options) {
  // O_NONBLOCK: opening a FIFO without a writer would wait for ever.  It has no effect on a regular file.
  Descriptor plain = OpenDescriptor(path, O_RDONLY | O_NONBLOCK | (options.no_follow ? O_NOFOLLOW : 0));
  if (!plain.valid()) {
    if (errno == ELOOP && options.no_follow) {
      return MakeError(ErrorKind::kPath, absl::StrCat("\"", path, "\" is a symbolic link, which is not followed here"));
    }
    return CallError(errno, "open", path);
  }
  struct stat info;
  if (fstat(plain.get(), &info) != 0) {
    return CallError(errno, "stat", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return MakeError(ErrorKind::kIo, absl::StrCat("\"", path, "\" is not a regular file",
                                                  S_ISDIR(info.st_mode) ? " but a directory" : ""));
  }
  Descriptor direct;
  if (options.direct) {
    direct = OpenDirect(path, plain.get(), O_RDONLY);
  }
  if (direct.valid()) {
    // The plain descriptor sees scattered small pieces only; read-ahead would fetch what O_DIRECT reads anyway.
    posix_fadvise(plain.get(), 0, 0, POSIX_FADV_RANDOM);
  }
  return std::unique_ptr<ReadableFile>(
      std::make_unique<PosixReadableFile>(path, std::move(plain), std::move(direct), info.st_size));
}

absl::StatusOr<std::unique_ptr<WritableFile>> CreatePosixFile(const std::string& path, const CreateOptions& options) {
  Descriptor plain = OpenDescriptor(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW);
  if (!plain.valid()) {
    return errno == EEXIST ? FileExistsError(path) : CallError(errno, "creation", path);
  }
  int64_t allocated_bytes = 0;
  if (options.size_bytes > 0) {
    // fallocate, not posix_fallocate: glibc imitates the latter by writing to every block.  Beyond RLIMIT_FSIZE the
    // kernel raises SIGXFSZ before it returns EFBIG, so programs that use this library ignore that signal.
    int result = fallocate(plain.get(), 0, 0, options.size_bytes);
    while (result != 0 && errno == EINTR) {
      result = fallocate(plain.get(), 0, 0, options.size_bytes);
    }
    if (result == 0) {
      allocated_bytes = options.size_bytes;
    } else if (errno != EOPNOTSUPP && errno != ENOSYS) {
      const int error_number = errno;
      struct statvfs space;
      const std::string free_bytes =
          fstatvfs(plain.get(), &space) == 0
              ? absl::StrCat(", ", static_cast<int64_t>(space.f_bavail) * static_cast<int64_t>(space.f_frsize), " free")
              : "";
      unlink(path.c_str());
      return ErrnoError(error_number,
                        absl::StrCat("reserving ", options.size_bytes, " bytes for \"", path, "\"", free_bytes));
    }
  }
  Descriptor direct;
  if (options.direct) {
    direct = OpenDirect(path, plain.get(), O_RDWR);
  }
  if (options.shared && allocated_bytes < options.size_bytes) {
    int result = ftruncate(plain.get(), options.size_bytes);
    while (result != 0 && errno == EINTR) {
      result = ftruncate(plain.get(), options.size_bytes);
    }
    if (result != 0) {
      const int error_number = errno;
      unlink(path.c_str());
      return CallError(error_number, "sizing", path);
    }
    allocated_bytes = options.size_bytes;
  }
  return std::unique_ptr<WritableFile>(std::make_unique<PosixWritableFile>(
      path, std::move(plain), std::move(direct), allocated_bytes, options.shared ? options.size_bytes : 0));
}

absl::StatusOr<std::unique_ptr<WritableFile>> OpenPosixFileForWrite(const std::string& path,
                                                                    const CreateOptions& options) {
  Descriptor plain = OpenDescriptor(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  struct stat info;
  if (!plain.valid() || fstat(plain.get(), &info) != 0) {
    return CallError(errno, "open", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return MakeError(ErrorKind::kIo, absl::StrCat("\"", path, "\" is not a regular file"));
  }
  if (info.st_size != options.size_bytes) {
    return SharedSizeError(path, info.st_size, options.size_bytes);
  }
  Descriptor direct;
  if (options.direct) {
    direct = OpenDirect(path, plain.get(), O_RDWR);
  }
  return std::unique_ptr<WritableFile>(std::make_unique<PosixWritableFile>(
      path, std::move(plain), std::move(direct), options.size_bytes, options.size_bytes));
}

}  // namespace waypoint
