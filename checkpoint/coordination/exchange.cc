#include "checkpoint/coordination/exchange.h"

#include <cstring>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::Status CheckParts(absl::string_view what, const std::vector<int64_t>& sizes, size_t bytes, int world_size) {
  bool fits = static_cast<int>(sizes.size()) == world_size;
  for (const int64_t size : sizes) {
    fits = fits && size >= 0;
  }
  if (!fits || std::accumulate(sizes.begin(), sizes.end(), int64_t{0}) != static_cast<int64_t>(bytes)) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat(what, ": the parts do not make up ", bytes, " bytes for ", world_size, " ranks"));
  }
  return absl::OkStatus();
}

// Pairs (rank, size) of what is not empty, as 8 bytes each: sent, -1, received.
std::string SerializeSizes(const std::vector<int64_t>& sent, const std::vector<int64_t>& received) {
  std::string bytes;
  const auto add = [&bytes](int64_t value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  for (const std::vector<int64_t>* sizes : {&sent, &received}) {
    for (size_t rank = 0; rank < sizes->size(); ++rank) {
      if ((*sizes)[rank] > 0) {
        add(static_cast<int64_t>(rank));
        add((*sizes)[rank]);
      }
    }
    add(-1);
  }
  return bytes;
}

struct Sizes {
  std::vector<int64_t> sent;
  std::vector<int64_t> received;
};

bool ParseSizes(absl::string_view bytes, int world_size, Sizes* parsed) {
  for (std::vector<int64_t>* sizes : {&parsed->sent, &parsed->received}) {
    sizes->assign(world_size, 0);
    while (true) {
      int64_t pair[2];
      if (bytes.size() < sizeof(int64_t)) {
        return false;
      }
      std::memcpy(pair, bytes.data(), sizeof(int64_t));
      if (pair[0] == -1) {
        bytes.remove_prefix(sizeof(int64_t));
        break;
      }
      if (bytes.size() < sizeof(pair) || pair[0] < 0 || pair[0] >= world_size) {
        return false;
      }
      std::memcpy(pair, bytes.data(), sizeof(pair));
      (*sizes)[pair[0]] = pair[1];
      bytes.remove_prefix(sizeof(pair));
    }
  }
  return bytes.empty();
}

}  // namespace

absl::Status Exchange::AllToAll(absl::string_view name, const absl::Status& mine, const RankParts<const char>& send,
                                const RankParts<char>& receive, absl::Duration timeout) {
  const int world_size = ranks_.world_size();
  absl::StatusOr<std::string> vote = std::string();
  if (!mine.ok()) {
    vote = mine;
  } else {
    absl::Status fits = CheckParts(absl::StrCat(name, ", sent"), send.sizes, send.bytes.size(), world_size);
    fits.Update(CheckParts(absl::StrCat(name, ", received"), receive.sizes, receive.bytes.size(), world_size));
    vote = fits.ok() ? absl::StatusOr<std::string>(SerializeSizes(send.sizes, receive.sizes)) : fits;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> votes, ranks_.AllGatherIfOk(name, vote, timeout));
  // Every rank looks at all pairs, so that all come to the same end.
  std::vector<Sizes> sizes(world_size);
  for (int rank = 0; rank < world_size; ++rank) {
    if (!ParseSizes(votes[rank], world_size, &sizes[rank])) {
      return MakeError(ErrorKind::kRank, absl::StrCat("rank ", rank, " sent no sizes at \"", name, "\""));
    }
  }
  for (int from = 0; from < world_size; ++from) {
    for (int to = 0; to < world_size; ++to) {
      if (sizes[from].sent[to] != sizes[to].received[from]) {
        return MakeError(
            ErrorKind::kRank,
            absl::StrCat("\"", name, "\": rank ", from, " sends ", sizes[from].sent[to], " bytes to rank ", to,
                         ", which wants ", sizes[to].received[from], ": the ranks do not run the same program"));
      }
    }
  }
  return ranks_.Agree(absl::StrCat(name, " received"), Move(send, receive, timeout), timeout);
}

absl::Status LocalExchange::Move(const RankParts<const char>& send, const RankParts<char>& receive,
                                 absl::Duration timeout) {
  if (!send.bytes.empty()) {
    std::memcpy(receive.bytes.data(), send.bytes.data(), send.bytes.size());
  }
  return absl::OkStatus();
}

}  // namespace waypoint
