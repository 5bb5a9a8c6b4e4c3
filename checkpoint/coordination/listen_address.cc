#include "checkpoint/coordination/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace waypoint {
namespace {

sockaddr_in& V4(ListenAddress& address) { return reinterpret_cast<sockaddr_in&>(address.address); }
sockaddr_in6& V6(ListenAddress& address) { return reinterpret_cast<sockaddr_in6&>(address.address); }

ListenAddress AnyAddress(int family, int port) {
  ListenAddress any;
  any.address.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET) {
    V4(any).sin_port = htons(static_cast<uint16_t>(port));
    any.length = sizeof(sockaddr_in);
  } else {
    V6(any).sin6_port = htons(static_cast<uint16_t>(port));
    any.length = sizeof(sockaddr_in6);
  }
  return any;
}

// Only what is bound to an address of this machine succeeds.
bool IsOfThisMachine(const ListenAddress& address) {
  ListenAddress anyhow = address;
  if (address.address.ss_family == AF_INET) {
    V4(anyhow).sin_port = 0;
  } else {
    V6(anyhow).sin6_port = 0;
  }
  const int file = socket(address.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool bound = file >= 0 && bind(file, reinterpret_cast<const sockaddr*>(&anyhow.address), anyhow.length) == 0;
  if (file >= 0) {
    close(file);
  }
  return bound;
}

int ListenAt(const std::string& host, int family) {
  ListenAddress where;
  if (!FindListenAddress(host, family, 0, &where)) {
    errno = EADDRNOTAVAIL;
    return -1;
  }
  const int file = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (file < 0) {
    return -1;
  }
  const int no = 0;
  if ((family == AF_INET6 && setsockopt(file, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) != 0) ||
      bind(file, reinterpret_cast<const sockaddr*>(&where.address), where.length) != 0 ||
      listen(file, SOMAXCONN) != 0) {
    const int error = errno;
    close(file);
    errno = error;
    return -1;
  }
  return file;
}

}  // namespace

bool FindListenAddress(const std::string& host, int family, int port, ListenAddress* found) {
  const std::string numeric = host == "localhost" ? "127.0.0.1" : host;
  in_addr four = {};
  in6_addr six = {};
  const bool is_four = inet_pton(AF_INET, numeric.c_str(), &four) == 1;
  const bool is_six = !is_four && inet_pton(AF_INET6, numeric.c_str(), &six) == 1;
  *found = AnyAddress(family, port);
  if (is_four && family == AF_INET) {
    V4(*found).sin_addr = four;
  } else if (is_four) {
    uint8_t* const bytes = V6(*found).sin6_addr.s6_addr;
    bytes[10] = bytes[11] = 0xff;
    std::memcpy(bytes + 12, &four, sizeof(four));
  } else if (is_six && family == AF_INET6) {
    V6(*found).sin6_addr = six;
  } else {
    return !is_six;
  }
  if (!IsOfThisMachine(*found)) {
    *found = AnyAddress(family, port);
  }
  return true;
}

int ListenAt(const std::string& host) {
  const int file = ListenAt(host, AF_INET6);
  return file >= 0 ? file : ListenAt(host, AF_INET);  // a machine without IPv6
}

}  // namespace waypoint
