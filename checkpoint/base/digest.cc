#include "checkpoint/base/digest.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"

namespace waypoint {
namespace {

// Of an XXH3_state_t, which xxhash.h does not show.
constexpr size_t kXxh3Bytes = 576;
// What libcrypto allocates for a digest, about.
constexpr size_t kContextBytes = 512;

// With an algorithm at hand, libcrypto fails only without memory; a wrong digest would be worse than no save.
void RequireCrypto(bool ok) {
  if (!ok) {
    throw AllocationError(kContextBytes, "a SHA-256 of libcrypto");
  }
}

// Looked up once, in libcrypto's default provider; where that failed for want of memory, at the next call again.
const EVP_MD* Sha256Algorithm() {
  static const EVP_MD* const algorithm = [] {
    EVP_MD* const found = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    if (found == nullptr) {
      throw AllocationError(kContextBytes, "the SHA-256 of libcrypto, unless its default provider is turned off");
    }
    return found;
  }();
  return algorithm;
}

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;

}  // namespace

uint64_t Xxh3(absl::Span<const char> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

struct Xxh3Stream::State {
  State() {
    if (xxh == nullptr) {
      throw AllocationError(kXxh3Bytes, "an XXH3 digest");
    }
  }
  XXH3_state_t* const xxh = XXH3_createState();
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
  RequireCrypto(state_->context != nullptr &&
                EVP_DigestInit_ex(state_->context.get(), Sha256Algorithm(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::Update(absl::Span<const char> bytes) {
  RequireCrypto(EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) == 1);
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
