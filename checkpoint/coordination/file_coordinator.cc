#include "checkpoint/coordination/file_coordinator.h"

#include <algorithm>
#include <fstream>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/deadline.h"
#include "checkpoint/coordination/launch_environment.h"

namespace waypoint {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(5);
constexpr absl::Duration kLockPatience = absl::Seconds(2);
constexpr int64_t kMaxFileBytes = Coordinator::kMaxMessageBytes + 4096;
constexpr char kLockName[] = "lock";
constexpr char kOfferName[] = "offer";
constexpr char kValueName[] = "value";
constexpr char kSessionPrefix[] = "session-";
constexpr char kHelloPrefix[] = "hello-";

std::string RandomToken() {
  std::random_device device;
  return absl::StrCat(absl::Hex(device(), absl::kZeroPad8), absl::Hex(device(), absl::kZeroPad8));
}

// The running kernel: only there does a lock that nobody holds mean that its owner is dead.  "" where unknown.
std::string Machine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

// Appears whole, under a name that nobody else makes.  Not durable: a message is for those who live.
absl::Status WriteMessage(FileSystem& fs, const std::string& path, absl::string_view bytes, const std::string& owner) {
  const std::string temporary = JoinPath(DirName(path), absl::StrCat("tmp-", owner));
  WAYPOINT_RETURN_IF_ERROR(RemoveTree(fs, temporary));
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.Create(temporary, {}));
  WAYPOINT_RETURN_IF_ERROR(file->Write(0, absl::MakeConstSpan(bytes.data(), bytes.size())));
  WAYPOINT_RETURN_IF_ERROR(file->Close());
  return fs.Rename(temporary, path);
}

absl::StatusOr<std::string> ReadMessage(FileSystem& fs, const std::string& path) {
  return ReadSmallFile(fs, path, kMaxFileBytes, "a message of a rank");
}

absl::Status MakeIfMissing(FileSystem& fs, const std::string& directory) {
  const absl::Status made = fs.MakeDirectory(directory);
  return GetErrorKind(made) == ErrorKind::kExists ? absl::OkStatus() : made;
}

// The keys are names in one directory.
class FileStore : public MessageStore {
 public:
  FileStore(FileSystem& fs, std::string directory, int rank)
      : fs_(fs), directory_(std::move(directory)), owner_(absl::StrCat(rank)), machine_(Machine()) {}

  absl::Status Set(const std::string& key, const std::string& bytes) override {
    return WriteMessage(fs_, Path(key), bytes, owner_);
  }

  absl::StatusOr<std::string> Get(const std::string& key) override {
    const std::string path = Path(key);
    WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs_.Stat(path));
    return ReadMessage(fs_, info.type == FileType::kDirectory ? JoinPath(path, kValueName) : path);
  }

  // By listing: where attributes of names are cached, as NFS does, opening the directory still asks the server.
  absl::StatusOr<bool> HasAll(const std::vector<std::string>& keys) override {
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.List(directory_));
    std::set<std::string> names;
    for (const DirectoryEntry& entry : entries) {
      names.insert(entry.name);
    }
    return std::all_of(keys.begin(), keys.end(),
                       [&names](const std::string& key) { return names.count(Name(key)) > 0; });
  }

  // A directory with the value in it: renaming one onto another that is not empty fails, so the first one stays.
  absl::StatusOr<std::string> SetOnce(const std::string& key, const std::string& bytes) override {
    const std::string path = Path(key);
    WAYPOINT_ASSIGN_OR_RETURN(const bool there, HasAll({key}));
    if (!there) {
      const std::string temporary = JoinPath(directory_, absl::StrCat("tmp-once-", owner_));
      WAYPOINT_RETURN_IF_ERROR(RemoveTree(fs_, temporary));
      WAYPOINT_RETURN_IF_ERROR(fs_.MakeDirectory(temporary));
      WAYPOINT_RETURN_IF_ERROR(WriteMessage(fs_, JoinPath(temporary, kValueName), bytes, owner_));
      const absl::Status renamed = fs_.Rename(temporary, path);
      if (!renamed.ok()) {
        RemoveTree(fs_, temporary).IgnoreError();
        if (GetErrorKind(renamed) != ErrorKind::kExists) {
          return renamed;
        }
      }
    }
    return Get(key);
  }

  absl::Status Delete(const std::string& key) override { return RemoveTree(fs_, Path(key)); }

  bool IsDead(int rank) override {
    const std::string name = AliveName(rank);
    if (machine_.empty() || !HasAll({name}).value_or(false)) {
      return false;
    }
    return fs_.Lock(Path(name)).ok();
  }

  // Before this rank is known to be here.
  absl::Status ShowLife(int rank) {
    WAYPOINT_ASSIGN_OR_RETURN(alive_, fs_.Lock(Path(AliveName(rank))));
    return absl::OkStatus();
  }

 private:
  std::string AliveName(int rank) const { return absl::StrCat("alive-", rank, "-", machine_); }
  static std::string Name(const std::string& key) { return absl::StrReplaceAll(key, {{"/", "-"}}); }
  std::string Path(const std::string& key) const { return JoinPath(directory_, Name(key)); }

  FileSystem& fs_;
  const std::string directory_;
  const std::string owner_;
  const std::string machine_;
  std::unique_ptr<FileLock> alive_;
};

