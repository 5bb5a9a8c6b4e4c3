#!/usr/bin/python3
"""Asks PyTorch about files of ours, and us about files of PyTorch.

    check_torch.py TORCH_FILES EXPORT=FIXTURE...

TORCH_FILES is the program of that name; each EXPORT is a directory that was made of FIXTURE or of the same model, both
of Hugging Face, of Meta's reference code or of fairseq2.  Runs with Debian's python3-torch (1.13), prints "interop PASSED" or
"interop FAILED" for each case.  What newer releases demand of a file is checked without them: see properties().
"""

import collections
import ctypes
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile

import torch

WORK = tempfile.mkdtemp()
NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.complex64: "C64",
}
WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
          "C64": 8, "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
          "F8_E8M0": 1}


# --- safetensors, by nothing but this file ----------------------------------------------------------------------------

def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def plain(tensor):
    """A tensor of PyTorch as read_safetensors gives it."""
    whole = tensor.detach().clone(memory_format=torch.contiguous_format)
    raw = ctypes.string_at(whole.data_ptr(), whole.numel() * whole.element_size()) if whole.numel() else b""
    return NAMES[whole.dtype], list(whole.shape), raw


# --- files of ours ----------------------------------------------------------------------------------------------------

def torch_files(*arguments, fails_with=None):
    done = subprocess.run([TORCH_FILES, *map(str, arguments)], stderr=subprocess.PIPE, encoding="utf-8", check=False)
    if fails_with is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1 and done.stderr.startswith(fails_with), done.stderr


def properties(path, more=frozenset()):
    """What every release that has weights_only demands of a file, newer ones included.

    Sources: torch/serialization.py, torch/_weights_only_unpickler.py of PyTorch 2.x.  Returns the pickle's globals.
    `more`: opcodes that the file may have beside those of a plain dict of tensors.
    """
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, "a CRC is wrong"
        names = archive.namelist()
        top = names[0].split("/")[0]
        assert all(name.startswith(top + "/") for name in names), "more than one folder"
        assert archive.read(top + "/version") == b"3\n"
        assert archive.read(top + "/byteorder") == b"little"
        with open(path, "rb") as file:
            for info in archive.infolist():
                assert info.compress_type == zipfile.ZIP_STORED
                file.seek(info.header_offset + 26)
                name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
                assert (info.header_offset + 30 + name_bytes + extra_bytes) % 64 == 0, "data is not aligned"
        text = archive.read(top + "/data.pkl")
    allowed = {"PROTO", "EMPTY_DICT", "MARK", "BINUNICODE", "GLOBAL", "BINPERSID", "BININT", "BININT1", "BININT2", "LONG1",
               "EMPTY_TUPLE", "TUPLE", "NEWFALSE", "REDUCE", "SETITEMS", "STOP"}
    found = set()
    for opcode, argument, _ in pickletools.genops(text):
        assert opcode.name in allowed | more, opcode.name
        assert opcode.name != "PROTO" or argument == 2
        if opcode.name == "GLOBAL":
            found.add(argument)
    storages = {"torch %sStorage" % name for name in (
        "Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double", "ComplexFloat")}
    dtypes = {"torch " + name for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
                                           "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")}
    assert found <= storages | dtypes | {
        "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch.storage UntypedStorage",
        "collections OrderedDict"}, found
    return found


def expect_loads(path, wanted):
    """torch.load gives exactly the tensors of `wanted`, {name: (dtype, shape, bytes)}."""
    for weights_only in (True, False):
        found = torch.load(path, weights_only=weights_only)
        assert type(found) is dict
        assert list(found) == list(wanted), "names or their order"
        for name, tensor in found.items():
            assert plain(tensor) == wanted[name], name
            assert tensor.is_contiguous() and not tensor.requires_grad, name


def random_tensors():
    torch.manual_seed(11)
    tensors = {}
    for dtype, name in NAMES.items():
        for shape in ([], [0], [3, 0, 2], [1], [5], [2, 3, 4], [129, 65]):
            count = 1
            for size in shape:
                count *= size
            raw = bytes(torch.randint(0, 2 if name == "BOOL" else 256, (count * WIDTHS[name],)).tolist())
            tensors["%s %s" % (name, shape)] = (name, shape, raw)
    return tensors


def write_ours(tensors, name, *more):
    directory = tempfile.mkdtemp(dir=WORK)
    given = os.path.join(directory, "given.safetensors")
    write_safetensors(given, tensors)
    torch_files("write", given, directory, name, *more)
    path = os.path.join(directory, name)
    return path, properties(path)


