#include "checkpoint/container/chunk_plan.h"

#include <algorithm>

namespace waypoint {
namespace {

// What may be read along for tensors that are needed whole, of what may be for others.
constexpr double kWholeShare = 0.125;
// Spent in any case: what lies around the tensors of a small file.
constexpr double kLeastBudgetBytes = 256 << 10;

}  // namespace

int64_t ChunkPlan::BytesOf(int64_t file, int64_t chunk) const {
  return std::min(files_[file].chunk_bytes, files_[file].file_bytes - chunk * files_[file].chunk_bytes);
}

void ChunkPlan::Need(int64_t file, int64_t offset, int64_t bytes) {
  const auto [file_bytes, chunk_bytes] = files_[file];
  if (chunk_bytes == 0) {
    return;
  }
  std::vector<Chunk>& chunks = chunks_[file];
  if (chunks.empty()) {
    chunks.resize((file_bytes + chunk_bytes - 1) / chunk_bytes);
  }
  const int64_t end = offset + bytes;
  for (int64_t chunk = offset / chunk_bytes; chunk * chunk_bytes < end; ++chunk) {
    const int64_t begin = std::max(offset, chunk * chunk_bytes);
    const int64_t part = std::min(end, (chunk + 1) * chunk_bytes) - begin;
    chunks[chunk].needed_bytes =
        static_cast<int32_t>(std::min(BytesOf(file, chunk), chunks[chunk].needed_bytes + part));
  }
}

void ChunkPlan::Cut(int64_t file, int64_t begin, int64_t end) {
  std::vector<Chunk>& chunks = chunks_[file];
  const int64_t chunk_bytes = files_[file].chunk_bytes;
  for (int64_t chunk = chunks.empty() ? end : begin / chunk_bytes; chunk * chunk_bytes < end; ++chunk) {
    chunks[chunk].cut = true;
  }
}

void ChunkPlan::Decide(double over_read) {
  struct Partly {
    int64_t extra_bytes;
    Chunk* chunk;
  };
  std::vector<Partly> partly[2];  // by `cut`
  double needed_bytes[2] = {0, 0};
  for (size_t file = 0; file < files_.size(); ++file) {
    for (size_t i = 0; i < chunks_[file].size(); ++i) {
      Chunk& chunk = chunks_[file][i];
      chunk.left_bytes = chunk.needed_bytes;
      needed_bytes[chunk.cut] += chunk.needed_bytes;
      const int64_t extra_bytes = BytesOf(static_cast<int64_t>(file), static_cast<int64_t>(i)) - chunk.needed_bytes;
      if (chunk.needed_bytes > 0 && extra_bytes > 0) {
        partly[chunk.cut].push_back({extra_bytes, &chunk});
      }
    }
  }
  for (const bool cut : {false, true}) {
    double budget = std::max(kLeastBudgetBytes, needed_bytes[cut] * over_read * (cut ? 1 : kWholeShare));
    // Stable: the same on every run.
    std::stable_sort(partly[cut].begin(), partly[cut].end(),
                     [](const Partly& a, const Partly& b) { return a.extra_bytes < b.extra_bytes; });
    for (const Partly& one : partly[cut]) {
      budget -= static_cast<double>(one.extra_bytes);
      one.chunk->by_parts = budget < 0;
    }
  }
}

ChunkPlan::Chunk* ChunkPlan::Find(int64_t file, int64_t chunk) {
  if (chunks_[file].empty() || chunks_[file][chunk].needed_bytes == 0) {
    return nullptr;
  }
  return &chunks_[file][chunk];
}

}  // namespace waypoint