std::string JoinedKey(int rank) { return absl::StrCat("joined/", rank); }
constexpr char kStartKey[] = "start";

struct Joined {
  std::unique_ptr<MessageStore> store;
  std::unique_ptr<FileLock> lock;
};

absl::Status InterruptedBy(absl::string_view whom, const FileCoordinatorOptions& options) {
  return absl::CancelledError(
      absl::StrCat("interrupted while waiting for ", whom, " to come to \"", options.directory, "\""));
}

// Somebody who clears up after another job may hold the lock for a moment, or remove the directory under us.
absl::StatusOr<std::unique_ptr<FileLock>> LockJob(FileSystem& fs, const FileCoordinatorOptions& options) {
  const Deadline deadline(kLockPatience);
  const Wait wait(options.hooks);
  while (true) {
    WAYPOINT_RETURN_IF_ERROR(MakeIfMissing(fs, options.directory));
    auto lock = fs.Lock(JoinPath(options.directory, kLockName));
    const bool passing = GetErrorKind(lock.status()) == ErrorKind::kLocked || absl::IsNotFound(lock.status());
    if (lock.ok() || !passing || deadline.passed()) {
      return lock.ok() || !passing
                 ? std::move(lock)
                 : Annotate(lock.status(), "another rank 0 of a job with the same output and rendezvous runs");
    }
    if (wait.IsCancelled()) {
      return InterruptedBy("the lock of rank 0", options);
    }
    absl::SleepFor(kPause);
  }
}

std::vector<int> NotJoined(MessageStore& store, const FileCoordinatorOptions& options) {
  std::vector<int> missing;
  for (int rank = 1; rank < options.world_size; ++rank) {
    if (!store.HasAll({JoinedKey(rank)}).value_or(false)) {
      missing.push_back(rank);
    }
  }
  return missing;
}

