#ifndef CHECKPOINT_CONVERT_CONFIG_CONTEXT_H_
#define CHECKPOINT_CONVERT_CONFIG_CONTEXT_H_

// What a conversion of one config reads from, writes to and remembers.
//
// A context is a view of one place in the external document; Child() makes the view of a place below it, which shares
// the log.  Nothing stops at the first problem: all of them come back together.  One thread.

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/convert/config/json_path.h"

namespace waypoint {

// Problems of one conversion.
class Problems {
 public:
  void Add(ErrorKind kind, std::string message);
  // The status of a failed step; OK adds nothing.
  void Add(const absl::Status& status, absl::string_view context);

  bool empty() const { return messages_.empty(); }
  // OK when empty.  One message of all.  Internal if one is a bug of ours, else E_UNSUPPORTED if one of them is that (a
  // recognised, unsupported model explains the rest), else E_CONFIG.
  absl::Status ToStatus(absl::string_view context) const;

 private:
  bool internal_ = false;
  bool unsupported_ = false;
  std::vector<std::string> messages_;
};

struct ImportLog {
  Problems problems;
  // For the user: defaults that were taken, keys that were carried.
  std::vector<std::string> notes;
  // Each external place that somebody claimed with all below it, and the root declarations (their positions) that did.
  std::map<JsonPath, std::set<size_t>> claims;
  // Position of the root declaration that is running.
  size_t unit = 0;
};

class ImportContext {
 public:
  // Both outlive the context.
  ImportContext(const Json& document, ImportLog* log) : document_(document), log_(log) {}

  // The value, claimed with all below it; nullptr when absent or null.  Paths are relative to the context.
  const Json* Find(absl::string_view path);
  // The same without a claim: for values that belong to somebody else or to nobody.
  const Json* Peek(absl::string_view path) const;
  // Whether the key is there with the value null.
  bool IsNull(absl::string_view path) const;
  void Claim(absl::string_view path);

  // View of an object that is there.  `key` is one segment or more; dots inside of a segment are allowed.
  ImportContext Child(const JsonPath& key) const;
  // The value that this context views.
  const Json* Value() const;

  // `path` is named in front of the message, from the document's root.
  void AddProblem(absl::string_view path, absl::string_view message, ErrorKind kind = ErrorKind::kConfig);
  void AddProblem(absl::string_view path, const absl::Status& status);
  void AddNote(std::string note) { log_->notes.push_back(std::move(note)); }
  bool has_problems() const { return !log_->problems.empty(); }

  // From the document's root.
  std::string FullPath(absl::string_view path) const;

  // Only places under these may be touched until the next call (a section sets them from a declaration's claims).
  void Restrict(std::vector<std::string> external_claims) { allowed_ = std::move(external_claims); }

  ImportLog& log() { return *log_; }

 private:
  bool Allowed(absl::string_view path);

  const Json& document_;
  ImportLog* log_;
  JsonPath prefix_;
  std::vector<std::string> allowed_ = {""};
};

// Which keys a document is written with, where its original does not decide it.
enum class ExternalLayout {
  kTransformers4,  // torch_dtype, rope_theta and rope_scaling; transformers 5 reads it too
  kTransformers5,  // dtype, rope_parameters
};

struct ExportLog {
  struct Write {
    JsonPath path;
    Json value;
    std::string declaration;
    size_t unit;
  };
  Problems problems;
  // In the order in which they came; no place twice.
  std::vector<Write> writes;
  size_t unit = 0;
};

class ExportContext {
 public:
  // `original` is the external document that the config once came from, or null.  All outlive the context.
  ExportContext(const Json* original, ExternalLayout layout, ExportLog* log)
      : original_(original), layout_(layout), log_(log) {}

  // The safe set: a place that is written twice must get the same value, or it is a problem that names both.
  // A null is written only where the original has the key, or where there is no original.
  void Set(absl::string_view path, Json value);

  // The original's value below this context, null included; nullptr when there is none.
  const Json* Original(absl::string_view path) const;
  ExternalLayout layout() const { return layout_; }

  ExportContext Child(const JsonPath& key) const;

  void AddProblem(absl::string_view message, ErrorKind kind = ErrorKind::kConfig);

  // The stable key of the declaration that runs, for messages.
  void set_declaration(std::string key) { declaration_ = std::move(key); }
  // Only places under these may be written until the next call.
  void Restrict(std::vector<std::string> external_claims) { allowed_ = std::move(external_claims); }

  ExportLog& log() { return *log_; }

 private:
  const Json* original_;
  ExternalLayout layout_;
  ExportLog* log_;
  JsonPath prefix_;
  std::string declaration_;
  std::vector<std::string> allowed_ = {""};
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_CONTEXT_H_
