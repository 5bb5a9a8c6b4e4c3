#ifndef TESTS_TESTING_ONE_RANK_FORMAT_H_
#define TESTS_TESTING_ONE_RANK_FORMAT_H_

// A format that many ranks cannot write together, to be refused before it is asked for anything.  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/base/error.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

// Neither read nor written.
class OneRankFormat : public CheckpointFormat {
 public:
  // An external one holds no optimizer state.
  explicit OneRankFormat(bool external) : external_(external) {}

  std::string name() const override { return "one_rank"; }
  std::string description() const override { return "written by one rank"; }
  bool external() const override { return external_; }
  bool supports_optimizer_state() const override { return !external_; }
  absl::StatusOr<bool> Probe(FileSystem&, const std::string&) override { return false; }
  absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem&, const std::string&) const override {
    return std::vector<std::string>();
  }
  absl::StatusOr<OpenedCheckpoint> Open(FileSystem&, const std::string&, const LoadOptions&) override {
    return MakeError(ErrorKind::kUnsupported, "not read");
  }
  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem&, const std::string&, const CheckpointMetadata&,
                                                           TensorSource&, const std::vector<Asset>&,
                                                           const SaveOptions&) override {
    return MakeError(ErrorKind::kUnsupported, "not written");
  }

 private:
  const bool external_;
};

}  // namespace waypoint

#endif  // TESTS_TESTING_ONE_RANK_FORMAT_H_