// Rank 0: offers a session until all have joined it.
absl::StatusOr<Joined> Offer(FileSystem& fs, const FileCoordinatorOptions& options) {
  const Deadline deadline(options.join_timeout);
  Wait wait(options.hooks);
  Joined joined;
  WAYPOINT_ASSIGN_OR_RETURN(joined.lock, LockJob(fs, options));
  // Sessions of jobs that crashed; who announced himself to them may be waiting for this one.
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries, fs.List(options.directory));
  for (const DirectoryEntry& entry : entries) {
    if (absl::StartsWith(entry.name, kSessionPrefix)) {
      WAYPOINT_RETURN_IF_ERROR(RemoveTree(fs, JoinPath(options.directory, entry.name)));
    }
  }
  const std::string session = JoinPath(options.directory, absl::StrCat(kSessionPrefix, RandomToken()));
  WAYPOINT_RETURN_IF_ERROR(fs.MakeDirectory(session));
  auto store = std::make_unique<FileStore>(fs, session, 0);
  WAYPOINT_RETURN_IF_ERROR(store->ShowLife(0));
  std::vector<std::string> keys;
  for (int rank = 1; rank < options.world_size; ++rank) {
    keys.push_back(JoinedKey(rank));
  }
  std::string offered;
  while (true) {
    WAYPOINT_ASSIGN_OR_RETURN(entries, fs.List(options.directory));
    std::string hellos;
    for (const DirectoryEntry& entry : entries) {
      if (absl::StartsWith(entry.name, kHelloPrefix)) {
        absl::StrAppend(&hellos, entry.name, "\n");
      }
    }
    if (hellos != offered) {
      WAYPOINT_RETURN_IF_ERROR(WriteMessage(fs, JoinPath(session, kOfferName), hellos, "0"));
      offered = hellos;
    }
    WAYPOINT_ASSIGN_OR_RETURN(const bool complete, store->HasAll(keys));
    if (complete) {
      break;
    }
    if (wait.IsCancelled()) {
      return InterruptedBy(RankList(NotJoined(*store, options)), options);
    }
    if (wait.IsNoticeDue()) {
      wait.Tell(absl::StrCat(RankList(NotJoined(*store, options)), " to come to \"", options.directory, "\", ",
                             absl::FormatDuration(options.join_timeout), " at most"));
    }
    if (deadline.passed()) {
      return MakeError(ErrorKind::kRank,
                       absl::StrCat(RankList(NotJoined(*store, options)), " did not come to \"", options.directory,
                                    "\" within ", absl::FormatDuration(options.join_timeout),
                                    "; do all ranks see this file system, and have the same arguments?"));
    }
    absl::SleepFor(kPause);
  }
  WAYPOINT_RETURN_IF_ERROR(store->Set(kStartKey, ""));
  joined.store = std::move(store);
  return joined;
}

// The session that repeats our token; "" for none yet.
absl::StatusOr<std::string> FindSession(FileSystem& fs, const std::string& directory, const std::string& hello) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(directory));
  bool announced = false;
  for (const DirectoryEntry& entry : entries) {
    announced = announced || entry.name == hello;
    if (!absl::StartsWith(entry.name, kSessionPrefix)) {
      continue;
    }
    const auto offer = ReadMessage(fs, JoinPath(directory, absl::StrCat(entry.name, "/", kOfferName)));
    if (!offer.ok()) {
      continue;  // not offered yet, or just removed
    }
    const std::vector<std::string> tokens = absl::StrSplit(*offer, '\n');
    if (std::find(tokens.begin(), tokens.end(), hello) != tokens.end()) {
      return JoinPath(directory, entry.name);
    }
  }
  if (!announced) {
    WAYPOINT_RETURN_IF_ERROR(WriteMessage(fs, JoinPath(directory, hello), "", hello));
  }
  return std::string();
}

