#include "checkpoint/coordination/c10d/c10d_exchange.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"
#include "checkpoint/coordination/c10d/process_group.h"

namespace waypoint {
namespace {

at::Tensor Bytes(const char* data, int64_t size) {
  return at::from_blob(const_cast<char*>(data), {size}, at::TensorOptions().dtype(at::kByte));
}

}  // namespace

struct C10dExchange::Group {
  c10::intrusive_ptr<GroupBackend> gloo;
};

C10dExchange::C10dExchange(C10dCoordinator& coordinator, std::unique_ptr<Group> group)
    : Exchange(coordinator), group_(std::move(group)) {}

C10dExchange::~C10dExchange() = default;

absl::StatusOr<std::unique_ptr<C10dExchange>> C10dExchange::Create(C10dCoordinator& coordinator,
                                                                   absl::Duration timeout) {
  auto group = std::make_unique<Group>();
  // Connecting waits, so not before all are here; and every group of a job has keys of its own in the store.
  static std::atomic<int64_t> groups{0};
  const std::string mine = coordinator.rank() == 0 ? absl::StrCat(groups++) : "";
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> names, coordinator.AllGather("exchange", mine, timeout));
  const auto connect = [&]() -> absl::Status {
    C10dOptions options = coordinator.options();
    options.rank_0_serves = false;  // it does already, for the coordinator
    WAYPOINT_ASSIGN_OR_RETURN(const auto store, ConnectC10dStore(options));
    const std::string name = absl::StrCat("waypoint/", coordinator.options().name, "/exchange/", names[0], "/");
    auto gloo = ConnectWatched(
        [store, name, timeout, host = coordinator.options().host, rank = coordinator.rank(),
         size = coordinator.world_size()] { return NewGlooGroup(store, host, name, rank, size, timeout); },
        [&coordinator] { return coordinator.CheckAlive(); });
    if (!gloo.ok()) {
      return Annotate(gloo.status(), absl::StrCat("rank ", coordinator.rank(), " cannot connect to the others"));
    }
    group->gloo = *std::move(gloo);
    return absl::OkStatus();
  };
  WAYPOINT_RETURN_IF_ERROR(coordinator.Agree("exchange connected", connect(), timeout));
  return std::unique_ptr<C10dExchange>(new C10dExchange(coordinator, std::move(group)));
}

absl::Status C10dExchange::Move(const RankParts<const char>& send, const RankParts<char>& receive,
                                absl::Duration timeout) {
  if (group_ == nullptr) {
    return MakeError(ErrorKind::kRank, "the exchange has failed before");
  }
  const int rank = ranks().rank();
  std::vector<std::pair<int, c10::intrusive_ptr<c10d::Work>>> works;
  std::vector<std::vector<at::Tensor>> tensors;  // works keep no hold of them
  const auto wait = std::max(absl::ToChronoMilliseconds(timeout), std::chrono::milliseconds(1));
  int peer = rank;
  try {
    const char* from = send.bytes.data();
    char* to = receive.bytes.data();
    std::vector<const char*> sends;
    for (int other = 0; other < ranks().world_size(); ++other) {
      peer = other;
      sends.push_back(from);
      if (receive.sizes[other] > 0 && other != rank) {
        tensors.push_back({Bytes(to, receive.sizes[other])});
        works.emplace_back(other, group_->gloo->recv(tensors.back(), other, 0));
      } else if (receive.sizes[other] > 0) {
        std::copy_n(from, send.sizes[other], to);
      }
      from += send.sizes[other];
      to += receive.sizes[other];
    }
    for (int other = 0; other < ranks().world_size(); ++other) {
      peer = other;
      if (send.sizes[other] > 0 && other != rank) {
        tensors.push_back({Bytes(sends[other], send.sizes[other])});
        works.emplace_back(other, group_->gloo->send(tensors.back(), other, 0));
      }
    }
    for (auto& [other, work] : works) {
      peer = other;
      work->wait(wait);
    }
  } catch (const std::exception& e) {
    // Gloo's threads may still be at our buffers: they end with the group.
    works.clear();
    group_.reset();
    return ThrownError(e, ErrorKind::kRank, absl::StrCat("bytes from or to rank ", peer));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
