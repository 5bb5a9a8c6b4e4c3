#!/usr/bin/env python3
"""inspect, end to end: what it shows, what it verifies, and what it calls different."""

import json
import os
import shutil
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, "tests/tools")
import checkpoint_files as files  # noqa: E402

ONE = os.path.join(files.FIXTURES, "llama31_v5_bf16", "hf")
FLOAT32 = os.path.join(files.FIXTURES, "llama31_fp32", "hf")


class InspectTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.work)
        self.native = os.path.join(self.work, "native")
        code, _, err = files.run("convert", ONE, self.native)
        self.assertEqual(code, 0, err)

    def inspect(self, *arguments):
        code, out, err = files.run("inspect", *arguments)
        self.assertEqual(code, 0, err)
        return out

    def test_shows_files_config_and_tensors(self):
        report = json.loads(self.inspect(self.native, "--json"))

        self.assertEqual(report["format"], "native")
        self.assertEqual(report["external_format"], "llama")
        self.assertRegex(report["sha256"], "^[0-9a-f]{64}$")
        self.assertEqual(int(report["config"]["hidden_size"]), 64)
        stored = files.read_directory(self.native)
        self.assertEqual({tensor["name"]: (tensor["dtype"], tensor["shape"], tensor["bytes"])
                          for tensor in report["tensors"]},
                         {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in stored.items()})
        self.assertIn("head.final_norm.weight", self.inspect(self.native))

    def test_one_file_shows_the_stored_names(self):
        path = os.path.join(ONE, "model.safetensors")

        report = json.loads(self.inspect(path, "--json", "--verify"))

        self.assertEqual(report["format"], "safetensors")
        self.assertEqual(sorted(tensor["name"] for tensor in report["tensors"]),
                         sorted(files.read_safetensors(path)[0]))
        self.assertTrue(all(len(tensor["xxh3"]) == 16 for tensor in report["tensors"]))

    def test_one_file_of_torch_shows_tensors_and_values(self):
        path = os.path.join(files.FIXTURES, "llama1_fp16_bin", "hf", "pytorch_model.bin")
        report = json.loads(self.inspect(path, "--json", "--verify"))

        self.assertEqual(report["format"], "torch")
        stored = files.read_torch(path)[0]
        self.assertEqual({tensor["name"]: (tensor["dtype"], tensor["shape"], tensor["bytes"])
                          for tensor in report["tensors"]},
                         {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in stored.items()})

    def test_a_damaged_file_of_torch_fails_verification(self):
        path = os.path.join(self.work, "weights.pth")
        with open(os.path.join(files.FIXTURES, "llama1_fp16_bin", "hf", "pytorch_model.bin"), "rb") as file:
            data = bytearray(file.read())
        name, (_, _, content) = max(files.read_torch(file.name)[0].items(), key=lambda item: len(item[1][2]))
        data[data.index(content) + len(content) // 2] ^= 1
        with open(path, "wb") as file:
            file.write(data)

        code, _, err = files.run("inspect", path, "--verify")

        self.assertEqual(code, 3, err)
        self.assertIn("E_CHECKSUM", err, name)

    def test_a_file_that_is_no_archive_is_named(self):
        path = os.path.join(self.work, "weights.pth")
        with open(path, "w", encoding="utf-8") as file:
            file.write("version https://git-lfs.github.com/spec/v1\n")

        code, _, err = files.run("inspect", path)

        self.assertEqual(code, 3, err)
        self.assertIn("git-lfs", err)

    def test_hostile_names_and_metadata_are_shown_harmlessly(self):
        header = json.dumps({"__metadata__": {"\x1b[2J": "v" * 100000, "format": "pt"},
                             "a\n\x1b]0;\u202e": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
                             "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        path = os.path.join(self.work, "hostile.safetensors")
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + bytes(4))

        text = self.inspect(path)
        report = json.loads(self.inspect(path, "--json", "--verify"))

        self.assertNotRegex(text, "[\x00-\x09\x0b-\x1f\x7f\u202e]")
        self.assertIn("format=pt", text)
        self.assertLess(len(text), 2000)
        self.assertEqual([tensor["name"] for tensor in report["tensors"]], ["a\n\x1b]0;\u202e", "b"])
        self.assertNotEqual(report["tensors"][0]["xxh3"], report["tensors"][1]["xxh3"])
        self.assertLess(len(report["files"][0]["metadata"]["\x1b[2J"]), 5000)

    def test_verify_finds_a_flipped_bit(self):
        weights = os.path.join(self.native, "model.safetensors")
        with open(weights, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))

        code, _, err = files.run("inspect", self.native, "--verify")

        self.assertEqual(code, 3)
        self.assertIn("error: E_CHECKSUM: ", err)
        self.assertIn("model.safetensors", err)

    def test_verify_finds_a_flipped_bit_in_every_file_that_travels_along(self):
        source = os.path.join(self.work, "source")
        shutil.copytree(ONE, source)
        os.chmod(source, 0o755)
        os.mkdir(os.path.join(source, "additional_chat_templates"))
        for name, content in (("tokenizer.model", b"\0\1" * 200000), ("chat_template.jinja", b"{{ messages }}"),
                              ("LICENSE", b"a"), ("additional_chat_templates/tool.jinja", b"{{ tools }}")):
            with open(os.path.join(source, name), "wb") as file:
                file.write(content)
        for target in ("native", "distributed"):
            checkpoint = os.path.join(self.work, "to." + target)
            self.assertEqual(files.run("convert", source, checkpoint, "--to", target)[0], 0)
            self.assertNotIn("no digest", self.inspect(checkpoint, "--verify"))
            flipped = 0
            for folder, _, names in os.walk(os.path.join(checkpoint, "assets")):
                for name in names:
                    path = os.path.join(folder, name)
                    for offset in {0, os.path.getsize(path) // 2, os.path.getsize(path) - 1}:
                        with self.subTest(target=target, name=name, offset=offset):
                            flipped += 1
                            files.flip(path, offset)
                            code, _, err = files.run("inspect", checkpoint, "--verify")
                            self.assertEqual(code, 3, err)
                            self.assertIn("error: E_CHECKSUM: ", err)
                            self.assertIn(name, err)
                            files.flip(path, offset)
            self.assertGreaterEqual(flipped, 12)

    def test_verify_says_what_has_no_digests(self):
        report = json.loads(self.inspect(ONE, "--verify", "--json"))
        self.assertEqual(sorted(report["without_digests"]), sorted(os.listdir(ONE)))
        self.assertIn("nothing says what these should be", self.inspect(ONE, "--verify"))
        report = json.loads(self.inspect(self.native, "--verify", "--json"))
        self.assertEqual(report["without_digests"], [])
        self.assertEqual([asset["name"] for asset in report["assets"]], ["generation_config.json"])
        # Those of .bin files are in their archives.
        report = json.loads(self.inspect(os.path.join(files.FIXTURES, "llama1_fp16_bin", "hf"), "--verify", "--json"))
        self.assertNotIn("pytorch_model.bin", report["without_digests"])

    def test_a_checkpoint_knows_the_files_that_it_was_converted_from(self):
        def digests(files_of):
            return {file["name"]: (file["bytes"], file["digest"]) for file in files_of if "digest" in file}

        for source in (ONE, os.path.join(files.FIXTURES, "llama3_bf16_sharded", "hf"),
                       os.path.join(files.FIXTURES, "llama1_fp16_bin", "hf"),
                       os.path.join(files.FIXTURES, "meta_llama31_bf16_mp2", "meta"),
                       os.path.join(files.FIXTURES, "meta_llama31_bf16_mp2", "hf")):
            for target in ("native", "distributed"):
                with self.subTest(source=source, target=target):
                    checkpoint = os.path.join(self.work, "known")
                    shutil.rmtree(checkpoint, ignore_errors=True)
                    code, _, err = files.run("convert", source, checkpoint, "--to", target)
                    self.assertEqual(code, 0, err)
                    report = json.loads(self.inspect(source, "--verify", "--json"))
                    wanted = {**digests(report["files"]), **digests(report["assets"])}
                    conversion, = json.loads(self.inspect(checkpoint, "--json"))["conversions"]
                    self.assertEqual(conversion["format"], report["format"])
                    self.assertEqual(digests(conversion["files"]), wanted)
                    self.assertEqual(set(wanted), set(os.listdir(source)) - {"checklist.chk"})
                    for name, (size, digest) in wanted.items():
                        self.assertEqual(size, os.path.getsize(os.path.join(source, name)))
                        self.assertRegex(digest, "^xxh3-256k:[0-9a-f]{16}$")
        # Of a source with an identity that speaks for all of its files.
        again = os.path.join(self.work, "again")
        self.assertEqual(files.run("convert", self.native, again, "--to", "distributed")[0], 0)
        report = json.loads(self.inspect(again, "--json"))
        self.assertEqual([conversion["format"] for conversion in report["conversions"]], ["llama", "native"])
        self.assertEqual(report["conversions"][1]["sha256"], json.loads(self.inspect(self.native, "--json"))["sha256"])
        self.assertIn("converted from native, sha256", self.inspect(again))

    def test_a_byte_of_the_source_changes_what_is_known_of_it(self):
        source = os.path.join(self.work, "source")
        shutil.copytree(ONE, source)
        os.chmod(source, 0o755)
        os.chmod(os.path.join(source, "model.safetensors"), 0o644)
        files.flip(os.path.join(source, "model.safetensors"), os.path.getsize(source + "/model.safetensors") - 1)
        changed = os.path.join(self.work, "changed")
        self.assertEqual(files.run("convert", source, changed)[0], 0)

        before, after = ({file["name"]: file["digest"] for file in
                          json.loads(self.inspect(path, "--json"))["conversions"][0]["files"]}
                         for path in (self.native, changed))

        self.assertEqual([name for name in before if before[name] != after[name]], ["model.safetensors"])

    def test_the_newest_checkpoint_of_a_folder_is_shown(self):
        for step in (3, 12):
            shutil.copytree(self.native, os.path.join(self.work, "run", "checkpoint", "step-%08d" % step))
        for given in ("run", "run/checkpoint"):
            report = json.loads(self.inspect(os.path.join(self.work, given), "--json"))
            self.assertTrue(report["path"].endswith("step-00000012"))
            self.assertIn("took the newest checkpoint", report["notes"][0])

    def test_prefixes_are_stripped_of_one_file_too(self):
        path = os.path.join(self.work, "wrapped.safetensors")
        files.write_safetensors(path, {"module.a": ("F32", [1], bytes(4)), "b": ("F32", [1], bytes(4))}, {})
        report = json.loads(self.inspect(path, "--strip-prefix", "module.", "--json"))
        self.assertEqual([tensor["name"] for tensor in report["tensors"]], ["a", "b"])

    def test_a_checkpoint_equals_its_conversion(self):
        self.assertIn("verified", self.inspect(self.native, "--verify"))
        self.assertTrue(self.inspect(ONE, "--diff", self.native).startswith("equal: "))

    def test_diff_names_the_first_tensor_that_differs(self):
        other = os.path.join(self.work, "other")
        shutil.copytree(ONE, other)
        weights = os.path.join(other, "model.safetensors")
        os.chmod(other, 0o755)
        os.chmod(weights, 0o644)
        with open(weights, "r+b") as file:
            length, = struct.unpack("<Q", file.read(8))
            entry = json.loads(file.read(length))["model.norm.weight"]
            file.seek(8 + length + entry["data_offsets"][0])
            value, = struct.unpack("<H", file.read(2))
            file.seek(-2, os.SEEK_CUR)
            file.write(struct.pack("<H", value ^ 0x8000))

        code, out, err = files.run("inspect", other, "--diff", self.native, "--json")

        self.assertEqual(code, 4, err)
        report = json.loads(out)
        self.assertFalse(report["equal"])
        self.assertEqual([d["name"] for d in report["differences"]], ["head.final_norm.weight"])
        self.assertEqual(report["differences"][0]["differing_elements"], 1)
        self.assertGreater(report["differences"][0]["max_abs_diff"], 0)

    def test_diff_of_one_format_compares_what_is_carried(self):
        other = os.path.join(self.work, "other")
        shutil.copytree(ONE, other)
        for path in (other, os.path.join(other, "config.json")):
            os.chmod(path, 0o755)
        self.assertEqual(files.run("inspect", ONE, "--diff", other)[0], 0)
        config = files.read_json(other, "config.json")
        config.update(eos_token_id=7, max_position_embeddings=99, dtype="float16")
        with open(os.path.join(other, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        for name in ("LICENSE", "merges.txt"):
            with open(os.path.join(other, name), "w", encoding="utf-8") as file:
                file.write("a")

        code, out, err = files.run("inspect", ONE, "--diff", other, "--json")

        self.assertEqual(code, 4, err)
        report = json.loads(out)
        self.assertEqual([line.split(": ")[1] for line in report["config_differences"]],
                         ["dtype", "eos_token_id", "max_position_embeddings"])
        self.assertEqual(report["file_differences"], ['"LICENSE": only in the second', '"merges.txt": only in the second'])
        self.assertEqual(report["differences"], [])
        third = os.path.join(self.work, "third")
        shutil.copytree(other, third)
        with open(os.path.join(third, "LICENSE"), "w", encoding="utf-8") as file:
            file.write("b")
        code, out, _ = files.run("inspect", other, "--diff", third)
        self.assertEqual(code, 4)
        self.assertIn('file: "LICENSE": differs from byte 0 on', out)

    def config_copy(self, name, config):
        """ONE with another config.json."""
        copy = os.path.join(self.work, name)
        shutil.copytree(ONE, copy)
        for path in (copy, os.path.join(copy, "config.json")):
            os.chmod(path, 0o755)
        with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        return copy

    def test_defaults_that_are_written_out_are_no_difference(self):
        config = files.read_json(ONE, "config.json")
        brief = {key: value for key, value in config.items()
                 if key not in ("attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim",
                                "initializer_range", "mlp_bias", "pad_token_id", "pretraining_tp",
                                "tie_word_embeddings", "use_cache")}
        # As version 4 of transformers writes it.
        rope = dict(brief.pop("rope_parameters"))
        brief.update(rope_theta=rope.pop("rope_theta"), rope_scaling=dict(reversed(rope.items())),
                     torch_dtype=brief.pop("dtype"))
        other = self.config_copy("brief", brief)

        for pair in ((ONE, other), (other, ONE)):
            report = json.loads(self.inspect(pair[0], "--diff", pair[1], "--json"))

            self.assertTrue(report["equal"])
            self.assertEqual(report["config_differences"], [])
            self.assertEqual(sorted(line.split(": ")[1] for line in report["written_out_defaults"]),
                             sorted(set(config) ^ set(brief)))
        text = self.inspect(ONE, "--diff", other)
        self.assertTrue(text.startswith("equal: "), text)
        self.assertIn("    config: config.json: use_cache: true only in the first\n", text)

    def test_values_that_are_no_defaults_are_differences(self):
        config = files.read_json(ONE, "config.json")
        for key, value in (("use_cache", False), ("bos_token_id", 5), ("pad_token_id", 3), ("max_length", 21),
                           ("unheard_of", None)):
            with self.subTest(key=key):
                changed = dict(config, **{key: value})
                without = {name: other for name, other in changed.items() if name != key}
                first, second = self.config_copy("a" + key, changed), self.config_copy("b" + key, without)
                code, out, err = files.run("inspect", first, "--diff", second, "--json", "--carry-unknown")
                self.assertEqual(code, 4, err)
                self.assertEqual([line.split(": ")[1] for line in json.loads(out)["config_differences"]], [key])
                self.assertEqual(json.loads(out)["written_out_defaults"], [])

    def test_diff_spells_out_as_many_tensors_as_asked_for(self):
        def shown(*flags):
            code, out, err = files.run("inspect", FLOAT32, "--diff", self.native, *flags)
            self.assertEqual(code, 4, err)
            return out.count("\n  tensor "), out

        total = len(json.loads(files.run("inspect", FLOAT32, "--diff", self.native, "--json")[1])["differences"])
        self.assertGreater(total, 10)
        for flags, wanted in (((), 10), (("--diff-limit", 3), 3), (("--diff-limit", 0), 0),
                              (("--diff-limit", "all"), total)):
            count, out = shown(*flags)
            self.assertEqual(count, wanted, flags)
            self.assertEqual("and %d more tensors; --diff-limit all" % (total - wanted) in out, wanted < total, flags)
        for text in ("-1", "many", ""):
            code, _, err = files.run("inspect", FLOAT32, "--diff", self.native, "--diff-limit", text)
            self.assertEqual(code, 2, err)

    def test_a_training_checkpoint_shows_its_run(self):
        data, run = os.path.join(self.work, "data"), os.path.join(self.work, "run")
        with open(data, "wb") as file:
            file.write(bytes(100))
        config = os.path.join(self.work, "run.textproto")
        with open(config, "w", encoding="utf-8") as file:
            file.write("steps: 3 output: \"%s\" threads: 1 pretrained { path: \"%s\" } dtype: \"fp32\" "
                       "optimizer { lr: 1e-3 } schedule { warmup_steps: 2 decay_steps: 9 } checkpoint { interval: 2 } "
                       "data { path: \"%s\" kind: BYTES batch_size: 2 sequence_length: 8 }" % (run, ONE, data))
        code, _, err = files.run("train", config)
        self.assertEqual(code, 0, err)
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
            metrics = [json.loads(line) for line in file]

        for step in (2, 3):
            path = os.path.join(run, "checkpoint", "step-%08d" % step)
            report = json.loads(self.inspect(path, "--json"))["training"]
            text = self.inspect(path)

            logged = metrics[step - 1]
            self.assertEqual(logged["step"], step)
            self.assertEqual(report["step"], step)
            self.assertAlmostEqual(report["loss"], logged["loss"], places=5)
            self.assertAlmostEqual(report["learning_rate"], logged["lr"], places=9)
            self.assertEqual(report["data_position"], step * 16)
            self.assertEqual(report["scheduled"], step == 2)
            self.assertEqual((report["data"]["bytes"], report["data"]["tokens"]), (100, 100))
            self.assertIn("\n  data: 100 bytes, 100 tokens, xxh3 %s\n" % report["data"]["xxh3"], text)
            self.assertIn("model {", report["trainer_config"])
            self.assertRegex(text, r"  step %d, loss [0-9.]+, learning rate [0-9.e-]+ \(of the last step\), "
                             "%d tokens of data read, saved " % (step, step * 16))
            self.assertIn('\ntrainer\'s config:\n', text)
            self.assertIn("    warmup_steps: 2\n", text)
            self.assertIn('  dtype: "float32"\n', text)
            self.assertEqual(text.count("hidden_size: 64"), 1)

    def test_a_directory_and_a_file_are_not_compared(self):
        for pair in ((ONE, os.path.join(ONE, "model.safetensors")), (os.path.join(ONE, "model.safetensors"), ONE)):
            code, _, err = files.run("inspect", pair[0], "--diff", pair[1])
            self.assertEqual(code, 2, err)
            self.assertIn("two directories or two files", err)

    def test_json_tells_of_files_that_are_not_used(self):
        with open(os.path.join(self.native, "notes.safetensors"), "w", encoding="utf-8") as file:
            file.write("none")

        report = json.loads(self.inspect(self.native, "--json"))

        problems = {file["name"]: file.get("problem") for file in report["files"]}
        self.assertTrue(problems["notes.safetensors"])
        self.assertIsNone(problems["model.safetensors"])

    def test_a_reference_checkpoint_is_its_twin(self):
        fixture = os.path.join(files.FIXTURES, "meta_llama31_bf16_mp2")
        meta, twin = os.path.join(fixture, "meta"), os.path.join(fixture, "hf")
        self.assertEqual(files.run("inspect", meta, "--verify", "--diff", twin)[0], 0)
        self.assertEqual(files.run("inspect", meta, "--rope-factor", 8, "--diff", twin)[0], 0)
        code, out, _ = files.run("inspect", meta, "--rope-factor", 4, "--diff", twin)
        self.assertEqual(code, 4)
        self.assertIn("scale_factor", out)
        self.assertEqual(files.run("inspect", twin, "--rope-factor", 8)[0], 2)

    def test_other_models_differ(self):
        code, out, err = files.run("inspect", FLOAT32, "--diff", self.native)

        self.assertEqual(code, 4, err)
        self.assertIn("F32 against BF16", out)

    def test_errors_have_exit_codes(self):
        self.assertEqual(files.run("inspect")[0], 2)
        self.assertEqual(files.run("inspect", os.path.join(self.work, "nothing"))[0], 5)
        self.assertEqual(files.run("inspect", os.path.join(ONE, "config.json"))[0], 3)


if __name__ == "__main__":
    unittest.main()
