#include "checkpoint/storage/fault_file_system.h"

#include <cerrno>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

using Kind = FileCall::Kind;

constexpr char kKilledMessage[] = "the process was killed by fault injection";

absl::Status KilledError() { return absl::CancelledError(kKilledMessage); }

bool IsMove(Kind kind) { return kind == FileCall::kRename || kind == FileCall::kExchange; }

bool NeedsSpace(Kind kind) {
  return kind == FileCall::kCreate || kind == FileCall::kWrite || kind == FileCall::kSync ||
         kind == FileCall::kMakeDirectory || kind == FileCall::kRename || kind == FileCall::kLock;
}

bool Applies(Fault fault, Kind kind, size_t bytes) {
  switch (fault) {
    case Fault::kNone:
      return false;
    case Fault::kKillBefore:
    case Fault::kKillAfter:
      return true;
    case Fault::kEio:
      return kind != FileCall::kClose;
    case Fault::kEnospc:
    case Fault::kFullDisk:
    case Fault::kEdquot:
      return NeedsSpace(kind);
    case Fault::kEmfile:
      return kind == FileCall::kCreate || kind == FileCall::kSyncDirectory || kind == FileCall::kLock;
    case Fault::kShortWriteOne:
    case Fault::kShortWriteMost:
      return kind == FileCall::kWrite && bytes > 1;
    case Fault::kSyncEio:
      return kind == FileCall::kSync || kind == FileCall::kSyncDirectory;
    case Fault::kCloseEio:
      return kind == FileCall::kClose;
    case Fault::kRenameExdev:
    case Fault::kRenameEio:
      return IsMove(kind);
    case Fault::kUnlinkEbusy:
      return kind == FileCall::kRemoveFile || kind == FileCall::kRemoveDirectory;
    case Fault::kExchangeMissing:
      return kind == FileCall::kExchange;
  }
  return false;
}

bool Lasts(Fault fault) { return fault == Fault::kFullDisk || fault == Fault::kExchangeMissing; }

absl::Status FaultStatus(Fault fault, const std::string& path) {
  const std::string what = absl::StrCat("injected fault on \"", path, "\"");
  switch (fault) {
    case Fault::kEnospc:
    case Fault::kFullDisk:
    case Fault::kShortWriteOne:
    case Fault::kShortWriteMost:
      return ErrnoError(ENOSPC, what);
    case Fault::kEdquot:
      return ErrnoError(EDQUOT, what);
    case Fault::kEmfile:
      return ErrnoError(EMFILE, what);
    case Fault::kRenameExdev:
      return ErrnoError(EXDEV, what);
    case Fault::kUnlinkEbusy:
      return ErrnoError(EBUSY, what);
    case Fault::kExchangeMissing:
      return MakeError(ErrorKind::kUnsupported, what);
    default:
      return ErrnoError(EIO, what);
  }
}

}  // namespace

bool IsKilledError(const absl::Status& status) {
  return absl::IsCancelled(status) && absl::StrContains(status.message(), kKilledMessage);
}

const char* FaultName(Fault fault) {
  switch (fault) {
    case Fault::kNone:
      return "none";
    case Fault::kKillBefore:
      return "kill-before";
    case Fault::kKillAfter:
      return "kill-after";
    case Fault::kEio:
      return "EIO";
    case Fault::kEnospc:
      return "ENOSPC";
    case Fault::kFullDisk:
      return "full-disk";
    case Fault::kEdquot:
      return "EDQUOT";
    case Fault::kEmfile:
      return "EMFILE";
    case Fault::kShortWriteOne:
      return "short-write-1";
    case Fault::kShortWriteMost:
      return "short-write-n-1";
    case Fault::kSyncEio:
      return "fsync-EIO";
    case Fault::kCloseEio:
      return "close-EIO";
    case Fault::kRenameExdev:
      return "rename-EXDEV";
    case Fault::kRenameEio:
      return "rename-EIO";
    case Fault::kUnlinkEbusy:
      return "unlink-EBUSY";
    case Fault::kExchangeMissing:
      return "no-exchange";
  }
  return "unknown";
}

// Counts calls and decides which one fails.
class FaultFileSystem::Injector {
 public:
  Injector(Fault fault, int64_t at_call) : fault_(fault), at_call_(at_call) {}

