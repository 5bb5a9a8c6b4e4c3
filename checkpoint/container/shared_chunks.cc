#include "checkpoint/container/shared_chunks.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace waypoint {

// Guarded by the mutex, but for `data` while it is ready, which nobody changes.
struct SharedChunks::Entry {
  enum State { kPromised, kReady, kGone };

  std::pair<int64_t, int64_t> key;
  State state = kPromised;
  AlignedBuffer data;
  int guests = 0;
};

SharedChunks::SharedChunks(ChunkPlan plan, int64_t max_bytes) : max_bytes_(max_bytes), plan_(std::move(plan)) {}

SharedChunks::~SharedChunks() = default;

SharedChunks::Taken SharedChunks::Take(int64_t file, int64_t chunk, int64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ChunkPlan::Chunk* const planned = plan_.Find(file, chunk);
  if (planned == nullptr) {
    return {};
  }
  if (planned->by_parts) {
    return {kParts, nullptr};
  }
  planned->left_bytes -= static_cast<int32_t>(std::min<int64_t>(bytes, planned->left_bytes));
  const auto found = entries_.find({file, chunk});
  if (found != entries_.end()) {
    ++found->second->guests;
    return {kGuest, found->second};
  }
  if (planned->left_bytes == 0) {
    return {};
  }
  auto entry = std::make_shared<Entry>();
  entry->key = {file, chunk};
  entries_.emplace(entry->key, entry);
  return {kOwner, std::move(entry)};
}

void SharedChunks::Publish(const std::shared_ptr<Entry>& entry, absl::Span<const char> data) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (MakeRoom(static_cast<int64_t>(data.size())) && Keep(entry, data)) {
      entry->state = Entry::kReady;
      kept_bytes_ += static_cast<int64_t>(data.size());
      peak_bytes_ = std::max(peak_bytes_, kept_bytes_);
    } else {
      Forget(entry);
    }
  }
  changed_.notify_all();
}

void SharedChunks::GiveUp(const std::shared_ptr<Entry>& entry) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Forget(entry);
  }
  changed_.notify_all();
}

const char* SharedChunks::Wait(const std::shared_ptr<Entry>& entry) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&entry] { return entry->state != Entry::kPromised; });
  return entry->state == Entry::kReady ? entry->data.data() : nullptr;
}

void SharedChunks::Leave(const std::shared_ptr<Entry>& entry) {
  const std::lock_guard<std::mutex> lock(mutex_);
  --entry->guests;
  if (entry->state == Entry::kReady && entry->guests == 0 &&
      plan_.Find(entry->key.first, entry->key.second)->left_bytes == 0) {
    Forget(entry);
  }
}

int64_t SharedChunks::peak_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return peak_bytes_;
}

void SharedChunks::Forget(const std::shared_ptr<Entry>& entry) {
  if (entry->state == Entry::kReady) {
    kept_bytes_ -= static_cast<int64_t>(entry->data.size());
    entry->data = AlignedBuffer();
    kept_.remove(entry);
  }
  entry->state = Entry::kGone;
  entries_.erase(entry->key);
}

// As when there is no room, guests then read the chunk themselves.
bool SharedChunks::Keep(const std::shared_ptr<Entry>& entry, absl::Span<const char> data) {
  try {
    AlignedBuffer copy(data.size());
    std::memcpy(copy.data(), data.data(), data.size());
    kept_.push_back(entry);
    entry->data = std::move(copy);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

// Those that guests look at stay.
bool SharedChunks::MakeRoom(int64_t bytes) {
  for (auto it = kept_.begin(); it != kept_.end() && kept_bytes_ + bytes > max_bytes_;) {
    const std::shared_ptr<Entry> oldest = *it++;
    if (oldest->guests == 0) {
      Forget(oldest);
    }
  }
  return kept_bytes_ + bytes <= max_bytes_;
}

}  // namespace waypoint
