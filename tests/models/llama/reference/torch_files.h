#ifndef TESTS_MODELS_LLAMA_REFERENCE_TORCH_FILES_H_
#define TESTS_MODELS_LLAMA_REFERENCE_TORCH_FILES_H_

// The tensors of consolidated.NN.pth as they lie in one file, without anything of the format under test.

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/container/torch_zip/torch_sink.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/transfer.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {

struct FileTensor {
  DType dtype = DType::kInvalid;
  Dims shape;
  std::vector<char> bytes;

  friend bool operator==(const FileTensor& a, const FileTensor& b) {
    return a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes;
  }
};
using FileTensors = std::map<std::string, FileTensor>;

inline TorchContents ReadListing(FileSystem& fs, const std::string& path) {
  const auto file = fs.OpenForRead(path, {});
  EXPECT_OK(file);
  auto contents = ReadTorchFile(**file, {});
  EXPECT_OK(contents);
  return contents.ok() ? *std::move(contents) : TorchContents();
}

inline FileTensors ReadTorchTensors(FileSystem& fs, const std::string& path) {
  std::vector<TorchContents> files;
  files.push_back(ReadListing(fs, path));
  const auto source = TorchSource::Create(fs, std::move(files), {});
  EXPECT_OK(source);
  FileTensors tensors;
  for (int64_t i = 0; i < (*source)->manifest().size(); ++i) {
    const TensorMeta& meta = (*source)->manifest()[i];
    tensors[meta.name] = {meta.dtype, meta.shape, ReadWhole(**source, i).value()};
  }
  return tensors;
}

inline void WriteTorchTensors(FileSystem& fs, const std::string& directory, const std::string& name,
                              const FileTensors& tensors) {
  MemorySource source;
  TorchFilePlan plan;
  plan.name = name;
  for (const auto& [key, tensor] : tensors) {
    plan.entries.push_back({key, source.manifest().size()});
    source.Add(key, tensor.dtype, tensor.shape, tensor.bytes);
  }
  const std::string path = JoinPath(directory, name);
  if (Exists(fs, path).value()) {
    ASSERT_OK(RemoveTree(fs, path));
  }
  const auto sink = TorchSink::Create(fs, directory, source.manifest(), {plan}, int64_t{1} << 20);
  ASSERT_OK(sink);
  ASSERT_OK(Transfer(source, **sink, {}));
}

}  // namespace waypoint::models

#endif  // TESTS_MODELS_LLAMA_REFERENCE_TORCH_FILES_H_
