#include "checkpoint/coordination/c10d/listen_where_said.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "checkpoint/coordination/listen_address.h"

namespace waypoint {
namespace {

thread_local const std::string* said_host = nullptr;

// The port of a request for all addresses of the machine; -1 for another one.
int PortOfAnyAddress(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto& four = *reinterpret_cast<const sockaddr_in*>(address);
    return four.sin_addr.s_addr == htonl(INADDR_ANY) ? ntohs(four.sin_port) : -1;
  }
  if (address->sa_family == AF_INET6) {
    const auto& six = *reinterpret_cast<const sockaddr_in6*>(address);
    return IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr) ? ntohs(six.sin6_port) : -1;
  }
  return -1;
}

int Bind(int file, const sockaddr* address, socklen_t length) {
  return static_cast<int>(syscall(SYS_bind, file, address, length));
}

int BindWhereSaid(int file, const sockaddr* address, socklen_t length) {
  const std::string* const host = said_host;
  const int port = host == nullptr ? -1 : PortOfAnyAddress(address);
  ListenAddress where;
  if (port < 0) {
    return Bind(file, address, length);
  }
  if (!FindListenAddress(*host, address->sa_family, port, &where)) {
    errno = EADDRNOTAVAIL;
    return -1;
  }
  return Bind(file, reinterpret_cast<const sockaddr*>(&where.address), where.length);
}

}  // namespace

ListenWhereSaid::ListenWhereSaid(const std::string& host) { said_host = &host; }
ListenWhereSaid::~ListenWhereSaid() { said_host = nullptr; }

}  // namespace waypoint

// The C library's, for all of this program.
extern "C" int bind(int file, const struct sockaddr* address, socklen_t length) noexcept {
  return waypoint::BindWhereSaid(file, address, length);
}
