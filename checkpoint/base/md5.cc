#include "checkpoint/base/md5.h"

#include <openssl/evp.h>

#include <new>
#include <utility>

#include "absl/strings/escaping.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

absl::Status Failed() { return MakeError(ErrorKind::kUnsupported, "OpenSSL of this machine computes no MD5"); }

}  // namespace

struct Md5::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Md5::Md5(std::unique_ptr<State> state) : state_(std::move(state)) {}
Md5::~Md5() = default;
Md5::Md5(Md5&&) noexcept = default;
Md5& Md5::operator=(Md5&&) noexcept = default;

absl::StatusOr<Md5> Md5::Create() {
  std::unique_ptr<State> state(new (std::nothrow) State);
  if (state == nullptr || state->context == nullptr) {
    return NoMemoryError(sizeof(State), "an MD5 context", "free memory");
  }
  if (EVP_DigestInit_ex(state->context, EVP_md5(), nullptr) != 1) {
    return Failed();
  }
  return Md5(std::move(state));
}

absl::Status Md5::Update(absl::Span<const char> bytes) {
  return EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1 ? absl::OkStatus() : Failed();
}

absl::StatusOr<std::string> Md5::Hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  if (EVP_DigestFinal_ex(state_->context, digest, &bytes) != 1) {
    return Failed();
  }
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), bytes));
}

}  // namespace waypoint
