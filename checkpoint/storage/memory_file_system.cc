#include "checkpoint/storage/memory_file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/file_errors.h"

namespace waypoint {
namespace {

constexpr int64_t kCapacityBytes = int64_t{1} << 40;
constexpr int64_t kTornBytes[] = {512, 4096};

}  // namespace

// A file or a directory, whatever its names.
struct MemoryFileSystem::Node {
  using Ptr = std::shared_ptr<Node>;
  bool is_directory = false;
  std::string data;
  std::string durable_data;
  std::map<std::string, Ptr> entries;
  std::map<std::string, Ptr> durable_entries;
  std::string lock_holder;  // empty: not locked
};

// A change that is not durable yet.
struct MemoryFileSystem::Operation {
  enum Kind { kWrite, kLink, kUnlink, kRename, kExchange };
  Operation(Kind kind_in, Node::Ptr node_in, Node::Ptr other_in = nullptr)
      : kind(kind_in), node(std::move(node_in)), other(std::move(other_in)) {}

  Kind kind;
  Node::Ptr node;   // written, linked, unlinked, moved; the first of an exchange
  Node::Ptr other;  // kExchange: the second
  // kWrite.
  int64_t offset = 0;
  std::string data;
  // The others: where it is, or moves from; and where it moves to.
  Node::Ptr directory;
  std::string name;
  Node::Ptr to_directory;
  std::string to_name;

  bool InDirectory(const Node* candidate) const {
    return directory.get() == candidate || to_directory.get() == candidate;
  }
  bool SharesFileWith(const Operation& that) const {
    for (const Node* mine : {node.get(), other.get()}) {
      if (mine != nullptr && (mine == that.node.get() || mine == that.other.get())) {
        return true;
      }
    }
    return false;
  }
};

// A path taken apart: the directory that holds the last component, and what is there.
struct MemoryFileSystem::Place {
  Node::Ptr directory;  // null for "/" and below what is missing
  std::string name;
  Node::Ptr node;  // null when nothing is there
};

struct MemoryFileSystem::Journal {
  mutable std::mutex mutex;
  Node::Ptr root ABSL_GUARDED_BY(mutex);
  std::vector<Operation> pending ABSL_GUARDED_BY(mutex);

  static std::vector<std::string> Components(const std::string& path) {
    std::vector<std::string> components;
    for (const absl::string_view part : absl::StrSplit(path, '/')) {
      if (part == ".." && !components.empty()) {
        components.pop_back();
      } else if (!part.empty() && part != "." && part != "..") {
        components.emplace_back(part);
      }
    }
    return components;
  }

  Place Find(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Place place;
    place.node = root;
    for (const std::string& component : Components(path)) {
      if (place.node == nullptr || !place.node->is_directory) {
        return Place();
      }
      place.directory = place.node;
      place.name = component;
      const auto found = place.directory->entries.find(component);
      place.node = found == place.directory->entries.end() ? nullptr : found->second;
    }
    return place;
  }

  void Append(Operation operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { pending.push_back(std::move(operation)); }

  // Puts a new node at a place; the caller has checked that it is free.
  Node::Ptr Link(const Place& place, bool is_directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    auto node = std::make_shared<Node>();
    node->is_directory = is_directory;
    place.directory->entries[place.name] = node;
    Operation operation(Operation::kLink, node);
    operation.directory = place.directory;
    operation.name = place.name;
    Append(std::move(operation));
    return node;
  }

  void Unlink(const Place& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    place.directory->entries.erase(place.name);
    Operation operation(Operation::kUnlink, place.node);
    operation.directory = place.directory;
    operation.name = place.name;
    Append(std::move(operation));
  }

  void SyncData(const Node::Ptr& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    node->durable_data = node->data;
    pending.erase(std::remove_if(pending.begin(), pending.end(),
                                 [&node](const Operation& operation) {
                                   return operation.kind == Operation::kWrite && operation.node == node;
                                 }),
                  pending.end());
  }

  // Files with writes that are not durable, in the order of their first one.
  std::vector<const Node*> UnsyncedFiles() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::vector<const Node*> files;
    for (const Operation& operation : pending) {
      if (operation.kind == Operation::kWrite &&
          std::find(files.begin(), files.end(), operation.node.get()) == files.end()) {
        files.push_back(operation.node.get());
      }
    }
    return files;
  }

