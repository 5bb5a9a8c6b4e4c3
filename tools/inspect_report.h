#ifndef TOOLS_INSPECT_REPORT_H_
#define TOOLS_INSPECT_REPORT_H_

// What `inspect` found, for people and for scripts.  Does not link libtorch.  Thread-safe.

#include <ostream>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/metadata.pb.h"
#include "nlohmann/json.hpp"
#include "tools/compare_checkpoints.h"
#include "tools/inspected_checkpoint.h"

namespace waypoint {

struct InspectReport {
  const InspectedCheckpoint* checkpoint = nullptr;
  // XXH3 of each tensor, when everything was read back; otherwise empty.
  std::vector<std::string> digests;
  // The same of files (metadata.proto, ConvertedFile): those of OpenedCheckpoint::files, and by asset.
  std::vector<ConvertedFile> file_digests;
  std::vector<std::string> asset_digests;
  // Files that were read and that nothing says of what they should be.
  std::vector<std::string> unchecked;
  bool verified = false;
};

// Names of the files whose bytes no digest, checksum or list guards.
std::vector<std::string> FilesWithoutDigests(const OpenedCheckpoint& opened);

struct DiffReport {
  std::string first;
  std::string second;
  Comparison comparison;
  // Fields of the model configs and keys of the external ones that differ, one per line.
  std::vector<std::string> config_differences;
  // Files that travel along and differ, one per line.
  std::vector<std::string> file_differences;
  // What one config says and the other means without saying it.  No difference.
  std::vector<std::string> written_out;

  bool equal() const { return comparison.equal() && config_differences.empty() && file_differences.empty(); }
};

// Written tensor by tensor: a report may be larger than the header that it speaks of.  Names and values of a file are
// escaped where a terminal would obey them; metadata is cut.
void WriteInspectText(const InspectReport& report, std::ostream& out);
// Names are whole, values of metadata are cut.
void WriteInspectJson(const InspectReport& report, std::ostream& out);

// Of differing tensors, the first `limit` are spelled out.
std::string DiffText(const DiffReport& report, size_t limit);
// All of them.
nlohmann::ordered_json DiffJson(const DiffReport& report);

}  // namespace waypoint

#endif  // TOOLS_INSPECT_REPORT_H_