  // Runs `call` as the next mutating call, unless the fault says otherwise.  `cut(fault)` does what a faulty call does
  // before it fails (part of a write, the close itself).
  template <typename Call, typename Cut>
  absl::Status Run(Kind kind, const std::string& path, const std::string& to, size_t bytes, const Call& call,
                   const Cut& cut, int64_t offset = 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (killed_) {
      return KilledError();
    }
    const int64_t number = calls_++;
    const bool due = number == at_call_ || (Lasts(fault_) && number > at_call_);
    const bool fires = due && Applies(fault_, kind, bytes);
    fired_ = fired_ || fires;
    absl::Status status;
    if (fires && fault_ == Fault::kKillBefore) {
      killed_ = true;
      return KilledError();
    }
    if (fires && fault_ == Fault::kKillAfter) {
      killed_ = true;
      // The effect stays, the answer never arrives.
      status = call();
      trace_.push_back({kind, path, to, status.ok(), offset, static_cast<int64_t>(bytes)});
      return KilledError();
    }
    if (fires) {
      cut(fault_);
      status = FaultStatus(fault_, path);
    } else {
      status = call();
    }
    trace_.push_back({kind, path, to, status.ok(), offset, static_cast<int64_t>(bytes)});
    return status;
  }

  absl::Status Alive() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return killed_ ? KilledError() : absl::OkStatus();
  }
  int64_t calls() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return calls_;
  }
  bool fired() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return fired_;
  }
  std::vector<FileCall> trace() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return trace_;
  }

 private:
  const Fault fault_;
  const int64_t at_call_;
  mutable std::mutex mutex_;
  int64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  bool killed_ ABSL_GUARDED_BY(mutex_) = false;
  bool fired_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<FileCall> trace_ ABSL_GUARDED_BY(mutex_);
};

namespace {

constexpr auto kNoEffect = [](Fault) {};

}  // namespace

class FaultFileSystem::Reader : public ReadableFile {
 public:
  Reader(std::unique_ptr<ReadableFile> base, std::shared_ptr<Injector> injector)
      : base_(std::move(base)), injector_(std::move(injector)) {}
  const std::string& path() const override { return base_->path(); }
  int64_t size_bytes() const override { return base_->size_bytes(); }
  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    WAYPOINT_RETURN_IF_ERROR(injector_->Alive());
    return base_->Read(offset, out);
  }

 private:
  const std::unique_ptr<ReadableFile> base_;
  const std::shared_ptr<Injector> injector_;
};

class FaultFileSystem::Writer : public WritableFile {
 public:
  Writer(std::unique_ptr<WritableFile> base, std::shared_ptr<Injector> injector)
      : base_(std::move(base)), injector_(std::move(injector)) {}
  const std::string& path() const override { return base_->path(); }

  absl::Status Write(int64_t offset, absl::Span<const char> data) override {
    return injector_->Run(
        FileCall::kWrite, path(), "", data.size(), [&] { return base_->Write(offset, data); },
        [&](Fault fault) {
          const size_t written = fault == Fault::kShortWriteOne    ? 1
                                 : fault == Fault::kShortWriteMost ? data.size() - 1
                                                                   : 0;
          base_->Write(offset, data.first(written)).IgnoreError();
        },
        offset);
  }

  absl::Status Sync() override {
    return injector_->Run(
        FileCall::kSync, path(), "", 0, [&] { return lost_ ? absl::OkStatus() : base_->Sync(); },
        [&](Fault) { lost_ = true; });
  }

  absl::Status Close() override {
    return injector_->Run(
        FileCall::kClose, path(), "", 0, [&] { return base_->Close(); }, [&](Fault) { base_->Close().IgnoreError(); });
  }

 private:
  const std::unique_ptr<WritableFile> base_;
  const std::shared_ptr<Injector> injector_;
  bool lost_ = false;
};

FaultFileSystem::FaultFileSystem(FileSystem& base, Fault fault, int64_t at_call)
    : base_(base), injector_(std::make_shared<Injector>(fault, at_call)) {}

FaultFileSystem::~FaultFileSystem() = default;

