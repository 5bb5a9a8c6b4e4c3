#include "checkpoint/container/torch_zip/legacy_file.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/pickle_machine.h"
#include "checkpoint/container/torch_zip/torch_listing.h"
#include "checkpoint/container/torch_zip/zip_records.h"

namespace waypoint {
namespace {

// 0x1950a86a20f9469cfc6c, little-endian.
constexpr absl::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr int64_t kProtocolVersion = 1001;
constexpr int64_t kCountBytes = 8;
// The magic number's pickle, with the frame that protocol 4 may put around it.
constexpr size_t kMagicPickleBytes = 32;

class LegacyReader {
 public:
  LegacyReader(const ReadableFile& file, const Limits& limits) : file_(file), limits_(limits) {}

  absl::StatusOr<TorchContents> Read() {
    head_.resize(std::min(file_.size_bytes(), limits_.pickle_bytes));
    WAYPOINT_RETURN_IF_ERROR(file_.Read(0, absl::MakeSpan(&head_[0], head_.size())));
    WAYPOINT_ASSIGN_OR_RETURN(const PickleTree magic, Next("magic number"));
    if (magic.kind(magic.root) != PickleKind::kBigInteger || magic.Text(magic.root) != kMagic) {
      return Error(ErrorKind::kHeader, "does not begin with the magic number of PyTorch before 1.6");
    }
    WAYPOINT_ASSIGN_OR_RETURN(const PickleTree version, Next("protocol version"));
    if (version.kind(version.root) != PickleKind::kInteger || version.Integer(version.root) != kProtocolVersion) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat(QuotedPath(file_.path()), ": protocol version is not ", kProtocolVersion));
    }
    WAYPOINT_ASSIGN_OR_RETURN(const PickleTree machine, Next("machine"));
    WAYPOINT_RETURN_IF_ERROR(CheckMachine(machine));
    WAYPOINT_ASSIGN_OR_RETURN(const PickleTree tree, Next("object"));
    const std::string what = absl::StrCat(QuotedPath(file_.path()), ": object");
    WAYPOINT_ASSIGN_OR_RETURN(const PickleTree keys, Next("storage keys"));

    TorchContents contents;
    contents.path = file_.path();
    contents.file_bytes = file_.size_bytes();
    contents.legacy = true;
    WAYPOINT_RETURN_IF_ERROR(FindStorages(tree, keys, &contents));
    WAYPOINT_RETURN_IF_ERROR(ListTensors(tree, what, limits_, &contents));
    return contents;
  }

 private:
  absl::Status Error(ErrorKind kind, absl::string_view problem) const {
    return MakeError(kind, absl::StrCat(QuotedPath(file_.path()), ": ", problem));
  }

  absl::StatusOr<PickleTree> Next(absl::string_view name) {
    PickleOptions options;
    options.legacy_ids = true;
    options.allow_rest = true;
    auto tree = RunPickle(absl::string_view(head_).substr(at_),
                          absl::StrCat(QuotedPath(file_.path()), ": ", name, " at ", at_), options, limits_);
    if (!tree.ok()) {
      return tree;
    }
    at_ += tree->consumed;
    return tree;
  }

  absl::Status CheckMachine(const PickleTree& machine) const {
    const absl::Span<const PickleRef> items = machine.Items(machine.root);
    for (size_t i = 0; machine.IsDict(machine.root) && i < items.size(); i += 2) {
      if (machine.kind(items[i]) == PickleKind::kText && machine.Text(items[i]) == "little_endian" &&
          machine.kind(items[i + 1]) == PickleKind::kBool) {
        return machine.Integer(items[i + 1]) != 0
                   ? absl::OkStatus()
                   : Error(ErrorKind::kUnsupported, "data is big-endian, only little-endian is read");
      }
    }
    return Error(ErrorKind::kSchema, "does not say whether data is little-endian");
  }

  // Storages follow the pickles in the order of the keys.
  absl::Status FindStorages(const PickleTree& tree, const PickleTree& keys, TorchContents* contents) {
    absl::flat_hash_map<absl::string_view, size_t> wanted;
    for (size_t i = 0; i < tree.storages.size(); ++i) {
      wanted.emplace(tree.storages[i].key, i);
    }
    const absl::Span<const PickleRef> items = keys.Items(keys.root);
    if (keys.kind(keys.root) != PickleKind::kList || items.size() != tree.storages.size()) {
      return Error(ErrorKind::kStorage, absl::StrCat("lists ", items.size(), " storage keys, its tensors need ",
                                                     tree.storages.size(), " storages"));
    }
    contents->storages.resize(tree.storages.size());
    int64_t at = at_;
    for (const PickleRef key : items) {
      const auto it = keys.kind(key) == PickleKind::kText ? wanted.find(keys.Text(key)) : wanted.end();
      if (it == wanted.end()) {
        return Error(ErrorKind::kStorage, "lists a storage key twice, or one that no tensor needs");
      }
      const PickleStorage& storage = tree.storages[it->second];
      const auto bytes = StorageBytes(storage);
      if (!bytes.ok()) {
        return Annotate(bytes.status(), QuotedPath(file_.path()));
      }
      const std::string shown = absl::StrCat("storage ", Quoted(storage.key), " at ", at);
      const int64_t left = file_.size_bytes() - at;
      if (left < kCountBytes) {
        return Error(ErrorKind::kTruncated, absl::StrCat(shown, ": the file ends"));
      }
      std::string count(kCountBytes, '\0');
      WAYPOINT_RETURN_IF_ERROR(file_.Read(at, absl::MakeSpan(&count[0], count.size())));
      if (ZipU64(count, 0) != static_cast<uint64_t>(storage.numel)) {
        return Error(ErrorKind::kStorage,
                     absl::StrCat(shown, " has ", ZipU64(count, 0), " elements, its tensors expect ", storage.numel));
      }
      at += kCountBytes;
      if (left - kCountBytes < *bytes) {
        return Error(ErrorKind::kTruncated,
                     absl::StrCat(shown, " has ", *bytes, " bytes, the file has ", left - kCountBytes, " left"));
      }
      TorchStorage& place = contents->storages[it->second];
      place.key = std::string(storage.key);
      place.data_begin = at;
      place.stored_bytes = *bytes;
      place.bytes = *bytes;
      wanted.erase(it);
      at += *bytes;
    }
    if (at != file_.size_bytes()) {
      return Error(ErrorKind::kTrailing,
                   absl::StrCat("the last storage ends at ", at, ", the file has ", file_.size_bytes(), " bytes"));
    }
    return absl::OkStatus();
  }

  const ReadableFile& file_;
  const Limits& limits_;
  std::string head_;
  int64_t at_ = 0;
};

}  // namespace

bool IsLegacyFile(absl::string_view start) {
  return start.size() > 2 && start[0] == '\x80' && absl::StrContains(start.substr(0, kMagicPickleBytes), kMagic);
}

absl::StatusOr<TorchContents> ReadLegacyFile(const ReadableFile& file, const Limits& limits) {
  return LegacyReader(file, limits).Read();
}

}  // namespace waypoint
