#!/usr/bin/env python3
"""Names of unknown origin in every place that can hold one, through every tool: nothing that a terminal obeys comes out.

Each name holds an ESC sequence, a C1 control, a mark of direction, and new lines behind which a line of its own would
begin.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

sys.path.insert(0, "tests/tools")
import checkpoint_files as files  # noqa: E402

EVIL = "x\x1b[31m\x9b31m\u202e\u2028\x07\r\nspoofed: done\n  spoofed: note"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
ONE = os.path.join(files.FIXTURES, "llama31_v5_bf16", "hf")
BIN = os.path.join(files.FIXTURES, "llama1_fp16_bin", "hf")
META = os.path.join(files.FIXTURES, "meta_llama3_bf16", "meta")
DATA = "data { path: \"data\" kind: BYTES batch_size: 1 sequence_length: 8 }"


def pickled(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def rename_in_torch_file(path, old, new):
    """A tensor of a file of torch.save gets another name; its archive is written anew."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    found = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            if name.endswith("/data.pkl"):
                found = data.count(pickled(old))
                data = data.replace(pickled(old), pickled(new))
            archive.writestr(zipfile.ZipInfo(name), data)
    assert found == 1, "%s is there %d times" % (old, found)


class HostileNamesTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.work)
        self.out = os.path.join(self.work, "out")

    def copy(self, source):
        copy = os.path.join(self.work, "source")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        for name in os.listdir(copy):
            os.chmod(os.path.join(copy, name), 0o644)
        os.chmod(copy, 0o755)
        return copy

    def harmless(self, code, tool, *arguments):
        """Runs the tool, wants the exit code and that nothing is obeyed.  Returns all that it said."""
        done = subprocess.run([os.path.join("tools", tool), *map(str, arguments)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        said = (done.stdout + done.stderr).decode()  # what is no UTF-8 fails the test, too
        self.assertEqual(done.returncode, code, said)
        self.assertNotRegex(said, OBEYED, "%s %s" % (tool, arguments))
        self.assertNotRegex(said, re.compile("^ *spoofed", re.M), "%s %s" % (tool, arguments))
        return said

    def by_all_tools(self, code, source, *flags):
        """The same input for all tools that read checkpoints.  Returns what they said."""
        said = ""
        for json_flag in ([], ["--json"]):
            said += self.harmless(code, "convert", source, self.out, "--print-plan", "--dry-run", *flags, *json_flag)
            said += self.harmless(code, "inspect", source, "--verify", *flags, *json_flag)
        said += self.harmless(code, "logits", source, "--tokens", "1", "--overwrite", "--output",
                              os.path.join(self.work, "logits"), *flags)
        with open(os.path.join(self.work, "data"), "wb") as file:
            file.write(bytes(100))
        with open(os.path.join(self.work, "run.textproto"), "w", encoding="utf-8") as file:
            file.write("steps: 1 output: \"%s/run\" threads: 1 pretrained { path: \"%s\" %s } optimizer { lr: 1 }" % (
                self.work, source, "carry_unknown: true" if flags else "") + DATA.replace(
                    "data\"", os.path.join(self.work, "data") + "\"", 1))
        return said + self.harmless(code, "train", os.path.join(self.work, "run.textproto"), "--dry-run")

    def test_tensor_names(self):
        """Told as too many (of any format), as missing, as of another shape."""
        for source, name, rename in ((BIN, "pytorch_model.bin", "model.norm.weight"),
                                     (META, "consolidated.00.pth", "norm.weight")):
            copy = self.copy(source)
            rename_in_torch_file(os.path.join(copy, name), rename, EVIL)
            with self.subTest(name=name):
                self.by_all_tools(3, copy)
                self.harmless(0, "inspect", os.path.join(copy, name))
                self.harmless(0, "inspect", os.path.join(copy, name), "--json", "--verify")
                self.harmless(4, "inspect", os.path.join(copy, name), "--diff", os.path.join(source, name))
        copy = self.copy(ONE)
        path = os.path.join(copy, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        files.write_safetensors(path, dict(tensors, **{EVIL: ("F32", [1], bytes(4))}), dict(metadata, **{EVIL: EVIL}))
        self.assertIn("spoofed", self.by_all_tools(3, copy))
        self.harmless(0, "inspect", path)
        self.harmless(4, "inspect", path, "--diff", os.path.join(ONE, "model.safetensors"))
        self.harmless(4, "inspect", path, "--diff", os.path.join(ONE, "model.safetensors"), "--json")
        for name, fixture, _, params in files.fairseq2_fixtures():
            model = os.path.join(fixture, "model.pt")
            if os.path.exists(model):
                copy = self.copy(fixture)
                shutil.copy(params, os.path.join(copy, "params.json"))
                rename_in_torch_file(os.path.join(copy, "model.pt"), "decoder.layer_norm.weight", EVIL)
                with self.subTest(name=name):
                    self.by_all_tools(3, copy)

    def test_dtypes_of_tensors(self):
        copy = self.copy(ONE)
        path = os.path.join(copy, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        files.write_safetensors(path, dict(tensors, **{EVIL: (EVIL, [1], bytes(4))}), metadata)
        self.by_all_tools(3, copy)
        self.harmless(3, "inspect", path)

    def test_entries_of_an_index(self):
        for entry in ({EVIL: "model.safetensors"}, {"model.norm.weight": EVIL}):
            copy = self.copy(ONE)
            os.rename(os.path.join(copy, "model.safetensors"), os.path.join(copy, "model-00001-of-00001.safetensors"))
            tensors, _ = files.read_safetensors(os.path.join(copy, "model-00001-of-00001.safetensors"))
            index = dict({name: "model-00001-of-00001.safetensors" for name in tensors}, **entry)
            with open(os.path.join(copy, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
                json.dump({"metadata": {EVIL: EVIL}, "weight_map": index}, file)
            self.by_all_tools(3, copy)

    def test_config_keys_and_values(self):
        for key, value, code, flags in ((EVIL, EVIL, 3, []), (EVIL, {EVIL: EVIL}, 0, ["--carry-unknown"]),
                                        ("model_type", EVIL, 3, []), ("hidden_act", EVIL, 3, []),
                                        ("torch_dtype", EVIL, None, []), ("hidden_size", EVIL, 3, []),
                                        ("rope_scaling", {"rope_type": EVIL}, 3, [])):
            copy = self.copy(ONE)
            path = os.path.join(copy, "config.json")
            config = dict(files.read_json(path), **{key: value})
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file, ensure_ascii=False)
            with self.subTest(key=key):
                if code is None:
                    self.harmless(files.run("inspect", copy)[0], "inspect", copy)
                    continue
                said = self.by_all_tools(code, copy, *flags)
                if flags:
                    self.assertIn("spoofed", said)
                self.harmless(4 if code == 0 else 3, "inspect", copy, "--diff", ONE, *flags)
        copy = self.copy(META)
        params = files.read_json(copy, "params.json")
        with open(os.path.join(copy, "params.json"), "w", encoding="utf-8") as file:
            json.dump(dict(params, **{EVIL: EVIL}), file, ensure_ascii=False)
        self.by_all_tools(3, copy)

    def test_names_of_tokens(self):
        copy = self.copy(ONE)
        with open(os.path.join(copy, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump({"model": {"type": "BPE", "vocab": {EVIL: EVIL}, "merges": []}}, file, ensure_ascii=False)
        self.by_all_tools(3, copy)

    def test_names_of_files(self):
        copy = self.copy(ONE)
        os.mkdir(os.path.join(copy, "additional_chat_templates"))
        for name in (EVIL, EVIL + ".safetensors", EVIL + ".json",
                     "additional_chat_templates/%s.jinja" % EVIL):
            with open(os.path.join(copy, name), "w", encoding="utf-8") as file:
                file.write("no checkpoint")
        self.assertIn("spoofed", self.by_all_tools(0, copy))
        self.harmless(0, "inspect", copy, "--diff", ONE)
        for to in ("native", "llama"):
            out = os.path.join(self.work, to)
            self.harmless(0, "convert", copy, out, "--to", to)
            self.harmless(0, "inspect", out)
            # What is there beside a checkpoint.
            with open(os.path.join(out, EVIL), "w", encoding="utf-8") as file:
                file.write("mine")
            self.harmless(2, "convert", copy, out, "--to", to, "--overwrite")

    def test_paths(self):
        evil = os.path.join(self.work, EVIL)
        shutil.copytree(ONE, evil)
        native = os.path.join(evil, EVIL)
        self.harmless(0, "convert", evil, os.path.join(self.work, EVIL + "2"))
        self.harmless(2, "convert", evil, native)  # in the source
        self.harmless(2, "convert", evil, os.path.join(self.work, EVIL + "2"))  # exists
        self.harmless(0, "inspect", evil)
        self.harmless(0, "inspect", evil, "--diff", os.path.join(self.work, EVIL + "2"))
        self.harmless(0, "logits", evil, "--tokens", "1", "--output", os.path.join(self.work, EVIL + "3"))
        nowhere = os.path.join(self.work, "nowhere" + EVIL)
        self.harmless(5, "convert", nowhere, self.out)
        self.harmless(5, "inspect", nowhere)
        self.harmless(5, "logits", nowhere, "--tokens", "1", "--output", self.out)
        self.harmless(5, "train", nowhere)
        self.harmless(2, "launch", "1", "--program", nowhere)
        self.harmless(2, "logits", ONE, "--tokens", nowhere, "--output", self.out)

    def test_paths_of_bytes_that_are_no_text(self):
        path = os.path.join(self.work.encode(), b"\xff\x9b31m\xe2\x80")
        for tool, arguments in (("convert", [path, b"out"]), ("inspect", [path]),
                                ("logits", [path, b"--tokens", b"1", b"--output", path]), ("train", [path])):
            for flags in ([], [b"--json"]):
                done = subprocess.run([b"tools/" + tool.encode(), *arguments, *flags], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, check=False)
                self.assertEqual(done.returncode, 5, done.stderr)
                self.assertIn("\\xff\\x9b31m\\xe2\\x80", done.stderr.decode())
                self.assertNotRegex(done.stdout.decode(), OBEYED)

    def test_values_of_flags_and_of_training_configs(self):
        for tool in ("convert", "inspect", "logits", "train", "launch"):
            self.harmless(2, tool, "--" + EVIL)
        self.harmless(2, "convert", ONE, self.out, "--from", EVIL)
        self.harmless(2, "convert", ONE, self.out, "--to", EVIL)
        for flag in ("--dtype", "--max-shard-size", "--max-memory", "--threads", "--verify", "--optimizer",
                     "--rank-timeout"):
            self.harmless(2, "convert", ONE, self.out, flag, EVIL)
        self.harmless(2, "convert", ONE, self.out, "--to", "reference", "--consumer", EVIL)
        self.harmless(2, "convert", META, self.out, "--model", EVIL)
        self.harmless(2, "logits", ONE, "--tokens", "1", "--output", self.out, "--round-to", EVIL)
        path = os.path.join(self.work, "run.textproto")
        quoted = "\"" + "".join("\\%03o" % byte for byte in EVIL.encode()) + "\""
        for text in (EVIL, "steps: 1 output: %s dtype: %s device: %s" % (quoted, quoted, quoted),
                     "steps: 1 output: \"run\" pretrained { path: %s }" % quoted):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            for arguments in ([], ["--json"], ["--dry-run"]):
                self.harmless(5 if "pretrained" in text else 2, "train", path, *arguments)
        self.harmless(2, "train", path, EVIL + "=1")
        self.harmless(2, "train", path, "data.kind=" + EVIL)


if __name__ == "__main__":
    unittest.main()
