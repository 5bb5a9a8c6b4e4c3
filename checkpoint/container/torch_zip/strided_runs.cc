#include "checkpoint/container/torch_zip/strided_runs.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

struct Loop {
  int64_t size;
  int64_t stride;        // in the storage, in elements
  int64_t stride_bytes;  // in memory
};

// Far-apart elements in outer loops.  Repeated ones (stride 0) outermost, so that they do not cut runs.
bool IsOuter(const Loop& a, const Loop& b) {
  return a.stride != 0 && b.stride != 0 ? a.stride > b.stride : a.stride == 0 && b.stride != 0;
}

}  // namespace

absl::Status ForEachStridedRun(absl::Span<const int64_t> strides, const Box& box, const StridedSpan& span,
                               absl::FunctionRef<absl::Status(int64_t, int64_t, char*, int64_t)> visit) {
  if (box.empty()) {
    return absl::OkStatus();
  }
  int64_t base = 0;
  absl::InlinedVector<Loop, 8> loops;
  for (int d = 0; d < box.rank(); ++d) {
    base += box.offsets[d] * strides[d];
    if (box.sizes[d] != 1) {
      loops.push_back({box.sizes[d], strides[d], span.strides[d]});
    }
  }
  std::stable_sort(loops.begin(), loops.end(), IsOuter);

  int64_t run_elements = 1;
  int64_t run_stride = span.element_bytes;
  while (!loops.empty() && loops.back().stride == run_elements &&
         (run_elements == 1 || loops.back().stride_bytes == run_stride * run_elements)) {
    if (run_elements == 1) {
      run_stride = loops.back().stride_bytes;
    }
    run_elements *= loops.back().size;
    loops.pop_back();
  }

  absl::InlinedVector<int64_t, 8> index(loops.size(), 0);
  while (true) {
    int64_t begin = base;
    char* data = span.data;
    for (size_t i = 0; i < loops.size(); ++i) {
      begin += index[i] * loops[i].stride;
      data += index[i] * loops[i].stride_bytes;
    }
    WAYPOINT_RETURN_IF_ERROR(visit(begin, run_elements, data, run_stride));
    size_t i = loops.size();
    while (i > 0 && ++index[i - 1] == loops[i - 1].size) {
      index[--i] = 0;
    }
    if (i == 0) {
      return absl::OkStatus();
    }
  }
}

void WithoutRepeats(absl::Span<const int64_t> strides, Box* box, StridedSpan* span) {
  for (int d = 0; d < box->rank(); ++d) {
    if (strides[d] == 0 && box->sizes[d] > 1) {
      box->sizes[d] = 1;
      span->sizes[d] = 1;
    }
  }
}

void FillRepeats(absl::Span<const int64_t> strides, const StridedSpan& span) {
  StridedSpan filled = span;
  for (size_t d = 0; d < strides.size(); ++d) {
    if (span.sizes[d] == 0) {
      return;
    }
    filled.sizes[d] = strides[d] == 0 ? 1 : span.sizes[d];
  }
  for (size_t d = 0; d < strides.size(); ++d) {
    // Twice as many with each copy.
    while (filled.sizes[d] < span.sizes[d]) {
      StridedSpan from = filled;
      from.sizes[d] = std::min(filled.sizes[d], span.sizes[d] - filled.sizes[d]);
      StridedSpan to = from;
      to.data += filled.sizes[d] * span.strides[d];
      CopyStrided(from, to);
      filled.sizes[d] += from.sizes[d];
    }
  }
}

int64_t LeastRunElements(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides) {
  int64_t least = 1;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (strides[d] == 1) {
      least = std::max(least, shape[d]);
    }
  }
  return least;
}

bool IsDense(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides) {
  absl::InlinedVector<Loop, 8> loops;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] != 1) {
      loops.push_back({shape[d], strides[d], 0});
    }
  }
  std::sort(loops.begin(), loops.end(), [](const Loop& a, const Loop& b) { return a.stride < b.stride; });
  int64_t reach = 1;  // elements from the first on that are touched
  for (const Loop& loop : loops) {
    if (loop.stride > reach) {
      return false;
    }
    reach += loop.stride * (loop.size - 1);
  }
  return true;
}

}  // namespace waypoint
