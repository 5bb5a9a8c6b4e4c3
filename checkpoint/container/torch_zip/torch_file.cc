#include "checkpoint/container/torch_zip/torch_file.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"
#include "checkpoint/container/torch_zip/legacy_file.h"
#include "checkpoint/container/torch_zip/pickle_machine.h"
#include "checkpoint/container/torch_zip/torch_listing.h"
#include "checkpoint/container/torch_zip/zip_directory.h"
#include "checkpoint/container/torch_zip/zip_entry_stream.h"

namespace waypoint {
namespace {

constexpr absl::string_view kPickleName = "data.pkl";
constexpr absl::string_view kDataPrefix = "data/";
// caffe2/serialize/versions.h, kMinSupportedFileFormatVersion and kMaxSupportedFileFormatVersion.
constexpr int64_t kMinVersion = 1;
constexpr int64_t kMaxVersion = 10;
// A number and a word.
constexpr int64_t kMarkBytes = 64;

absl::Status CheckVersion(const ReadableFile& file, const ZipDirectory& zip) {
  const ZipEntry* const entry = zip.Find("version") != nullptr ? zip.Find("version") : zip.Find(".data/version");
  if (entry == nullptr) {
    return MakeError(ErrorKind::kZip, absl::StrCat(QuotedPath(file.path()), ": archive ", Quoted(zip.top()),
                                                   " has no entry \"version\"; it was not written by PyTorch"));
  }
  std::string text = "a long text";
  if (entry->bytes <= kMarkBytes) {
    WAYPOINT_ASSIGN_OR_RETURN(text, ReadZipEntry(file, *entry, kMarkBytes, "its limit"));
  }
  int64_t version = 0;
  if (!absl::SimpleAtoi(text, &version) || version < kMinVersion || version > kMaxVersion) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat(QuotedPath(file.path()), ": version is ", Quoted(text), ", versions ", kMinVersion,
                                  " to ", kMaxVersion, " are read"));
  }
  return absl::OkStatus();
}

absl::Status CheckByteOrder(const ReadableFile& file, const ZipDirectory& zip) {
  const ZipEntry* const entry = zip.Find("byteorder");
  if (entry == nullptr) {
    return absl::OkStatus();
  }
  std::string text = "a long text";
  if (entry->bytes <= kMarkBytes) {
    WAYPOINT_ASSIGN_OR_RETURN(text, ReadZipEntry(file, *entry, kMarkBytes, "its limit"));
  }
  if (text != "little") {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat(QuotedPath(file.path()), ": byteorder is ", Quoted(text),
                                                           ", only \"little\" is read"));
  }
  return absl::OkStatus();
}

// What the key of a storage must be to name an entry, and only below data/.
bool IsPlainKey(absl::string_view key) {
  return !key.empty() && !absl::StrContains(key, '/') && !absl::StrContains(key, '\\') && key != "." && key != "..";
}

absl::Status FindStorages(const ZipDirectory& zip, const PickleTree& tree, absl::string_view what,
                          TorchContents* contents) {
  for (const PickleStorage& storage : tree.storages) {
    const auto bytes = StorageBytes(storage);
    if (!bytes.ok()) {
      return Annotate(bytes.status(), what);
    }
    const ZipEntry* const entry = IsPlainKey(storage.key) ? zip.Find(absl::StrCat(kDataPrefix, storage.key)) : nullptr;
    if (entry == nullptr) {
      return MakeError(ErrorKind::kStorage, absl::StrCat(what, ": storage ", Quoted(storage.key), " at byte ",
                                                         storage.at, " has no entry below data/"));
    }
    if (entry->bytes != *bytes) {
      return MakeError(ErrorKind::kStorage,
                       absl::StrCat(what, ": storage ", Quoted(storage.key), " at byte ", storage.at, " has ", *bytes,
                                    " bytes, its entry at ", entry->data_begin, " has ", entry->bytes));
    }
    contents->storages.push_back({std::string(storage.key), entry->data_begin, entry->stored_bytes, entry->bytes,
                                  entry->deflated, entry->crc32});
  }
  return absl::OkStatus();
}

absl::StatusOr<TorchContents> ReadArchive(const ReadableFile& file, const Limits& limits) {
  WAYPOINT_ASSIGN_OR_RETURN(const ZipDirectory zip, ZipDirectory::Read(file, limits));
  for (const ZipEntry& entry : zip.entries()) {
    if (entry.name == "constants.pkl" || absl::StartsWith(entry.name, "code/")) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat(QuotedPath(file.path()), ": is a TorchScript program (it has ", Quoted(entry.name),
                                    "), not weights; save its state_dict instead"));
    }
  }
  WAYPOINT_RETURN_IF_ERROR(CheckVersion(file, zip));
  WAYPOINT_RETURN_IF_ERROR(CheckByteOrder(file, zip));
  const ZipEntry* const entry = zip.Find(kPickleName);
  if (entry == nullptr) {
    return MakeError(ErrorKind::kZip, absl::StrCat(QuotedPath(file.path()), ": archive ", Quoted(zip.top()),
                                                   " has no entry \"data.pkl\"; it was not written by torch.save"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::string pickle, ReadZipEntry(file, *entry, limits.pickle_bytes, "pickle_bytes"));
  const std::string what = absl::StrCat(QuotedPath(file.path()), ": ", Quoted(kPickleName));
  WAYPOINT_ASSIGN_OR_RETURN(const PickleTree tree, RunPickle(pickle, what, PickleOptions(), limits));

  TorchContents contents;
  contents.path = file.path();
  contents.file_bytes = file.size_bytes();
  contents.archive_name = std::string(zip.top());
  WAYPOINT_RETURN_IF_ERROR(FindStorages(zip, tree, what, &contents));
  WAYPOINT_RETURN_IF_ERROR(ListTensors(tree, what, limits, &contents));
  return contents;
}

}  // namespace

absl::StatusOr<TorchContents> ReadTorchFile(const ReadableFile& file, const Limits& limits) {
  if (file.size_bytes() == 0) {
    return MakeError(ErrorKind::kTruncated, absl::StrCat(QuotedPath(file.path()), ": file is empty"));
  }
  std::string start(std::min(file.size_bytes(), kFileKindBytes), '\0');
  WAYPOINT_RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(&start[0], start.size())));
  if (ZipDirectory::Recognises(start)) {
    return ReadArchive(file, limits);
  }
  if (IsLegacyFile(start)) {
    return ReadLegacyFile(file, limits);
  }
  const absl::string_view kind = FileKind(start);
  return MakeError(ErrorKind::kHeader, absl::StrCat(QuotedPath(file.path()), ": no file of torch.save",
                                                    kind.empty() ? "; it begins with neither a zip archive nor the "
                                                                   "mark of PyTorch before 1.6"
                                                                 : absl::StrCat(" but ", kind)));
}

}  // namespace waypoint
