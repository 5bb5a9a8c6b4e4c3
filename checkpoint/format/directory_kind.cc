#include "checkpoint/format/directory_kind.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/json.h"
#include "checkpoint/container/file_kind.h"

namespace waypoint {
namespace {

// Spelled out in one message.
constexpr size_t kNamedEntries = 3;

class Entries {
 public:
  Entries(FileSystem& fs, const std::string& directory) : fs_(fs), directory_(directory) {
    if (auto listed = fs.List(directory); listed.ok()) {
      entries_ = *std::move(listed);
      listed_ = true;
    }
  }

  bool listed() const { return listed_; }
  bool empty() const { return entries_.empty(); }

  bool Has(absl::string_view name) const { return !Named(name, "", name.size()).empty(); }
  bool Any(absl::string_view prefix, absl::string_view suffix) const { return !Named(prefix, suffix, 0).empty(); }
  bool Ends(absl::string_view suffix) const { return Any("", suffix); }
  bool HasDirectory(absl::string_view prefix) const {
    return std::any_of(entries_.begin(), entries_.end(), [prefix](const DirectoryEntry& entry) {
      return entry.type == FileType::kDirectory && absl::StartsWith(entry.name, prefix);
    });
  }

  // Names of entries, of so many bytes unless that is 0.
  std::vector<std::string> Named(absl::string_view prefix, absl::string_view suffix, size_t size) const {
    std::vector<std::string> names;
    for (const DirectoryEntry& entry : entries_) {
      if (absl::StartsWith(entry.name, prefix) && absl::EndsWith(entry.name, suffix) &&
          (size == 0 || entry.name.size() == size)) {
        names.push_back(entry.name);
      }
    }
    return names;
  }

  // Links whose end is not there.
  std::vector<std::string> Dangling() const {
    std::vector<std::string> names;
    for (const DirectoryEntry& entry : entries_) {
      if (entry.type == FileType::kSymlink && absl::IsNotFound(fs_.Stat(JoinPath(directory_, entry.name)).status())) {
        names.push_back(entry.name);
      }
    }
    return names;
  }

  // Folders of snapshots in a model's place in the cache of the Hugging Face Hub.
  std::vector<std::string> Below(absl::string_view name) const {
    std::vector<std::string> names;
    if (const auto below = fs_.List(JoinPath(directory_, name)); below.ok()) {
      for (const DirectoryEntry& entry : *below) {
        if (entry.type == FileType::kDirectory) {
          names.push_back(JoinPath(JoinPath(directory_, name), entry.name));
        }
      }
    }
    return names;
  }

  bool HasWeights() const { return Ends(".safetensors") || Ends(".bin") || Ends(".pth") || Ends(".pt"); }

