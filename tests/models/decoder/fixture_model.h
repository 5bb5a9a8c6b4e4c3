#ifndef TESTS_MODELS_DECODER_FIXTURE_MODEL_H_
#define TESTS_MODELS_DECODER_FIXTURE_MODEL_H_

// Hugging Face fixtures as decoder modules, by the shortest way: for tests of the module that must not depend on the
// library's readers and converters.  Throws on anything unexpected.

#include <map>
#include <memory>
#include <string>

#include "ATen/core/Tensor.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/decoder_module.h"

namespace waypoint::models {

// All tensors of a safetensors file.
std::map<std::string, at::Tensor> ReadSafetensors(const std::string& path);

struct Fixture {
  DecoderConfig config;
  // As stored, Hugging Face's names.
  std::map<std::string, at::Tensor> weights;
  at::Tensor input_ids;
  at::Tensor logits;
};

Fixture ReadFixture(const std::string& directory);

// The fixture's weights in a module of the given dtype.
std::unique_ptr<DecoderModule> LoadModule(const Fixture& fixture, at::ScalarType dtype);

}  // namespace waypoint::models

#endif  // TESTS_MODELS_DECODER_FIXTURE_MODEL_H_
