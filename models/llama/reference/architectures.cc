#include "models/llama/reference/architectures.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"

namespace waypoint::models {
namespace {

// int() of Python, where it is a size.
int64_t Truncate(double value) { return value > 0 && value < 4e18 ? static_cast<int64_t>(value) : 0; }

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// transformers, convert_llama_weights_to_hf.py, compute_intermediate_size.
int64_t TransformersFfnSize(int64_t dim, double multiplier, int64_t multiple_of) {
  return RoundUp(Truncate(multiplier * static_cast<double>(Truncate(8.0 * static_cast<double>(dim) / 3))), multiple_of);
}

// fairseq2, models/llama, GLUFeedForwardNetwork with inner_dim_scale 2/3.
int64_t Fairseq2FfnSize(int64_t dim, double multiplier, int64_t multiple_of) {
  const int64_t inner = Truncate(4.0 * static_cast<double>(dim) * multiplier);
  return RoundUp(Truncate(static_cast<double>(inner) * 2.0 / 3.0), multiple_of);
}

// For Meta's code and transformers' script, and for fairseq2 where it can be had.
bool Makes(const LlamaShape& shape, double multiplier, int64_t multiple_of, bool fairseq2) {
  return FfnSize(shape.dim, multiplier, multiple_of) == shape.ffn &&
         TransformersFfnSize(shape.dim, multiplier, multiple_of) == shape.ffn &&
         (!fairseq2 || Fairseq2FfnSize(shape.dim, multiplier, multiple_of) == shape.ffn);
}

bool IsShape(const LlamaShape& a, const LlamaShape& b) {
  return a.dim == b.dim && a.layers == b.layers && a.heads == b.heads && a.kv_heads == b.kv_heads && a.ffn == b.ffn;
}

}  // namespace

const std::vector<LlamaArchitecture>& LlamaArchitectures() {
  // name, {dim, layers, heads, kv_heads, ffn, vocab}, multiplier, multiple_of, theta, scale, eps, other eps, positions,
  // tied, files, fairseq2's layers, in fairseq2
  static const auto* table = new std::vector<LlamaArchitecture>{
      {"7b", {4096, 32, 32, 32, 11008, 32000}, 1.0, 256, 1e4, 0, 1e-6, 1e-5, 2048, false, 1, 32, true},
      {"13b", {5120, 40, 40, 40, 13824, 32000}, 1.0, 256, 1e4, 0, 1e-6, 1e-5, 2048, false, 2, 32, true},
      {"33b", {6656, 60, 52, 52, 17920, 32000}, 1.0, 256, 1e4, 0, 1e-6, 1e-5, 2048, false, 4, 60, true},
      {"65b", {8192, 80, 64, 64, 22016, 32000}, 1.0, 256, 1e4, 0, 1e-5, 1e-5, 2048, false, 8, 80, true},
      {"llama2_7b", {4096, 32, 32, 32, 11008, 32000}, 1.0, 256, 1e4, 0, 1e-5, 1e-6, 4096, false, 1, 32, true},
      {"llama2_13b", {5120, 40, 40, 40, 13824, 32000}, 1.0, 256, 1e4, 0, 1e-5, 1e-6, 4096, false, 2, 32, true},
      {"llama2_70b", {8192, 80, 64, 8, 28672, 32000}, 1.3, 4096, 1e4, 0, 1e-5, 1e-6, 4096, false, 8, 80, true},
      {"llama3_8b", {4096, 32, 32, 8, 14336, 128256}, 1.3, 1024, 5e5, 0, 1e-5, 1e-5, 8192, false, 1, 32, true},
      {"llama3_70b", {8192, 80, 64, 8, 28672, 128256}, 1.3, 4096, 5e5, 0, 1e-5, 1e-5, 8192, false, 8, 80, true},
      {"llama3_1_8b", {4096, 32, 32, 8, 14336, 128256}, 1.3, 1024, 5e5, 8, 1e-5, 1e-5, 131072, false, 1, 32, true},
      {"llama3_1_70b", {8192, 80, 64, 8, 28672, 128256}, 1.3, 4096, 5e5, 8, 1e-5, 1e-5, 131072, false, 8, 80, true},
      {"llama3_1_405b",
       {16384, 126, 128, 8, 53248, 128256},
       1.2,
       4096,
       5e5,
       8,
       1e-5,
       1e-5,
       131072,
       false,
       8,
       126,
       false},
      {"llama3_2_1b", {2048, 16, 32, 8, 8192, 128256}, 1.5, 256, 5e5, 32, 1e-5, 1e-5, 131072, true, 1, 16, true},
      {"llama3_2_3b", {3072, 28, 24, 8, 8192, 128256}, 1.0, 256, 5e5, 32, 1e-5, 1e-5, 131072, true, 1, 28, true},
      {"llama3_3_70b", {8192, 80, 64, 8, 28672, 128256}, 1.3, 4096, 5e5, 8, 1e-5, 1e-5, 131072, false, 8, 80, false},
  };
  return *table;
}

absl::StatusOr<const LlamaArchitecture*> FindLlamaArchitecture(absl::string_view name) {
  absl::string_view wanted = name;
  absl::ConsumeSuffix(&wanted, "_chat");
  absl::ConsumeSuffix(&wanted, "_instruct");
  absl::ConsumePrefix(&wanted, "llama_");
  std::vector<std::string> names;
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    if (wanted == architecture.name) {
      return &architecture;
    }
    names.push_back(architecture.name);
  }
  return MakeError(ErrorKind::kRequest, absl::StrCat("model: there is no architecture \"", name, "\"; known are ",
                                                     absl::StrJoin(names, ", ")));
}

