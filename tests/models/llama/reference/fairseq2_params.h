#ifndef TESTS_MODELS_LLAMA_REFERENCE_FAIRSEQ2_PARAMS_H_
#define TESTS_MODELS_LLAMA_REFERENCE_FAIRSEQ2_PARAMS_H_

// params.json as fairseq2 0.3 and 0.4 write it for each of their architectures, 32 layers of a 13b included.

namespace waypoint::models {

struct Fairseq2Literal {
  const char* name;
  const char* text;
};

inline constexpr Fairseq2Literal kFairseq2Params[] = {
    {"7b",
     R"({"model": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})"},
    {"llama2_7b",
     R"({"model": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})"},
    {"13b",
     R"({"model": {"dim": 5120, "n_layers": 32, "n_heads": 40, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})"},
    {"llama2_13b",
     R"({"model": {"dim": 5120, "n_layers": 32, "n_heads": 40, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})"},
    {"33b",
     R"({"model": {"dim": 6656, "n_layers": 60, "n_heads": 52, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})"},
    {"65b",
     R"({"model": {"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})"},
    {"llama2_70b",
     R"({"model": {"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 4096, "rope_theta": 10000.0, "norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3}})"},
    {"llama3_8b",
     R"({"model": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 1024, "rope_theta": 500000.0, "norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3}})"},
    {"llama3_1_8b",
     R"({"model": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 1024, "rope_theta": 500000.0, "norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3}})"},
    {"llama3_70b",
     R"({"model": {"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 4096, "rope_theta": 500000.0, "norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3}})"},
    {"llama3_1_70b",
     R"({"model": {"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 4096, "rope_theta": 500000.0, "norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3}})"},
    {"llama3_2_3b",
     R"({"model": {"dim": 3072, "n_layers": 28, "n_heads": 24, "multiple_of": 256, "rope_theta": 500000.0, "norm_eps": 1e-05, "n_kv_heads": 8}})"},
    {"llama3_2_1b",
     R"({"model": {"dim": 2048, "n_layers": 16, "n_heads": 32, "multiple_of": 256, "rope_theta": 500000.0, "norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.5}})"},
};

}  // namespace waypoint::models

#endif  // TESTS_MODELS_LLAMA_REFERENCE_FAIRSEQ2_PARAMS_H_