// All other ranks.
absl::StatusOr<Joined> Join(FileSystem& fs, const FileCoordinatorOptions& options) {
  const Deadline deadline(options.join_timeout);
  Wait wait(options.hooks);
  const std::string token = RandomToken();
  const std::string hello = absl::StrCat(kHelloPrefix, options.rank, "-", token);
  // False when it is time to give up.
  const auto may_wait = [&] {
    if (wait.IsNoticeDue()) {
      wait.Tell(absl::StrCat("rank 0 to start the job in \"", options.directory, "\", ",
                             absl::FormatDuration(options.join_timeout), " at most"));
    }
    return !deadline.passed() && !wait.IsCancelled();
  };
  while (may_wait()) {
    WAYPOINT_RETURN_IF_ERROR(MakeIfMissing(fs, options.directory));
    const auto session = FindSession(fs, options.directory, hello);
    // What is missing was removed by a rank 0 that clears up; it, or the next one, makes it again.
    if (!session.ok() && !absl::IsNotFound(session.status())) {
      return session.status();
    }
    if (session.ok() && !session->empty()) {
      auto store = std::make_unique<FileStore>(fs, *session, options.rank);
      const absl::Status alive = store->ShowLife(options.rank);
      const auto place = alive.ok() ? store->SetOnce(JoinedKey(options.rank), token) : alive;
      if (place.ok() && *place != token) {
        return MakeError(ErrorKind::kRank, absl::StrCat("another process is rank ", options.rank, " of the job in \"",
                                                        options.directory, "\""));
      }
      while (place.ok() && may_wait()) {
        const auto started = store->HasAll({kStartKey});
        if (!started.ok()) {
          break;  // rank 0 gave up
        }
        if (*started) {
          Joined joined;
          joined.store = std::move(store);
          return joined;
        }
        absl::SleepFor(kPause);
      }
    }
    absl::SleepFor(kPause);
  }
  fs.RemoveFile(JoinPath(options.directory, hello)).IgnoreError();
  fs.RemoveDirectory(options.directory).IgnoreError();  // unless others wait in it
  if (wait.IsCancelled()) {
    return InterruptedBy("rank 0", options);
  }
  return MakeError(ErrorKind::kRank, absl::StrCat("rank 0 did not start the job in \"", options.directory, "\" within ",
                                                  absl::FormatDuration(options.join_timeout),
                                                  "; does it see this file system, and have the same arguments?"));
}

}  // namespace

absl::StatusOr<FileCoordinatorOptions> FileCoordinatorOptionsFromEnvironment() {
  FileCoordinatorOptions options;
  WAYPOINT_ASSIGN_OR_RETURN(options.rank, IntegerFromEnvironment("RANK"));
  WAYPOINT_ASSIGN_OR_RETURN(options.world_size, IntegerFromEnvironment("WORLD_SIZE"));
  WAYPOINT_RETURN_IF_ERROR(CheckRank(options.rank, options.world_size));
  return options;
}

void RemoveAbandonedJobs(FileSystem& fs, const std::string& directory, absl::string_view prefix) {
  const auto siblings = fs.List(DirName(directory));
  if (!siblings.ok()) {
    return;
  }
  for (const DirectoryEntry& sibling : *siblings) {
    if (sibling.type != FileType::kDirectory || !absl::StartsWith(sibling.name, prefix) ||
        sibling.name == BaseName(directory)) {
      continue;
    }
    const std::string path = JoinPath(DirName(directory), sibling.name);
    const auto lock = fs.Lock(JoinPath(path, kLockName));
    if (lock.ok()) {
      RemoveTree(fs, path).IgnoreError();
    }
  }
}

absl::StatusOr<std::unique_ptr<FileCoordinator>> FileCoordinator::Create(FileSystem& fs,
                                                                         const FileCoordinatorOptions& options) {
  WAYPOINT_RETURN_IF_ERROR(CheckRank(options.rank, options.world_size));
  auto joined = options.rank == 0 ? Offer(fs, options) : Join(fs, options);
  if (!joined.ok()) {
    if (options.rank == 0 && GetErrorKind(joined.status()) != ErrorKind::kLocked) {
      RemoveTree(fs, options.directory).IgnoreError();
    }
    return joined.status();
  }
  return std::unique_ptr<FileCoordinator>(
      new FileCoordinator(fs, options, std::move(joined->store), std::move(joined->lock)));
}

FileCoordinator::FileCoordinator(FileSystem& fs, const FileCoordinatorOptions& options,
                                 std::unique_ptr<MessageStore> store, std::unique_ptr<FileLock> lock)
    : StoreCoordinator(std::move(store), options.rank, options.world_size, options.linger, options.rank == 0,
                       options.hooks),
      fs_(fs),
      options_(options),
      lock_(std::move(lock)) {}

FileCoordinator::~FileCoordinator() {
  Leave();
  if (options_.rank == 0) {
    UnlessOutOfMemory([this] { RemoveTree(fs_, options_.directory).IgnoreError(); });
  }
}

}  // namespace waypoint
