#include "checkpoint/checkpointer/retention.h"

#include <algorithm>
#include <cmath>

namespace waypoint {
namespace {

void KeepBest(const Retention& retention, absl::Span<const RetentionCandidate> candidates, std::vector<bool>& keep) {
  std::vector<size_t> order;
  for (size_t i = 0; i < candidates.size(); ++i) {
    // NaN is left out before sorting: it has no place in an order.
    if (candidates[i].metric.has_value() && !std::isnan(*candidates[i].metric)) {
      order.push_back(i);
    }
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const double x = *candidates[a].metric;
    const double y = *candidates[b].metric;
    if (x != y) {
      return retention.higher_is_better ? x > y : x < y;
    }
    return a > b;
  });
  for (size_t i = 0; i < order.size() && static_cast<int64_t>(i) < retention.keep_best; ++i) {
    keep[order[i]] = true;
  }
}

bool OnInterval(const Retention& retention, int64_t step) {
  return retention.interval > 0 && step % retention.interval == 0;
}

// Whether it counts towards `keep`.
bool IsCounted(const Retention& retention, const RetentionCandidate& candidate) {
  const bool scheduled = candidate.scheduled.value_or(OnInterval(retention, candidate.step));
  return (scheduled || !retention.keep_unscheduled) && !IsKeptForEver(retention, candidate.step);
}

}  // namespace

bool IsKeptForEver(const Retention& retention, int64_t step) {
  // Divided instead of interval * keep_every, which a config could make overflow.
  return retention.keep_every > 0 && OnInterval(retention, step) &&
         step / retention.interval % retention.keep_every == 0;
}

std::vector<size_t> ChooseDeletions(const Retention& retention, absl::Span<const RetentionCandidate> candidates) {
  std::vector<size_t> deletions;
  if (retention.keep <= 0 || candidates.empty()) {
    return deletions;
  }
  std::vector<bool> keep(candidates.size(), false);
  keep.back() = true;
  int64_t counted = 0;
  for (size_t i = candidates.size(); i-- > 0;) {
    if (!IsCounted(retention, candidates[i]) || ++counted <= retention.keep) {
      keep[i] = true;
    }
  }
  KeepBest(retention, candidates, keep);
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (!keep[i] && !candidates[i].stays) {
      deletions.push_back(i);
    }
  }
  return deletions;
}

}  // namespace waypoint
