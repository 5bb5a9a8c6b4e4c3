#ifndef CHECKPOINT_FORMAT_FORMAT_OPTIONS_H_
#define CHECKPOINT_FORMAT_FORMAT_OPTIONS_H_

// Options that a format declares for itself: checking and choosing among them.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

enum class FormatUse { kLoad, kSave };

// Every format calls it first, with its own options.
// Errors: E_REQUEST for a name that the format does not declare for this use, and for a switch that is neither "true"
// nor "false"; lists the choices.
absl::Status CheckFormatOptions(const CheckpointFormat& format, const FormatOptionValues& values, FormatUse use);

// Those of `values` that the format declares for this use.
FormatOptionValues SelectFormatOptions(const CheckpointFormat& format, const FormatOptionValues& values, FormatUse use);

// "--model-parallel N, --emit-rope-freqs", or "none".
std::string FormatOptionsText(const CheckpointFormat& format, FormatUse use);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_FORMAT_OPTIONS_H_
