#ifndef CHECKPOINT_COORDINATION_C10D_LISTEN_WHERE_SAID_H_
#define CHECKPOINT_COORDINATION_C10D_LISTEN_WHERE_SAID_H_

// Makes c10d's store listen at the host that it was given.  It binds all addresses of the machine whatever it is told,
// and libtorch 1.13 takes no socket of ours either.  So bind is replaced in programs that link this: it does what the
// kernel does, but for a thread that holds a ListenWhereSaid and asks for all addresses.
//
//   const ListenWhereSaid where(options.host);
//   auto store = c10::make_intrusive<c10d::TCPStore>(options.host, store_options);

#include <string>

namespace waypoint {

// For this thread, as long as it lives.  `host` is borrowed.
class ListenWhereSaid {
 public:
  explicit ListenWhereSaid(const std::string& host);
  ~ListenWhereSaid();
  ListenWhereSaid(const ListenWhereSaid&) = delete;
  ListenWhereSaid& operator=(const ListenWhereSaid&) = delete;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_LISTEN_WHERE_SAID_H_
