"""Reads checkpoints with nothing but Python's standard library, so that the tests do not trust the code they test."""

import json
import os
import shutil
import struct
import subprocess
import tempfile

# Copies: in a test's own tree the files are links that leave the directory, which the tools rightly refuse.
FIXTURES = os.path.join(tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR")), "fixtures")
shutil.copytree("tests/testdata/fixtures", FIXTURES)


def fixtures():
    return sorted(os.path.join(FIXTURES, name) for name in os.listdir(FIXTURES)
                  if os.path.isdir(os.path.join(FIXTURES, name, "hf")))


def safetensors_fixtures():
    """Those that this file can read; .bin files are compared by tests/models/llama/llama_bin_test."""
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


def floats(tensor):
    dtype, _, data = tensor
    assert dtype == "F32"
    return struct.unpack("<%df" % (len(data) // 4), data)


def run(tool, *arguments):
    """Runs a tool of the project.  Returns the exit code, stdout and stderr."""
    done = subprocess.run([os.path.join("tools", tool), *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", errors="replace", check=False)
    return done.returncode, done.stdout, done.stderr