def ours_of_every_dtype():
    tensors = random_tensors()
    # safetensors is written widest elements first, and the file follows it.
    for block_bytes in (1, 300000, 8 << 20):
        path, _ = write_ours(tensors, "all.pth", block_bytes)
        expect_loads(path, tensors)


def ours_empty():
    path, _ = write_ours({}, "empty.pth")
    expect_loads(path, {})


def ours_large():
    torch.manual_seed(5)
    tensors = {"large.%d" % i: plain(torch.rand(700000 + i)) for i in range(4)}
    path, _ = write_ours(tensors, "large.bin", 1 << 20)
    expect_loads(path, tensors)


def ours_of_many_tensors():
    tensors = {"t%d" % i: ("U8", [1], bytes([i % 256])) for i in range(66000)}
    path, _ = write_ours(tensors, "many.bin")
    found = torch.load(path, weights_only=True)
    assert len(found) == len(tensors)
    assert all(int(found["t%d" % i]) == i % 256 for i in range(66000))


def ours_ties_share():
    tensors = {"embedding": plain(torch.rand(6, 4)), "other": plain(torch.rand(2))}
    path, _ = write_ours(tensors, "tied.bin", 1, "head=embedding", "again=embedding")
    found = torch.load(path, weights_only=True)
    assert list(found) == ["embedding", "other", "head", "again"]
    assert found["head"].data_ptr() == found["embedding"].data_ptr() == found["again"].data_ptr()
    assert found["head"].data_ptr() != found["other"].data_ptr()
    assert plain(found["head"]) == tensors["embedding"]


def ours_names():
    names = ["", " ", "a.b", "ключ", "\U0001f600", "new\nline", "x" * 5000]
    tensors = {name: plain(torch.full((2,), float(i))) for i, name in enumerate(names)}
    path, _ = write_ours(tensors, "names.pth")
    expect_loads(path, tensors)


def ours_of_newer_dtypes():
    """Element types that 1.13 does not know: the pickle, called on stand-ins with the signature of 2.1 and later."""
    tensors = {name: (name, [2, 3], bytes(range(6 * WIDTHS[name])))
               for name in ("U16", "U32", "U64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")}
    path, found = write_ours(tensors, "newer.pth")
    assert "torch.storage UntypedStorage" in found

    def rebuild(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
        assert (offset, size, stride, requires_grad, len(hooks), metadata) == (0, (2, 3), (3, 1), False, 0, None)
        return storage, dtype

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            known = {"torch._utils _rebuild_tensor_v3": rebuild,
                     "collections OrderedDict": collections.OrderedDict}
            return known.get(module + " " + name, module + " " + name)

        def persistent_load(self, pid):
            kind, storage_type, key, location, count = pid
            assert (kind, storage_type, location) == ("storage", "torch.storage UntypedStorage", "cpu")
            raw = archive.read("archive/data/" + key)
            assert len(raw) == count
            return raw

    names = {"U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
             "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu"}
    with zipfile.ZipFile(path) as archive:
        rebuilt = Unpickler(io.BytesIO(archive.read("archive/data.pkl"))).load()
    assert rebuilt == {name: (raw, "torch " + names[name]) for name, (_, _, raw) in tensors.items()}


# --- files of PyTorch -------------------------------------------------------------------------------------------------

def expect_read(path, wanted):
    directory = tempfile.mkdtemp(dir=WORK)
    torch_files("read", path, directory)
    found = read_safetensors(os.path.join(directory, "model.safetensors"))
    assert found == wanted, "differ: %s" % (
        sorted(name for name in set(found) | set(wanted) if found.get(name) != wanted.get(name)))


def saved(root, **options):
    descriptor, path = tempfile.mkstemp(suffix=".pth", dir=WORK)
    os.close(descriptor)
    torch.save(root, path, **options)
    return path


WAYS = [dict(pickle_protocol=protocol, _use_new_zipfile_serialization=new)
        for protocol in (2, 3, 4, 5) for new in (True, False)]


def model():
    torch.manual_seed(3)
    parts = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Embedding(11, 5))
    parts[2].weight.requires_grad = False
    return parts