  static void WriteInto(std::string& contents, int64_t offset, absl::string_view data) {
    contents.resize(std::max<size_t>(contents.size(), offset + data.size()));
    std::copy(data.begin(), data.end(), contents.begin() + offset);
  }

  // One operation on the maps that `entries_of` picks.  Nodes, not names, say what moves, so that an operation makes
  // sense even when an earlier one was lost.
  template <typename EntriesOf>
  static void ApplyName(const Operation& operation, const EntriesOf& entries_of, const Node::Ptr& node,
                        const Node::Ptr& other) {
    std::map<std::string, Node::Ptr>& here = entries_of(operation.directory);
    switch (operation.kind) {
      case Operation::kWrite:
        return;
      case Operation::kLink:
        here[operation.name] = node;
        return;
      case Operation::kUnlink:
      case Operation::kRename: {
        const auto found = here.find(operation.name);
        if (found != here.end() && found->second == node) {
          here.erase(found);
        }
        if (operation.kind == Operation::kRename) {
          entries_of(operation.to_directory)[operation.to_name] = node;
        }
        return;
      }
      case Operation::kExchange:
        here[operation.name] = other;
        entries_of(operation.to_directory)[operation.to_name] = node;
        return;
    }
  }
};

class MemoryFileSystem::Reader : public ReadableFile {
 public:
  Reader(std::string path, std::shared_ptr<Journal> journal, Node::Ptr node, int64_t size_bytes)
      : path_(std::move(path)), journal_(std::move(journal)), node_(std::move(node)), size_bytes_(size_bytes) {}
  const std::string& path() const override { return path_; }
  int64_t size_bytes() const override { return size_bytes_; }

  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    std::lock_guard<std::mutex> lock(journal_->mutex);
    const int64_t bytes = static_cast<int64_t>(out.size());
    if (offset < 0 || bytes > size_bytes_ || offset > size_bytes_ - bytes) {
      return ReadPastEndError(path_, offset, bytes, size_bytes_);
    }
    std::copy_n(node_->data.data() + offset, bytes, out.data());
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  const std::shared_ptr<Journal> journal_;
  const Node::Ptr node_;
  const int64_t size_bytes_;
};

class MemoryFileSystem::Writer : public WritableFile {
 public:
  Writer(std::string path, std::shared_ptr<Journal> journal, Node::Ptr node)
      : path_(std::move(path)), journal_(std::move(journal)), node_(std::move(node)) {}
  const std::string& path() const override { return path_; }

  absl::Status Write(int64_t offset, absl::Span<const char> data) override {
    if (offset < 0 || offset > kCapacityBytes - static_cast<int64_t>(data.size())) {
      return ErrnoError(EFBIG, absl::StrCat("write at ", offset, " of \"", path_, "\""));
    }
    std::lock_guard<std::mutex> lock(journal_->mutex);
    Operation operation(Operation::kWrite, node_);
    operation.offset = offset;
    operation.data.assign(data.data(), data.size());
    Journal::WriteInto(node_->data, offset, operation.data);
    journal_->Append(std::move(operation));
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    std::lock_guard<std::mutex> lock(journal_->mutex);
    journal_->SyncData(node_);
    return absl::OkStatus();
  }

  absl::Status Close() override { return absl::OkStatus(); }

