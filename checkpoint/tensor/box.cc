#include "checkpoint/tensor/box.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace waypoint {
namespace {

// One dimension of a copy: sizes and both strides in bytes.
struct Loop {
  int64_t size;
  int64_t from_stride;
  int64_t to_stride;
};

template <int kBytes>
void CopyRun(const char* from, int64_t from_stride, char* to, int64_t to_stride, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * to_stride, from + i * from_stride, kBytes);
  }
}

void CopyInner(const char* from, char* to, const Loop& loop, int64_t bytes) {
  if (loop.from_stride == bytes && loop.to_stride == bytes) {
    std::memcpy(to, from, loop.size * bytes);
    return;
  }
  switch (bytes) {
    case 1:
      return CopyRun<1>(from, loop.from_stride, to, loop.to_stride, loop.size);
    case 2:
      return CopyRun<2>(from, loop.from_stride, to, loop.to_stride, loop.size);
    case 4:
      return CopyRun<4>(from, loop.from_stride, to, loop.to_stride, loop.size);
    case 8:
      return CopyRun<8>(from, loop.from_stride, to, loop.to_stride, loop.size);
    default:
      for (int64_t i = 0; i < loop.size; ++i) {
        std::memcpy(to + i * loop.to_stride, from + i * loop.from_stride, bytes);
      }
  }
}

void CopyLoops(const char* from, char* to, absl::Span<const Loop> loops, int64_t bytes) {
  if (loops.size() == 1) {
    CopyInner(from, to, loops[0], bytes);
    return;
  }
  for (int64_t i = 0; i < loops[0].size; ++i) {
    CopyLoops(from + i * loops[0].from_stride, to + i * loops[0].to_stride, loops.subspan(1), bytes);
  }
}

}  // namespace