def views():
    base = torch.arange(5000, dtype=torch.float32).reshape(50, 100)
    halves = torch.arange(240, dtype=torch.bfloat16).reshape(2, 3, 40)
    return {
        "base": base, "transposed": base.t(), "rows": base[7:31], "columns": base[:, 13:14], "steps": base[::3, 1::7],
        "element": base[4, 5], "nothing": base[3:3], "diagonal": base.diagonal(), "again": base,
        "expanded": halves[:, :1].expand(2, 3, 40), "permuted": halves.permute(2, 0, 1), "reversed rows": base.flip(0),
        "window": base.flatten().unfold(0, 10, 3)[:20],
        "one": torch.tensor(2.5).expand(3, 4),
    }


def torch_every_dtype():
    tensors = {}
    for name, (dtype, shape, raw) in random_tensors().items():
        torch_dtype = next(key for key, value in NAMES.items() if value == dtype)
        tensors[name] = (torch.frombuffer(bytearray(raw), dtype=torch_dtype) if raw else
                         torch.empty(0, dtype=torch_dtype)).reshape(shape)
    for way in WAYS:
        expect_read(saved(tensors, **way), {name: plain(tensor) for name, tensor in tensors.items()})


def torch_views():
    tensors = views()
    wanted = {name: plain(tensor) for name, tensor in tensors.items()}
    for way in WAYS:
        expect_read(saved(tensors, **way), wanted)


def torch_state_dict():
    state = model().state_dict()
    assert isinstance(state, collections.OrderedDict) and state._metadata
    for way in WAYS:
        expect_read(saved(state, **way), {name: plain(tensor) for name, tensor in state.items()})


def torch_parameters():
    parameters = dict(model().named_parameters())
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in parameters.values())
    for way in WAYS:
        expect_read(saved(parameters, **way), {name: plain(tensor) for name, tensor in parameters.items()})


def torch_nested():
    shared = torch.rand(3, 4)
    root = {
        "model": collections.OrderedDict(weight=shared, tied=shared, part=shared[1]),
        "list": [torch.zeros(2), {"deep": (torch.ones(1), [torch.rand(2, 2)])}, 7],
        "step": 12, "rate": 1e-4, "name": "x", "none": None, "flags": (True, False), "size": torch.Size([2, 3]),
        "dtype": torch.float16, "device": torch.device("cpu"), "set": {1, 2}, "complex": 1 + 2j, "bytes": b"\x00\xff",
        "big": 1 << 70, "negative": -5, 3: torch.full((1,), 3.0),
    }
    wanted = {"model.weight": shared, "model.tied": shared, "model.part": shared[1], "list.0": torch.zeros(2),
              "list.1.deep.0": torch.ones(1), "list.1.deep.1.0": root["list"][1]["deep"][1][0],
              "3": torch.full((1,), 3.0)}
    for way in WAYS:
        expect_read(saved(root, **way), {name: plain(tensor) for name, tensor in wanted.items()})


def torch_optimizer():
    parts = model()
    optimizer = torch.optim.AdamW([p for p in parts.parameters() if p.requires_grad], lr=1e-3)
    parts[1](parts[0](torch.rand(4, 5))).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    wanted = {"state.%d.%s" % (i, name): plain(value) for i, values in state["state"].items()
              for name, value in values.items() if isinstance(value, torch.Tensor)}
    assert wanted
    for way in WAYS:
        expect_read(saved(state, **way), wanted)


def torch_rezipped():
    """Archives of other writers: compressed, not aligned, sizes in the local header, another folder."""
    tensors = {"large": torch.arange(1 << 20, dtype=torch.int32), **views()}
    wanted = {name: plain(tensor) for name, tensor in tensors.items()}
    source = saved(tensors)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = os.path.join(WORK, "rezipped-%d.pth" % method)
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", method) as new:
            for name in old.namelist():
                new.writestr("consolidated.00/" + name.split("/", 1)[1], old.read(name))
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in torch.load(path).items())
        expect_read(path, wanted)


def torch_many():
    tensors = {"layers.%d.weight" % i: torch.full((i % 5,), float(i)) for i in range(5000)}
    for way in WAYS[:2]:
        expect_read(saved(tensors, **way), {name: plain(tensor) for name, tensor in tensors.items()})


def torch_refused():
    for root, kind in (
            (model(), "E_CODE"),
            ({"a": torch.zeros(2, dtype=torch.complex128)}, "E_DTYPE"),
            ({"a": torch.eye(3).to_sparse()}, "E_UNSUPPORTED"),
            ({"a": torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.quint8)}, "E_"),
            (torch.zeros(2), "E_SCHEMA"),
            ([torch.zeros(2)], "E_SCHEMA")):
        for way in WAYS:
            torch_files("read", saved(root, **way), tempfile.mkdtemp(dir=WORK), fails_with=kind)