std::vector<const LlamaArchitecture*> ArchitecturesOfShape(const LlamaShape& shape) {
  std::vector<const LlamaArchitecture*> found;
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    if (IsShape(architecture.shape, shape) && architecture.shape.vocab == shape.vocab) {
      found.push_back(&architecture);
    }
  }
  return found;
}

std::vector<const LlamaArchitecture*> ArchitecturesLike(const LlamaShape& shape) {
  // A 70b of Llama 3 with more tokens is like one of Llama 2 as well, but less so.
  LlamaShape original = shape;
  original.vocab = 0;
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    if (IsShape(architecture.shape, shape) && architecture.shape.vocab <= shape.vocab) {
      original.vocab = std::max(original.vocab, architecture.shape.vocab);
    }
  }
  return ArchitecturesOfShape(original);
}

int64_t FfnSize(int64_t dim, double multiplier, int64_t multiple_of) {
  int64_t hidden = Truncate(static_cast<double>(2 * (4 * dim)) / 3);
  if (multiplier != 1.0) {
    hidden = Truncate(multiplier * static_cast<double>(hidden));
  }
  return multiple_of > 0 && hidden < (int64_t{1} << 60) ? RoundUp(hidden, multiple_of) : 0;
}

absl::StatusOr<FfnParams> FindFfnParams(const LlamaShape& shape) {
  // Whatever else the model changed, for example its vocabulary.
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    if (architecture.shape.dim == shape.dim && architecture.shape.ffn == shape.ffn) {
      return FfnParams{architecture.ffn_dim_multiplier, architecture.multiple_of};
    }
  }
  std::vector<int64_t> multiples = {256};  // Meta's default first
  for (int64_t multiple = 4096; multiple >= 1; multiple /= 2) {
    multiples.push_back(multiple);
  }
  for (const double multiplier : {1.0, 1.3, 1.5, 1.2}) {
    for (const int64_t multiple_of : multiples) {
      if (Makes(shape, multiplier, multiple_of, /*fairseq2=*/true)) {
        return FfnParams{multiplier, multiple_of};
      }
    }
  }
  // The fewest decimals that do; the middle of what truncates to the size is hit first.
  const double base = std::floor(8.0 * static_cast<double>(shape.dim) / 3.0);
  for (const bool fairseq2 : {true, false}) {
    double scale = 1;
    for (int decimals = 1; decimals <= 7; ++decimals) {
      scale *= 10;
      for (const double wanted : {static_cast<double>(shape.ffn), static_cast<double>(shape.ffn) + 0.5}) {
        const double multiplier = std::round(wanted / base * scale) / scale;
        for (const int64_t multiple_of : multiples) {
          if (multiplier > 0 && Makes(shape, multiplier, multiple_of, fairseq2)) {
            return FfnParams{multiplier, multiple_of};
          }
        }
      }
    }
  }
  return MakeError(ErrorKind::kUnsupported,
                   absl::StrCat("no ffn_dim_multiplier and multiple_of make a hidden layer of ", shape.ffn, " for dim ",
                                shape.dim, ", and params.json has no other way to say it"));
}

}  // namespace waypoint::models
