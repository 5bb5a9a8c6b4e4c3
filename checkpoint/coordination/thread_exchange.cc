#include "checkpoint/coordination/thread_exchange.h"

#include <cstring>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// What a rank offers.  The lock is held while somebody copies, so that a rank that gives up, after a timeout say, does
// not free what is being read.
struct Offer {
  std::mutex mutex;
  const RankParts<const char>* parts ABSL_GUARDED_BY(mutex) = nullptr;
};

struct Board {
  explicit Board(size_t world_size) : offers(world_size) {}
  std::vector<Offer> offers;
};

class ThreadExchange : public Exchange {
 public:
  ThreadExchange(Coordinator& ranks, std::shared_ptr<Board> board) : Exchange(ranks), board_(std::move(board)) {}

 protected:
  absl::Status Move(const RankParts<const char>& send, const RankParts<char>& receive,
                    absl::Duration timeout) override {
    Post(&send);
    absl::Status status = ranks().Barrier("buffers offered", timeout);
    if (status.ok()) {
      status = Take(receive);
    }
    // Nobody takes his offer back before all have what they want, unless the job has failed.
    const absl::Status taken = status.ok() ? ranks().Barrier("buffers taken", timeout) : status;
    Post(nullptr);
    return taken;
  }

 private:
  void Post(const RankParts<const char>* parts) {
    Offer& mine = board_->offers[ranks().rank()];
    const std::lock_guard<std::mutex> lock(mine.mutex);
    mine.parts = parts;
  }

  absl::Status Take(const RankParts<char>& receive) {
    const int rank = ranks().rank();
    int64_t to = 0;
    for (size_t from = 0; from < board_->offers.size(); ++from) {
      Offer& offer = board_->offers[from];
      const std::lock_guard<std::mutex> lock(offer.mutex);
      if (offer.parts == nullptr) {
        return MakeError(ErrorKind::kRank, absl::StrCat("rank ", from, " took its buffer back"));
      }
      int64_t begin = 0;
      for (int before = 0; before < rank; ++before) {
        begin += offer.parts->sizes[before];
      }
      if (receive.sizes[from] > 0) {
        std::memcpy(receive.bytes.data() + to, offer.parts->bytes.data() + begin, receive.sizes[from]);
      }
      to += receive.sizes[from];
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<Board> board_;
};

}  // namespace

std::vector<std::unique_ptr<Exchange>> NewThreadExchanges(const std::vector<Coordinator*>& ranks) {
  const auto board = std::make_shared<Board>(ranks.size());
  std::vector<std::unique_ptr<Exchange>> exchanges;
  for (Coordinator* rank : ranks) {
    exchanges.push_back(std::make_unique<ThreadExchange>(*rank, board));
  }
  return exchanges;
}

}  // namespace waypoint