# --- Exports of convert -----------------------------------------------------------------------------------------------

def read_hf(directory):
    """All tensors of a Hugging Face directory, and the groups of names that share memory."""
    tensors, places = {}, collections.defaultdict(list)
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith(".safetensors"):
            tensors.update(read_safetensors(path))
        elif name.startswith("pytorch_model") and name.endswith(".bin"):
            for key, tensor in torch.load(path, weights_only=True).items():
                tensors[key] = plain(tensor)
                places[name, tensor.data_ptr()].append(key)
    return tensors, sorted(names for names in places.values() if len(names) > 1)


def exported(export, fixture):
    found, shared = read_hf(export)
    wanted, _ = read_hf(fixture)
    # Recomputed by every model, stored by old ones.
    wanted = {name: tensor for name, tensor in wanted.items() if not name.endswith("rotary_emb.inv_freq")}
    assert wanted and found == wanted
    assert all(names == ["model.embed_tokens.weight", "lm_head.weight"] for names in shared), shared
    if not export.endswith("-bin"):
        return
    files = [name for name in sorted(os.listdir(export)) if name.endswith(".bin")]
    assert files and not any(name.endswith(".safetensors") for name in os.listdir(export))
    for name in files:
        properties(os.path.join(export, name))
    if len(files) == 1:
        assert files == ["pytorch_model.bin"]
        return
    with open(os.path.join(export, "pytorch_model.bin.index.json"), encoding="utf-8") as file:
        index = json.load(file)
    assert set(index["weight_map"]) == set(found)
    # Shared elements count once.
    assert index["metadata"]["total_size"] == sum(
        len(raw) for name, (_, _, raw) in found.items() if not any(name in names[1:] for names in shared))
    for name, file_name in index["weight_map"].items():
        assert name in torch.load(os.path.join(export, file_name))


def exported_reference(export, fixture):
    names = [name for name in sorted(os.listdir(fixture)) if name.endswith(".pth")]
    assert names and names == [name for name in sorted(os.listdir(export)) if name.endswith(".pth")]
    for name in names:
        properties(os.path.join(export, name))
        found, wanted = ({key: plain(tensor) for key, tensor in
                          torch.load(os.path.join(directory, name), weights_only=True).items()
                          if not key.endswith("rope.freqs")}  # recomputed by every model, stored by old ones
                         for directory in (export, fixture))
        assert found == wanted, name


def exported_fairseq2(export, fixture):
    names = sorted(name for name in os.listdir(fixture) if name.endswith(".pt"))
    assert names and names == sorted(name for name in os.listdir(export) if name.endswith(".pt"))
    for name in names:
        properties(os.path.join(export, name), {"NEWTRUE"})
        # As fairseq2 itself reads both.
        roots = [torch.load(os.path.join(directory, name), map_location="cpu", weights_only=wise)
                 for directory, wise in ((export, True), (fixture, False))]
        assert set(roots[0]) == {"model", "model_key", "fs2"} and roots[0]["model_key"] == "model" and roots[0]["fs2"] is True
        states = [root[root.get("model_key", "model")] for root in roots]
        assert type(states[0]) is collections.OrderedDict
        found, wanted = ({key: plain(tensor) for key, tensor in state.items()} for state in states)
        assert found == wanted, name


def main():
    global TORCH_FILES
    TORCH_FILES = sys.argv[1]
    cases = [(case.__name__, case, ()) for case in (
        ours_of_every_dtype, ours_empty, ours_large, ours_of_many_tensors, ours_ties_share, ours_names,
        ours_of_newer_dtypes, torch_every_dtype, torch_views, torch_state_dict, torch_parameters, torch_nested,
        torch_optimizer, torch_rezipped, torch_many, torch_refused)]
    for pair in sys.argv[2:]:
        export, fixture = pair.split("=")
        case = {"meta": exported_reference, "fairseq2": exported_fairseq2}.get(os.path.basename(fixture), exported)
        cases.append((os.path.basename(export), case, (export, fixture)))
    failed = False
    for name, case, arguments in cases:
        try:
            case(*arguments)
            print("interop PASSED torch %s" % name, flush=True)
        except Exception:  # every case is to be told of
            traceback.print_exc(limit=-4)
            print("interop FAILED torch %s" % name, flush=True)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