 private:
  const std::string path_;
  const std::shared_ptr<Journal> journal_;
  const Node::Ptr node_;
};

class MemoryFileSystem::NodeLock : public FileLock {
 public:
  NodeLock(std::shared_ptr<Journal> journal, Node::Ptr node) : journal_(std::move(journal)), node_(std::move(node)) {}
  ~NodeLock() override {
    std::lock_guard<std::mutex> lock(journal_->mutex);
    node_->lock_holder.clear();
  }

 private:
  const std::shared_ptr<Journal> journal_;
  const Node::Ptr node_;
};

MemoryFileSystem::MemoryFileSystem() : journal_(std::make_shared<Journal>()) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  journal_->root = std::make_shared<Node>();
  journal_->root->is_directory = true;
}

MemoryFileSystem::~MemoryFileSystem() = default;

absl::StatusOr<std::unique_ptr<ReadableFile>> MemoryFileSystem::OpenForRead(const std::string& path,
                                                                            const OpenOptions& /*options*/) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr) {
    return FileNotFoundError(path);
  }
  if (place.node->is_directory) {
    return MakeError(ErrorKind::kIo, absl::StrCat("\"", path, "\" is not a regular file but a directory"));
  }
  const int64_t size_bytes = static_cast<int64_t>(place.node->data.size());
  return std::unique_ptr<ReadableFile>(std::make_unique<Reader>(path, journal_, place.node, size_bytes));
}

absl::StatusOr<std::unique_ptr<WritableFile>> MemoryFileSystem::Create(const std::string& path,
                                                                       const CreateOptions& options) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node != nullptr) {
    return FileExistsError(path);
  }
  if (place.directory == nullptr) {
    return FileNotFoundError(path);
  }
  if (options.size_bytes > kCapacityBytes) {
    return ErrnoError(ENOSPC, absl::StrCat("reserving ", options.size_bytes, " bytes for \"", path, "\""));
  }
  const Node::Ptr node = journal_->Link(place, false);
  if (options.shared) {
    Operation operation(Operation::kWrite, node);
    operation.data.assign(options.size_bytes, '\0');
    Journal::WriteInto(node->data, 0, operation.data);
    journal_->Append(std::move(operation));
  }
  return std::unique_ptr<WritableFile>(std::make_unique<Writer>(path, journal_, node));
}

absl::StatusOr<std::unique_ptr<WritableFile>> MemoryFileSystem::OpenForWrite(const std::string& path,
                                                                             const CreateOptions& options) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr) {
    return FileNotFoundError(path);
  }
  if (place.node->is_directory) {
    return MakeError(ErrorKind::kIo, absl::StrCat("\"", path, "\" is not a regular file but a directory"));
  }
  const auto size_bytes = static_cast<int64_t>(place.node->data.size());
  if (size_bytes != options.size_bytes) {
    return SharedSizeError(path, size_bytes, options.size_bytes);
  }
  return std::unique_ptr<WritableFile>(std::make_unique<Writer>(path, journal_, place.node));
}

absl::StatusOr<FileInfo> MemoryFileSystem::Stat(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr) {
    return FileNotFoundError(path);
  }
  return FileInfo{place.node->is_directory ? FileType::kDirectory : FileType::kFile,
                  static_cast<int64_t>(place.node->data.size()),
                  absl::StrCat(reinterpret_cast<uintptr_t>(place.node.get())), 0};
}

absl::StatusOr<std::string> MemoryFileSystem::RealPath(const std::string& path) {
  WAYPOINT_RETURN_IF_ERROR(Stat(path).status());
  std::string real;
  for (const std::string& component : Journal::Components(path)) {
    absl::StrAppend(&real, "/", component);
  }
  return real.empty() ? "/" : real;
}

absl::StatusOr<std::vector<DirectoryEntry>> MemoryFileSystem::List(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr || !place.node->is_directory) {
    return FileNotFoundError(path);
  }
  std::vector<DirectoryEntry> entries;
  for (const auto& entry : place.node->entries) {
    entries.push_back({entry.first, entry.second->is_directory ? FileType::kDirectory : FileType::kFile});
  }
  return entries;
}

