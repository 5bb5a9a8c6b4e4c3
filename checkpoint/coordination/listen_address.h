#ifndef CHECKPOINT_COORDINATION_LISTEN_ADDRESS_H_
#define CHECKPOINT_COORDINATION_LISTEN_ADDRESS_H_

// Where a rank listens that others were told to find at a host.  Thread-safe.

#include <sys/socket.h>

#include <string>

namespace waypoint {

struct ListenAddress {
  sockaddr_storage address = {};
  socklen_t length = 0;
};

// That of `host` where it is "localhost" or a numeric address of this machine: nobody else can connect.  All of this
// machine's for any other name or address: what a name means here (Debian's own is 127.0.1.1) need not be what it means
// to the others, and an address may be forwarded to this machine.
//
// For a socket of `family`, AF_INET or AF_INET6 (which takes IPv4 too, in its mapped form); false: such a socket cannot
// listen there.
bool FindListenAddress(const std::string& host, int family, int port, ListenAddress* found);

// A socket that listens there at any free port, not blocking; -1 with errno.
int ListenAt(const std::string& host);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_LISTEN_ADDRESS_H_
