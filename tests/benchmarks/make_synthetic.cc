// Writes a synthetic Hugging Face checkpoint:  make_synthetic SHAPE DIRECTORY [--dtype bfloat16] [--seed 1]
// [--max-shard-size 5GB]

#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "tests/benchmarks/synthetic_checkpoint.h"
#include "tools/command_line.h"

namespace waypoint {
namespace {

ExitCode Main(int argc, const char* const* argv) {
  std::string shape_name;
  std::string directory;
  std::string dtype = "bfloat16";
  std::string max_shard_size = "5GB";
  uint64_t seed = 1;
  std::vector<std::string> names;
  for (const LlamaShape& shape : KnownShapes()) {
    names.push_back(shape.name);
  }
  CLI::App app("Writes a Hugging Face checkpoint of pseudo-random values.", "make_synthetic");
  app.add_option("SHAPE", shape_name)->required()->check(CLI::IsMember(names));
  app.add_option("DIRECTORY", directory, "must not exist")->required();
  app.add_option("--dtype", dtype)->check(CLI::IsMember({"bfloat16", "float16", "float32"}));
  app.add_option("--seed", seed);
  app.add_option("--max-shard-size", max_shard_size);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitRequest;
  }
  const absl::StatusOr<int64_t> max_shard_bytes = ParseBytes(max_shard_size);
  if (!max_shard_bytes.ok()) {
    return ReportError(max_shard_bytes.status(), false, std::cout, std::cerr);
  }
  for (const LlamaShape& shape : KnownShapes()) {
    if (shape.name == shape_name) {
      const absl::Status status = WriteSyntheticLlama(PosixFileSystem(), shape, DTypeFromTorchName(dtype), seed,
                                                      *max_shard_bytes, ResolvePath(directory));
      return status.ok() ? kExitOk : ReportError(status, false, std::cout, std::cerr);
    }
  }
  return kExitRequest;
}

}  // namespace
}  // namespace waypoint

int main(int argc, char** argv) { return waypoint::Main(argc, argv); }
