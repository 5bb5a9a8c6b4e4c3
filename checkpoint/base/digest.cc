#include "checkpoint/base/digest.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace waypoint {
namespace {

// libcrypto fails here only without memory or without its default provider; a wrong digest would be worse than an end.
void RequireCrypto(int ok) {
  if (ok != 1) {
    std::abort();
  }
}

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;

}  // namespace

uint64_t Xxh3(absl::Span<const char> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

struct Xxh3Stream::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) { XXH3_64bits_reset(state_->xxh); }
Xxh3Stream::~Xxh3Stream() = default;

void Xxh3Stream::Update(absl::Span<const char> bytes) { XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size()); }

uint64_t Xxh3Stream::Digest() const { return XXH3_64bits_digest(state_->xxh); }

std::string DigestHex(uint64_t digest) { return absl::StrCat(absl::Hex(digest, absl::kZeroPad16)); }

struct Sha256::State {
  Context context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  RequireCrypto(state_->context != nullptr && EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::Update(absl::Span<const char> bytes) {
  RequireCrypto(EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()));
}

std::string Sha256::Hex() const {
  // Finishing ends a context, hence the copy.
  const Context copy(EVP_MD_CTX_new());
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  RequireCrypto(copy != nullptr && EVP_MD_CTX_copy_ex(copy.get(), state_->context.get()) == 1 &&
                EVP_DigestFinal_ex(copy.get(), digest, &bytes) == 1);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), bytes));
}

}  // namespace waypoint