std::string ShapeString(absl::Span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

int64_t NumElements(absl::Span<const int64_t> shape) {
  int64_t elements = 1;
  for (const int64_t dim : shape) {
    elements *= dim;
  }
  return elements;
}

Box Box::Whole(absl::Span<const int64_t> shape) {
  Box box;
  box.offsets.assign(shape.size(), 0);
  box.sizes.assign(shape.begin(), shape.end());
  return box;
}

std::string Box::ToString() const {
  return absl::StrCat("[",
                      absl::StrJoin(offsets, ", ",
                                    [this, d = size_t{0}](std::string* out, int64_t offset) mutable {
                                      absl::StrAppend(out, offset, ":", offset + sizes[d++]);
                                    }),
                      "]");
}

bool Contains(absl::Span<const int64_t> shape, const Box& box) {
  if (box.sizes.size() != shape.size() || box.offsets.size() != shape.size()) {
    return false;
  }
  for (size_t d = 0; d < shape.size(); ++d) {
    if (box.offsets[d] < 0 || box.sizes[d] < 0 || box.offsets[d] > shape[d] || box.sizes[d] > shape[d] - box.offsets[d]) {
      return false;
    }
  }
  return true;
}

absl::optional<Box> Intersect(const Box& a, const Box& b) {
  Box common;
  for (int d = 0; d < a.rank(); ++d) {
    const int64_t begin = std::max(a.offsets[d], b.offsets[d]);
    const int64_t end = std::min(a.offsets[d] + a.sizes[d], b.offsets[d] + b.sizes[d]);
    if (begin >= end) {
      return absl::nullopt;
    }
    common.offsets.push_back(begin);
    common.sizes.push_back(end - begin);
  }
  return common;
}

std::vector<Box> FlatRangeToBoxes(absl::Span<const int64_t> shape, int64_t begin, int64_t end) {
  std::vector<Box> boxes;
  const int rank = static_cast<int>(shape.size());
  if (begin >= end) {
    return boxes;
  }
  Dims strides(rank, 1);  // in elements
  for (int d = rank - 2; d >= 0; --d) {
    strides[d] = strides[d + 1] * shape[d + 1];
  }
  while (begin < end) {
    // The outermost dimension at which a whole slice begins here and fits; one more slices than one may follow.
    Box box = Box::Whole(shape);
    int dim = 0;
    while (dim < rank - 1 && (begin % strides[dim] != 0 || end - begin < strides[dim])) {
      ++dim;
    }
    int64_t rest = begin;
    for (int d = 0; d < rank; ++d) {
      const int64_t index = rest / strides[d];
      rest %= strides[d];
      if (d <= dim) {
        box.offsets[d] = index;
        box.sizes[d] = 1;
      }
    }
    int64_t taken = 1;
    if (rank > 0) {
      const int64_t slices = std::min((end - begin) / strides[dim], shape[dim] - box.offsets[dim]);
      box.sizes[dim] = slices;
      taken = slices * strides[dim];
    }
    boxes.push_back(std::move(box));
    begin += taken;
  }
  return boxes;
}

StridedSpan StridedSpan::Contiguous(char* data, int element_bytes, absl::Span<const int64_t> sizes) {
  StridedSpan span;
  span.data = data;
  span.element_bytes = element_bytes;
  span.sizes.assign(sizes.begin(), sizes.end());
  span.strides.resize(sizes.size());
  int64_t stride = element_bytes;
  for (int d = static_cast<int>(sizes.size()) - 1; d >= 0; --d) {
    span.strides[d] = stride;
    stride *= sizes[d];
  }
  return span;
}

bool StridedSpan::IsContiguous() const {
  int64_t stride = element_bytes;
  for (int d = static_cast<int>(sizes.size()) - 1; d >= 0; --d) {
    if (sizes[d] != 1 && strides[d] != stride) {
      return false;
    }
    stride *= sizes[d];
  }
  return true;
}

StridedSpan StridedSpan::Narrow(int dim, int64_t start, int64_t size) const {
  StridedSpan part = *this;
  part.data += start * strides[dim];
  part.sizes[dim] = size;
  return part;
}

StridedSpan StridedSpan::Transpose(absl::Span<const int> permutation) const {
  StridedSpan result = *this;
  for (size_t d = 0; d < permutation.size(); ++d) {
    result.sizes[d] = sizes[permutation[d]];
    result.strides[d] = strides[permutation[d]];
  }
  return result;
}

void ForEachRun(absl::Span<const int64_t> shape, const Box& box, const StridedSpan& span,
                absl::FunctionRef<void(int64_t, int64_t, char*, int64_t)> visit) {
  if (box.empty()) {
    return;
  }
  const int rank = box.rank();
  // Dimensions [first, rank) form a run: all behind the first are whole, and memory goes on evenly.  The stride of a
  // dimension of size 1 means nothing.
  int first = rank;
  int64_t run_elements = 1;
  int64_t run_stride = span.element_bytes;
  bool run_started = false;
  while (first > 0) {
    const int d = first - 1;
    const bool whole_behind = first == rank || box.sizes[first] == shape[first];
    if (!whole_behind) {
      break;
    }
    if (box.sizes[d] != 1) {
      if (!run_started) {
        run_stride = span.strides[d];
        run_started = true;
      } else if (span.strides[d] != run_stride * run_elements) {
        break;
      }
    }
    run_elements *= box.sizes[d];
    first = d;
  }
  Dims index(rank, 0);
  while (true) {
    int64_t begin = 0;
    char* data = span.data;
    for (int d = 0; d < rank; ++d) {
      begin = begin * shape[d] + box.offsets[d] + index[d];
      data += index[d] * span.strides[d];
    }
    visit(begin, run_elements, data, run_stride);
    int d = first - 1;
    while (d >= 0 && ++index[d] == box.sizes[d]) {
      index[d--] = 0;
    }
    if (d < 0) {
      return;
    }
  }
}

void CopyStrided(const StridedSpan& from, const StridedSpan& to) {
  // Dimensions of size 1 do nothing; neighbours that are one run on both sides merge.
  absl::InlinedVector<Loop, 8> loops;
  for (size_t d = 0; d < from.sizes.size(); ++d) {
    if (from.sizes[d] == 0) {
      return;
    }
    if (from.sizes[d] == 1) {
      continue;
    }
    const Loop loop = {from.sizes[d], from.strides[d], to.strides[d]};
    if (!loops.empty() && loops.back().from_stride == loop.size * loop.from_stride &&
        loops.back().to_stride == loop.size * loop.to_stride) {
      loops.back() = {loops.back().size * loop.size, loop.from_stride, loop.to_stride};
    } else {
      loops.push_back(loop);
    }
  }
  if (loops.empty()) {
    loops.push_back({1, from.element_bytes, from.element_bytes});
  }
  CopyLoops(from.data, to.data, loops, from.element_bytes);
}

}  // namespace waypoint