absl::Status MemoryFileSystem::MakeDirectory(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node != nullptr) {
    return FileExistsError(path);
  }
  if (place.directory == nullptr) {
    return FileNotFoundError(path);
  }
  journal_->Link(place, true);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Rename(const std::string& from, const std::string& to) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place source = journal_->Find(from);
  const Place target = journal_->Find(to);
  if (source.node == nullptr || source.directory == nullptr) {
    return FileNotFoundError(from);
  }
  if (target.directory == nullptr) {
    return FileNotFoundError(to);
  }
  if (source.node == target.node) {
    return absl::OkStatus();
  }
  const std::string what = absl::StrCat("rename of \"", from, "\" and \"", to, "\"");
  if (target.node != nullptr && target.node->is_directory != source.node->is_directory) {
    return ErrnoError(target.node->is_directory ? EISDIR : ENOTDIR, what);
  }
  if (target.node != nullptr && !target.node->entries.empty()) {
    return FileExistsError(to);
  }
  const std::vector<std::string> outer = Journal::Components(from);
  const std::vector<std::string> inner = Journal::Components(to);
  if (inner.size() > outer.size() && std::equal(outer.begin(), outer.end(), inner.begin())) {
    return ErrnoError(EINVAL, what);
  }
  Operation operation(Operation::kRename, source.node);
  operation.directory = source.directory;
  operation.name = source.name;
  operation.to_directory = target.directory;
  operation.to_name = target.name;
  source.directory->entries.erase(source.name);
  target.directory->entries[target.name] = source.node;
  journal_->Append(std::move(operation));
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Exchange(const std::string& a, const std::string& b) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place first = journal_->Find(a);
  const Place second = journal_->Find(b);
  if (first.node == nullptr || first.directory == nullptr) {
    return FileNotFoundError(a);
  }
  if (second.node == nullptr || second.directory == nullptr) {
    return FileNotFoundError(b);
  }
  Operation operation(Operation::kExchange, first.node, second.node);
  operation.directory = first.directory;
  operation.name = first.name;
  operation.to_directory = second.directory;
  operation.to_name = second.name;
  first.directory->entries[first.name] = second.node;
  second.directory->entries[second.name] = first.node;
  journal_->Append(std::move(operation));
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::RemoveFile(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr) {
    return FileNotFoundError(path);
  }
  if (place.node->is_directory) {
    return ErrnoError(EISDIR, absl::StrCat("removal of \"", path, "\""));
  }
  journal_->Unlink(place);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::RemoveDirectory(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr) {
    return FileNotFoundError(path);
  }
  if (!place.node->is_directory || place.directory == nullptr || !place.node->entries.empty()) {
    return ErrnoError(!place.node->is_directory    ? ENOTDIR
                      : place.directory == nullptr ? EBUSY
                                                   : ENOTEMPTY,
                      absl::StrCat("removal of \"", path, "\""));
  }
  journal_->Unlink(place);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::SyncDirectory(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr || !place.node->is_directory) {
    return FileNotFoundError(path);
  }
  std::vector<Operation> rest;
  for (Operation& operation : journal_->pending) {
    if (operation.InDirectory(place.node.get())) {
      Journal::ApplyName(
          operation, [](const Node::Ptr& node) -> auto& { return node->durable_entries; }, operation.node,
          operation.other);
    } else {
      rest.push_back(std::move(operation));
    }
  }
  journal_->pending = std::move(rest);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FileLock>> MemoryFileSystem::Lock(const std::string& path) {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const Place place = journal_->Find(path);
  if (place.node == nullptr && place.directory == nullptr) {
    return FileNotFoundError(path);
  }
  const Node::Ptr node = place.node == nullptr ? journal_->Link(place, false) : place.node;
  if (!node->lock_holder.empty()) {
    return FileLockedError(path, node->lock_holder);
  }
  node->lock_holder = FileLockDescription();
  return std::unique_ptr<FileLock>(std::make_unique<NodeLock>(journal_, node));
}

