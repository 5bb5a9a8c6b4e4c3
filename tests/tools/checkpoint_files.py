"""Reads checkpoints with nothing but Python's standard library, so that the tests do not trust the code they test."""

import collections
import json
import os
import pickle
import shutil
import struct
import subprocess
import tempfile
import zipfile

# Copies: in a test's own tree the files are links that leave the directory, which the tools rightly refuse.
FIXTURES = os.path.join(tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR")), "fixtures")
shutil.copytree("tests/testdata/fixtures", FIXTURES)


def fixtures():
    """Hugging Face checkpoints."""
    return sorted(os.path.join(FIXTURES, name) for name in os.listdir(FIXTURES)
                  if os.path.isdir(os.path.join(FIXTURES, name, "hf")) and not name.startswith("meta_"))


def meta_fixtures():
    """Those in Meta's reference format, in meta/; hf/ is the twin."""
    return sorted(os.path.join(FIXTURES, name) for name in os.listdir(FIXTURES) if name.startswith("meta_"))


FAIRSEQ2_TENSORS = ["decoder_frontend.embed.weight", "decoder.layer_norm.weight", "final_proj.weight"] + [
    "decoder.layers.%d.%s.weight" % (i, name) for i in range(3) for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.output_proj", "self_attn_layer_norm",
        "ffn.gate_proj", "ffn.inner_proj", "ffn.output_proj", "ffn_layer_norm")]


def fairseq2_fixtures():
    """(name, directory, directory of the same model as others wrote it, a params.json for it)"""
    found = []
    for name in sorted(os.listdir(FIXTURES)):
        if name.startswith("fairseq2_"):
            directory = os.path.join(FIXTURES, name, "fairseq2")
            twin = os.path.join(FIXTURES, read_json(FIXTURES, name, "fixture.json")["twin"])
            params = os.path.join(twin, "meta", "params.json")
            if not os.path.exists(params):
                params = os.path.join(os.path.dirname(FIXTURES), name + ".params.json")
                with open(params, "w", encoding="utf-8") as file:
                    # With 172 channels in the hidden layer.
                    json.dump({"dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 320, "multiple_of": 4,
                               "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True}, file)
            found.append((name, directory, twin, params))
    return found


def safetensors_fixtures():
    """Those whose weights are safetensors."""
    return [path for path in fixtures()
            if any(name.endswith(".safetensors") for name in os.listdir(os.path.join(path, "hf")))]


def read_safetensors(path):
    """Returns {name: (dtype, shape, bytes)} and the metadata."""
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return tensors, metadata


def write_safetensors(path, tensors, metadata):
    """The inverse of read_safetensors."""
    header, data = {"__metadata__": metadata}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


STORAGES = {"HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2), "FloatStorage": ("F32", 4)}


class _TorchUnpickler(pickle.Unpickler):
    """Calls nothing but what is written here."""

    def find_class(self, module, name):
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return {("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: arguments[:4],
                ("collections", "OrderedDict"): collections.OrderedDict}[module, name]

    def persistent_load(self, pid):
        assert pid[0] == "storage" and pid[3] == "cpu"
        return pid


def read_torch(path, key=None):
    """Returns {name: (dtype, shape, bytes)} and the groups of names that share a storage.  zipfile checks the CRCs.

    With a key, the tensors are those of the dict under it.
    """
    tensors, sharing = {}, collections.defaultdict(list)
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].split("/")[0]
        with archive.open(top + "/data.pkl") as file:
            root = _TorchUnpickler(file).load()
        root = root if key is None else root[key]
        for name, (storage, offset, shape, strides) in root.items():
            _, (dtype, width), key, _, count = storage
            data = archive.read("%s/data/%s" % (top, key))
            assert len(data) == count * width
            elements = 1
            for size, stride in zip(reversed(shape), reversed(strides)):
                assert stride == elements, "not row-major"
                elements *= size
            tensors[name] = (dtype, list(shape), data[offset * width:(offset + elements) * width])
            sharing[key].append(name)
    return tensors, [names for names in sharing.values() if len(names) > 1]


def read_bin_directory(directory):
    """All tensors of a directory's .bin files, and the groups that share."""
    tensors, shared = {}, []
    for name in sorted(os.listdir(directory)):
        if name.startswith("pytorch_model") and name.endswith(".bin"):
            found, groups = read_torch(os.path.join(directory, name))
            assert not set(found) & set(tensors), "one tensor in two files"
            tensors.update(found)
            shared += groups
    return tensors, shared


def safetensors_files(directory):
    return sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".safetensors"))


def read_directory(directory):
    """All tensors of a directory's safetensors files."""
    tensors = {}
    for path in safetensors_files(directory):
        found, _ = read_safetensors(path)
        assert not set(found) & set(tensors), "one tensor in two files"
        tensors.update(found)
    return tensors


def read_json(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def read_text(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def floats(tensor):
    dtype, _, data = tensor
    assert dtype == "F32"
    return struct.unpack("<%df" % (len(data) // 4), data)


def flip(path, offset):
    """Turns one bit of a byte."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte, = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def run(tool, *arguments):
    """Runs a tool of the project.  Returns the exit code, stdout and stderr."""
    done = subprocess.run([os.path.join("tools", tool), *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", errors="replace", check=False)
    return done.returncode, done.stdout, done.stderr
