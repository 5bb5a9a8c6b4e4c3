#ifndef CHECKPOINT_BASE_REGISTRY_H_
#define CHECKPOINT_BASE_REGISTRY_H_

// Named things that are found at run time: formats, model families.
//
//   Registry<CheckpointFormat>& formats = Registry<CheckpointFormat>::Global();
//   WAYPOINT_REGISTER(CheckpointFormat, "native", NewNativeFormat);   // in a register.cc, alwayslink target
//
// A plug-in gets a Registry& as an argument and never links its own copy of the global one.
// Thread-safe.

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"

namespace waypoint {

template <typename T>
class Registry {
 public:
  using Factory = std::unique_ptr<T> (*)();

  static Registry& Global() {
    static Registry* registry = new Registry;
    return *registry;
  }

  // False, and no change, when the name is taken.
  bool Register(absl::string_view name, Factory factory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return entries_.emplace(std::string(name), Entry{factory, nullptr}).second;
  }

  // The one instance of that name, made at the first call; null when there is none.  Lives as long as the registry.
  T* Find(absl::string_view name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = entries_.find(std::string(name));
    if (it == entries_.end()) {
      return nullptr;
    }
    if (it->second.instance == nullptr) {
      it->second.instance = it->second.factory();
    }
    return it->second.instance.get();
  }

  // Sorted.
  std::vector<std::string> Names() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries_) {
      names.push_back(name);
    }
    return names;
  }

 private:
  struct Entry {
    Factory factory;
    std::unique_ptr<T> instance;
  };

  std::mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace waypoint

#define WAYPOINT_REGISTER_CONCAT_INNER_(a, b) a##b
#define WAYPOINT_REGISTER_CONCAT_(a, b) WAYPOINT_REGISTER_CONCAT_INNER_(a, b)
#define WAYPOINT_REGISTER(Type, name, factory)                                                  \
  [[maybe_unused]] static const bool WAYPOINT_REGISTER_CONCAT_(waypoint_registered_, __LINE__) = \
      ::waypoint::Registry<Type>::Global().Register(name, factory)

#endif  // CHECKPOINT_BASE_REGISTRY_H_