absl::StatusOr<int64_t> MemoryFileSystem::FreeBytes(const std::string& path) {
  WAYPOINT_RETURN_IF_ERROR(Stat(path).status());
  return kCapacityBytes;
}

int MemoryFileSystem::CrashCount(DiskState state) const {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  switch (state) {
    case DiskState::kOneFileDropped:
      return std::max<int>(1, static_cast<int>(journal_->UnsyncedFiles().size()));
    case DiskState::kTornWrite:
      return 3;
    case DiskState::kReordered:
      return static_cast<int>(journal_->pending.size()) + 1;
    default:
      return 1;
  }
}

std::unique_ptr<MemoryFileSystem> MemoryFileSystem::Crash(DiskState state, int index) const {
  std::lock_guard<std::mutex> lock(journal_->mutex);
  const std::vector<Operation>& pending = journal_->pending;
  const std::vector<const Node*> unsynced = journal_->UnsyncedFiles();

  // Copies of nodes as the disk surely holds them.
  std::map<const Node*, Node::Ptr> copies;
  const auto copy_of = [&copies](const Node::Ptr& node, const auto& self) -> Node::Ptr {
    if (node == nullptr) {
      return nullptr;
    }
    Node::Ptr& copy = copies[node.get()];
    if (copy == nullptr) {
      copy = std::make_shared<Node>();
      const Node::Ptr result = copy;
      result->is_directory = node->is_directory;
      result->data = node->durable_data;
      for (const auto& entry : node->durable_entries) {
        result->entries[entry.first] = self(entry.second, self);
      }
      return result;
    }
    return copy;
  };
  const Node::Ptr root = copy_of(journal_->root, copy_of);

  int last_write = -1;
  for (int i = 0; i < static_cast<int>(pending.size()); ++i) {
    last_write = pending[i].kind == Operation::kWrite ? i : last_write;
  }
  for (int i = 0; i < static_cast<int>(pending.size()); ++i) {
    const Operation& operation = pending[i];
    const bool is_write = operation.kind == Operation::kWrite;
    std::string data = operation.data;
    bool reached = true;
    switch (state) {
      case DiskState::kEverything:
        break;
      case DiskState::kOnlySynced:
        reached = false;
        break;
      case DiskState::kZeroedData:
        std::fill(data.begin(), data.end(), '\0');
        break;
      case DiskState::kOneFileDropped:
        reached = !is_write || operation.node.get() != unsynced[index];
        break;
      case DiskState::kTornWrite:
        if (i == last_write) {
          const int64_t torn = index < 2 ? kTornBytes[index] : static_cast<int64_t>(data.size()) / 2;
          data.resize(std::min<size_t>(data.size(), torn));
        }
        break;
      case DiskState::kNamesOnly:
        reached = !is_write;
        break;
      case DiskState::kDataOnly:
        reached = is_write;
        break;
      case DiskState::kReordered:
        reached = i < index || (i == index + 1 && !operation.SharesFileWith(pending[index]));
        break;
    }
    if (!reached) {
      continue;
    }
    const Node::Ptr node = copy_of(operation.node, copy_of);
    if (is_write) {
      Journal::WriteInto(node->data, operation.offset, data);
    } else {
      Journal::ApplyName(
          operation, [&](const Node::Ptr& directory) -> auto& { return copy_of(directory, copy_of)->entries; }, node,
          copy_of(operation.other, copy_of));
    }
  }

  auto after = std::make_unique<MemoryFileSystem>();
  std::lock_guard<std::mutex> after_lock(after->journal_->mutex);
  after->journal_->root = root;
  for (const auto& copy : copies) {
    copy.second->durable_data = copy.second->data;
    copy.second->durable_entries = copy.second->entries;
  }
  return after;
}

}  // namespace waypoint