int64_t FaultFileSystem::calls() const { return injector_->calls(); }
bool FaultFileSystem::fired() const { return injector_->fired(); }
std::vector<FileCall> FaultFileSystem::trace() const { return injector_->trace(); }

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultFileSystem::OpenForRead(const std::string& path,
                                                                           const OpenOptions& options) {
  WAYPOINT_RETURN_IF_ERROR(injector_->Alive());
  WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, base_.OpenForRead(path, options));
  return std::unique_ptr<ReadableFile>(std::make_unique<Reader>(std::move(file), injector_));
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultFileSystem::Create(const std::string& path,
                                                                      const CreateOptions& options) {
  std::unique_ptr<WritableFile> file;
  WAYPOINT_RETURN_IF_ERROR(injector_->Run(
      FileCall::kCreate, path, "", 0,
      [&]() -> absl::Status {
        WAYPOINT_ASSIGN_OR_RETURN(file, base_.Create(path, options));
        return absl::OkStatus();
      },
      kNoEffect));
  return std::unique_ptr<WritableFile>(std::make_unique<Writer>(std::move(file), injector_));
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultFileSystem::OpenForWrite(const std::string& path,
                                                                            const CreateOptions& options) {
  std::unique_ptr<WritableFile> file;
  WAYPOINT_RETURN_IF_ERROR(injector_->Run(
      FileCall::kCreate, path, "", 0,
      [&]() -> absl::Status {
        WAYPOINT_ASSIGN_OR_RETURN(file, base_.OpenForWrite(path, options));
        return absl::OkStatus();
      },
      kNoEffect));
  return std::unique_ptr<WritableFile>(std::make_unique<Writer>(std::move(file), injector_));
}

absl::StatusOr<FileInfo> FaultFileSystem::Stat(const std::string& path) {
  WAYPOINT_RETURN_IF_ERROR(injector_->Alive());
  return base_.Stat(path);
}

absl::StatusOr<std::string> FaultFileSystem::RealPath(const std::string& path) {
  WAYPOINT_RETURN_IF_ERROR(injector_->Alive());
  return base_.RealPath(path);
}

absl::StatusOr<std::vector<DirectoryEntry>> FaultFileSystem::List(const std::string& path) {
  WAYPOINT_RETURN_IF_ERROR(injector_->Alive());
  return base_.List(path);
}

absl::Status FaultFileSystem::MakeDirectory(const std::string& path) {
  return injector_->Run(
      FileCall::kMakeDirectory, path, "", 0, [&] { return base_.MakeDirectory(path); }, kNoEffect);
}

absl::Status FaultFileSystem::Rename(const std::string& from, const std::string& to) {
  return injector_->Run(
      FileCall::kRename, from, to, 0, [&] { return base_.Rename(from, to); }, kNoEffect);
}

absl::Status FaultFileSystem::Exchange(const std::string& a, const std::string& b) {
  return injector_->Run(
      FileCall::kExchange, a, b, 0, [&] { return base_.Exchange(a, b); }, kNoEffect);
}

absl::Status FaultFileSystem::RemoveFile(const std::string& path) {
  return injector_->Run(
      FileCall::kRemoveFile, path, "", 0, [&] { return base_.RemoveFile(path); }, kNoEffect);
}

absl::Status FaultFileSystem::RemoveDirectory(const std::string& path) {
  return injector_->Run(
      FileCall::kRemoveDirectory, path, "", 0, [&] { return base_.RemoveDirectory(path); }, kNoEffect);
}

absl::Status FaultFileSystem::SyncDirectory(const std::string& path) {
  return injector_->Run(
      FileCall::kSyncDirectory, path, "", 0, [&] { return base_.SyncDirectory(path); }, kNoEffect);
}

absl::StatusOr<std::unique_ptr<FileLock>> FaultFileSystem::Lock(const std::string& path) {
  std::unique_ptr<FileLock> held;
  WAYPOINT_RETURN_IF_ERROR(injector_->Run(
      FileCall::kLock, path, "", 0,
      [&]() -> absl::Status {
        WAYPOINT_ASSIGN_OR_RETURN(held, base_.Lock(path));
        return absl::OkStatus();
      },
      kNoEffect));
  return held;
}

absl::StatusOr<int64_t> FaultFileSystem::FreeBytes(const std::string& path) {
  WAYPOINT_RETURN_IF_ERROR(injector_->Alive());
  return base_.FreeBytes(path);
}

}  // namespace waypoint