 private:
  FileSystem& fs_;
  const std::string directory_;
  bool listed_ = false;
  std::vector<DirectoryEntry> entries_;
};

std::string Listed(std::vector<std::string> names) {
  const size_t all = names.size();
  names.resize(std::min(all, kNamedEntries));
  for (std::string& name : names) {
    name = QuotedPath(name);
  }
  return absl::StrCat(absl::StrJoin(names, ", "),
                      all > kNamedEntries ? absl::StrCat(" and ", all - kNamedEntries, " more") : "");
}

struct Kind {
  bool (*is)(const Entries&);
  const char* what;
};

// The first that fits is told, so that what is particular comes before what many have.
constexpr Kind kKinds[] = {
    {[](const Entries& e) { return e.Has(".metadata") || e.Ends(".distcp"); },
     "holds a checkpoint of torch.distributed.checkpoint (DCP: .metadata and *.distcp); make one file of it with "
     "\"python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR pytorch_model.bin\" and put that beside "
     "the model's config.json"},
    {[](const Entries& e) { return e.HasDirectory("pytorch_model_fsdp_"); },
     "holds sharded weights of accelerate's FSDP (pytorch_model_fsdp_0/); merge them with \"accelerate merge-weights "
     "pytorch_model_fsdp_0 OUT\" and put the result beside the model's config.json"},
    {[](const Entries& e) {
       return e.Any("mp_rank_", "_model_states.pt") || e.Has("zero_to_fp32.py") || e.HasDirectory("global_step") ||
              e.Any("zero_pp_rank_", "") || e.Any("bf16_zero_pp_rank_", "");
     },
     "holds a checkpoint of DeepSpeed (mp_rank_*_model_states.pt, global_step*/); make Hugging Face weights of it with "
     "\"python zero_to_fp32.py DIR OUT\", which lies in it, and put the model's config.json beside them"},
    {[](const Entries& e) { return e.Ends(".gguf"); },
     "holds GGUF, llama.cpp's format, mostly quantised; give the Hugging Face directory that it was made from"},
    {[](const Entries& e) { return e.Ends(".ckpt"); },
     "holds a .ckpt as Lightning writes it, weights among a trainer's pickled objects; in Python, torch.save its "
     "\"state_dict\" alone as pytorch_model.bin beside the model's config.json, and convert that with --strip-prefix "
     "where its names begin with one"},
    {[](const Entries& e) { return e.Has("latest_checkpointed_iteration.txt") || e.HasDirectory("iter_"); },
     "holds a checkpoint of Megatron-LM; convert it to Hugging Face's layout with Megatron's own tools first"},
    {[](const Entries& e) { return e.Ends(".nemo") || e.Has("model_weights"); },
     "holds a checkpoint of NeMo; export it to Hugging Face's layout with NeMo's own tools first"},
    {[](const Entries& e) { return e.Has("adapter_config.json") || e.Any("adapter_model", ""); },
     "holds an adapter (adapter_config.json) without the model that it changes; merge the two with peft "
     "(merge_and_unload, then save_pretrained) and give the result"},
    {[](const Entries& e) {
       return e.Has("tf_model.h5") || e.Has("saved_model.pb") || e.Any("", ".ckpt.index") || e.Any("", ".h5") ||
              e.Any("", ".keras");
     },
     "holds weights of TensorFlow; load them in transformers with from_tf=True and give what save_pretrained writes"},
    {[](const Entries& e) { return e.Ends(".msgpack"); },
     "holds weights of Flax; load them in transformers with from_flax=True and give what save_pretrained writes"},
    {[](const Entries& e) { return e.Has("_CHECKPOINT_METADATA") || e.Has("ocdbt.process_0"); },
     "holds a checkpoint of Orbax (JAX); export it to Hugging Face's layout with the tools of its model first"},
    {[](const Entries& e) { return e.Ends(".onnx") || e.Ends(".onnx_data"); },
     "holds ONNX, a graph for inference; give the Hugging Face directory that it was exported from"},
    {[](const Entries& e) { return e.Ends(".npz"); },
     "holds weights of MLX (.npz); give the Hugging Face directory that they were made from"},
    {[](const Entries& e) { return e.Has("consolidated.safetensors"); },
     "holds Mistral's own layout (consolidated.safetensors); give the Hugging Face directory of the model"},
    {[](const Entries& e) { return e.Has("model_index.json"); }, "holds a pipeline of diffusers, no language model"},
    {[](const Entries& e) { return e.HasDirectory("checkpoint-"); },
     "is the output of transformers' Trainer; give one of its checkpoint-N folders"},
    {[](const Entries& e) { return e.Ends(".dvc"); },
     "holds pointers of DVC (*.dvc) in place of files; fetch them with \"dvc pull\""},
    {[](const Entries& e) {
       return e.Has("optimizer.pt") || e.Has("scheduler.pt") || e.Has("trainer_state.json") || e.Has("optimizer.bin");
     },
     "holds what a trainer keeps beside a model (optimizer, schedule, random states) but no model; give the directory "
     "with config.json and the weights"},
    {[](const Entries& e) {
       return (e.Ends(".safetensors") || e.Any("pytorch_model", ".bin")) && !e.Has("config.json");
     },
     "holds weights but no config.json, without which nobody knows what model they are; copy the config.json of the "
     "model beside them"},
    {[](const Entries& e) { return e.HasWeights() && !e.Has("config.json"); },
     "holds weights under names that no format has; a Hugging Face directory has config.json and model.safetensors or "
     "pytorch_model.bin, Meta's params.json and consolidated.00.pth, fairseq2's model.pt"},
    {[](const Entries& e) { return e.Any("tokenizer", "") || e.Has("vocab.json") || e.Has("merges.txt"); },
     "holds a tokenizer but no model"},
    {[](const Entries& e) { return e.Has("params.json") || e.Has("checklist.chk"); },
     "holds what lies beside Meta's weights, but no consolidated.00.pth; download those too"},
};

// By the end of a file's name.
struct FileName {
  const char* suffix;
  const char* what;
  bool shown_by_inspect = false;
};
constexpr FileName kFiles[] = {
    {".safetensors",
     "a file of safetensors; a checkpoint is the directory that it lies in, named model.safetensors, with its "
     "config.json beside it",
     true},
    {".bin",
     "a file of PyTorch; a checkpoint is the directory that it lies in, named pytorch_model.bin, with its config.json "
     "beside it",
     true},
    {".pth",
     "a file of PyTorch; a checkpoint is the directory that it lies in: Meta's as consolidated.00.pth with a "
     "params.json, any state dict with Hugging Face's names as pytorch_model.bin with its config.json",
     true},
    {".pt",
     "a file of PyTorch; a checkpoint is the directory that it lies in: fairseq2's as model.pt, any state dict with "
     "Hugging Face's names as pytorch_model.bin with its config.json",
     true},
    {".ckpt",
     "a file of Lightning, weights among a trainer's pickled objects; in Python, torch.save its \"state_dict\" alone "
     "as "
     "pytorch_model.bin and put that into a directory with the model's config.json"},
    {".gguf", "a GGUF file, llama.cpp's format; give the Hugging Face directory that it was made from"},
    {".json", "a JSON file; give the directory that it lies in"},
    {".onnx", "an ONNX graph; give the Hugging Face directory that it was exported from"},
    {".h5", "weights of TensorFlow or Keras; load them in transformers and give what save_pretrained writes"},
    {".msgpack", "weights of Flax; load them in transformers and give what save_pretrained writes"},
    {".npz", "arrays of NumPy; give the Hugging Face directory that they were made from"},
    {".distcp", "a part of a checkpoint of torch.distributed.checkpoint; see what its directory is told"},
    {".nemo", "a checkpoint of NeMo; export it to Hugging Face's layout with NeMo's own tools first"},
};

}  // namespace

std::string DirectoryKind(FileSystem& fs, const std::string& directory) {
  const Entries entries(fs, directory);
  if (!entries.listed()) {
    return "";
  }
  if (entries.empty()) {
    return "is empty: nothing was downloaded, or mounted, here";
  }
  if (const auto dangling = entries.Dangling(); !dangling.empty()) {
    return absl::StrCat("holds links that lead nowhere: ", Listed(dangling),
                        "; bring back what they point to (of the Hub's cache: the blobs folder; of git-annex: \"git "
                        "annex get\"), or download the files again");
  }
  if (entries.Has("snapshots") && (entries.Has("refs") || entries.Has("blobs"))) {
    const std::vector<std::string> snapshots = entries.Below("snapshots");
    return absl::StrCat(
        "is a model's place in the cache of the Hugging Face Hub, whose files are in "
        "snapshots/<revision>; ",
        snapshots.empty() ? "there is none, so download the model" : "give ", Listed(snapshots));
  }
  if (const auto models = entries.Named("models--", "", 0); !models.empty()) {
    return absl::StrCat("is a cache of the Hugging Face Hub; give the folder of one model: ", Listed(models));
  }
  const auto kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                 [&entries](const Kind& candidate) { return candidate.is(entries); });
  return kind == std::end(kKinds) ? "" : kind->what;
}

std::string FileInPlaceOfDirectory(FileSystem& fs, const std::string& path) {
  for (const FileName& file : kFiles) {
    if (absl::EndsWith(path, file.suffix)) {
      return absl::StrCat("is a file, no directory: ", file.what,
                          file.shown_by_inspect ? "; \"inspect\" shows what is in it" : "");
    }
  }
  std::string kind;
  if (const auto file = fs.OpenForRead(path, OpenOptions()); file.ok()) {
    std::string start(std::min((*file)->size_bytes(), kFileKindBytes), '\0');
    if ((*file)->Read(0, absl::MakeSpan(&start[0], start.size())).ok()) {
      kind = std::string(FileKind(start));
    }
  }
  return absl::StrCat("is no directory", kind.empty() ? "" : absl::StrCat(" but ", kind));
}

}  // namespace waypoint
