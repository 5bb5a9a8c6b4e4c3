#!/usr/bin/env python3
"""convert, end to end, over every fixture: what comes back is what went in."""

import hashlib
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
LEGACY = os.path.join(files.FIXTURES, "llama2_fp32", "hf")


class ConvertTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.work)

    def path(self, name):
        return os.path.join(self.work, name)

    def convert(self, *arguments):
        code, out, err = files.run("convert", *arguments)
        self.assertEqual(code, 0, err)
        return out

    def refuse(self, exit_code, kind, *arguments):
        """The tool fails so, and leaves no output and no staging directory."""
        before = sorted(os.listdir(self.work))
        code, _, err = files.run("convert", *arguments)
        self.assertEqual(code, exit_code, err)
        self.assertIn("error: %s: " % kind, err)
        self.assertEqual(sorted(os.listdir(self.work)), before)
        return err

    def editable_copy(self, source):
        copy = self.path("source")
        shutil.copytree(source, copy)
        for name in os.listdir(copy):
            os.chmod(os.path.join(copy, name), 0o644)
        os.chmod(copy, 0o755)
        return copy

    def test_every_fixture_comes_back_the_same(self):
        self.assertTrue(files.safetensors_fixtures())
        for fixture in files.safetensors_fixtures():
            with self.subTest(fixture=fixture):
                source = os.path.join(fixture, "hf")
                native = self.path(os.path.basename(fixture) + ".native")
                back = self.path(os.path.basename(fixture) + ".hf")

                self.convert(source, native)
                self.convert(native, back)

                wanted = {name: tensor for name, tensor in files.read_directory(source).items()
                          if not name.endswith(".rotary_emb.inv_freq")}
                self.assertEqual(files.read_directory(back), wanted)
                self.assertEqual(files.read_json(back, "config.json"), files.read_json(source, "config.json"))
                self.assertEqual(files.read_json(back, "generation_config.json"),
                                 files.read_json(source, "generation_config.json"))
                for path in files.safetensors_files(back):
                    self.assertEqual(files.read_safetensors(path)[1].get("format"), "pt", path)

    def test_reference_checkpoints_are_their_twins(self):
        self.assertEqual(len(files.meta_fixtures()), 5)
        for fixture in files.meta_fixtures():
            name = os.path.basename(fixture)
            twin = os.path.join(fixture, "hf")
            with self.subTest(fixture=name):
                # The twins are bfloat16 all.
                self.convert(os.path.join(fixture, "meta"), self.path(name + ".hf"), "--to", "llama", "--dtype", "bfloat16")
                self.assertEqual(files.read_directory(self.path(name + ".hf")), files.read_directory(twin))
                for parts in (1, 2, 4):
                    reference = self.path("%s.%d" % (name, parts))
                    self.convert(twin, reference, "--to", "reference", "--model-parallel", parts)
                    self.assertEqual(sorted(os.listdir(reference)), ["consolidated.%02d.pth" % i for i in range(parts)]
                                     + ["generation_config.json", "params.json"])
                    self.convert(reference, reference + ".hf", "--to", "llama")
                    self.assertEqual(files.read_directory(reference + ".hf"), files.read_directory(twin))

    def test_fairseq2_checkpoints_are_their_twins(self):
        self.assertEqual(len(files.fairseq2_fixtures()), 4)
        for name, fixture, twin, params in files.fairseq2_fixtures():
            with self.subTest(fixture=name):
                source = self.path(name)
                shutil.copytree(fixture, source)
                self.refuse(3, "E_MISSING", source, self.path("out"), "--to", "llama")
                shutil.copy(params, os.path.join(source, "params.json"))
                flags = ["--rope-factor", 32, "--tied", "yes"] if "tied" in name else []
                self.convert(source, self.path(name + ".native"), *flags)
                self.convert(self.path(name + ".native"), self.path(name + ".hf"), "--to", "llama")
                wanted = files.read_directory(os.path.join(twin, "hf"))
                self.assertEqual(files.read_directory(self.path(name + ".hf")), wanted)

                back = self.path(name + ".back")
                self.convert(self.path(name + ".native"), back, *flags[:2])
                self.assertEqual(sorted(os.listdir(back)), ["model.pt", "params.json"])
                root, shared = files.read_torch(os.path.join(back, "model.pt"), "model")
                self.assertEqual(sorted(root), sorted(files.FAIRSEQ2_TENSORS))
                self.assertEqual(bool(shared), "tied" in name)
                self.convert(back, back + ".hf", "--to", "llama", *flags[:2])
                self.assertEqual(files.read_directory(back + ".hf"), wanted)

    def test_fairseq2_files_are_renamed_one_by_one(self):
        for name, fixture, twin, params in files.fairseq2_fixtures():
            # fairseq2 tells the reference code of no scaling.
            if not name.startswith("fairseq2_llama2"):
                continue
            source = self.path(name)
            shutil.copytree(fixture, source)
            shutil.copy(params, os.path.join(source, "params.json"))
            self.convert(source, self.path(name + ".meta"), "--to", "reference", "--consumer", "fairseq2")
            self.assertRegex(files.read_text(self.path(name + ".meta"), "params.json"),
                             r'^{"model": {"dim": 64, "n_layers": 3, "n_heads": 4, "multiple_of": [0-9]+, '
                             r'"rope_theta": 10000.0, "norm_eps": 1e-05(, "n_kv_heads": 2, "ffn_dim_multiplier": 1.3)?}}$')
            names = [file for file in os.listdir(os.path.join(twin, "meta")) if file.endswith(".pth")]
            self.assertEqual(sorted(os.listdir(self.path(name + ".meta"))), sorted(names + ["params.json"]))
            for file in names:
                wanted, _ = files.read_torch(os.path.join(twin, "meta", file))
                wanted.pop("rope.freqs")
                self.assertEqual(files.read_torch(os.path.join(self.path(name + ".meta"), file))[0], wanted)

    def test_values_that_look_tied_or_repeated_verify(self):
        """The reader of what was written used to take them for what they look like."""
        source = self.editable_copy(os.path.join(files.FIXTURES, "meta_llama3_bf16", "hf"))
        path = os.path.join(source, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        zeros = {name: (dtype, shape, bytes(len(data))) for name, (dtype, shape, data) in tensors.items()}
        lookalike = dict(tensors, **{"lm_head.weight": tensors["model.embed_tokens.weight"]})
        for i in range(3):
            for name in ("k_proj", "v_proj"):
                name = "model.layers.%d.self_attn.%s.weight" % (i, name)
                dtype, shape, data = tensors[name]
                lookalike[name] = (dtype, shape, 2 * data[:len(data) // 2])
        for values in (lookalike, zeros):
            files.write_safetensors(path, values, metadata)
            for to, parts in (("reference", 1), ("reference", 2), ("reference", 4), ("fairseq2", 2)):
                with self.subTest(to=to, parts=parts, zeros=values is zeros):
                    written = self.path("written")
                    self.convert(source, written, "--to", to, "--model-parallel", parts, "--overwrite")
                    copies = 2 if parts == 4 else 1
                    self.convert(written, self.path("back"), "--to", "llama", "--tied", "no", "--kv-copies", copies,
                                 "--overwrite")
                    self.assertEqual(files.read_directory(self.path("back")), values)

    def test_logits_of_a_reference_checkpoint_verify(self):
        source = os.path.join(files.FIXTURES, "meta_llama31_bf16_mp2", "meta")
        report = json.loads(self.convert(source, self.path("hf"), "--to", "llama", "--verify", "logits", "--json"))
        self.assertEqual((report["from"], report["to"], report["verify"]), ("reference", "llama", "logits"))

    def test_options_of_formats(self):
        code, out, _ = files.run("convert", "--help")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"Options of fairseq2, reference:\n(.*\n)*.*--model-parallel N(.*\n)*Options of reference:\n")
        hf = os.path.join(files.FIXTURES, "meta_llama3_bf16", "hf")
        error = self.refuse(2, "E_REQUEST", hf, self.path("native"), "--model-parallel", 2)
        self.assertIn('reading "llama" takes: none; writing "native" takes: none', error)
        error = self.refuse(2, "E_REQUEST", hf, self.path("reference"), "--to", "reference", "--model-parallel", 3)
        self.assertIn("possible for this model: 1, 2, 4", error)
        error = self.refuse(2, "E_REQUEST", hf, self.path("reference"), "--to", "reference", "--consumer", "llama7")
        self.assertIn("llama1, llama2, llama3, fairseq2", error)

    def test_every_fixture_comes_back_as_bin_files(self):
        for fixture in files.fixtures():
            source = os.path.join(fixture, "hf")
            wanted = {**files.read_directory(source), **files.read_bin_directory(source)[0]}
            # Recomputed by every model, stored by old ones.
            wanted = {name: tensor for name, tensor in wanted.items() if not name.endswith("rotary_emb.inv_freq")}
            self.assertTrue(wanted)
            native = self.path(os.path.basename(fixture) + ".native")
            self.convert(source, native)
            for size in ("5GB", "100KB"):
                with self.subTest(fixture=fixture, size=size):
                    back = self.path("%s.%s" % (os.path.basename(fixture), size))
                    self.convert(native, back, "--weights", "bin", "--max-shard-size", size)

                    found, _ = files.read_bin_directory(back)
                    self.assertEqual(set(found), set(wanted))
                    for name, tensor in wanted.items():
                        self.assertEqual(found[name], tensor, name)
                    self.assertFalse(files.safetensors_files(back))
                    if size == "100KB":
                        index = files.read_json(back, "pytorch_model.bin.index.json")
                        self.assertEqual(set(index["weight_map"]), set(found))
                        self.assertEqual(index["metadata"]["total_size"], sum(len(data) for _, _, data in found.values()))

    def test_tied_copies_share_memory_in_bin_files(self):
        source = self.editable_copy(os.path.join(files.FIXTURES, "llama32_tied_bf16", "hf"))
        path = os.path.join(source, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        self.assertNotIn("lm_head.weight", tensors)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        files.write_safetensors(path, tensors, metadata)
        self.convert(source, self.path("native"))
        self.convert(self.path("native"), self.path("bin"), "--weights", "bin")

        found, shared = files.read_bin_directory(self.path("bin"))

        self.assertEqual(shared, [["model.embed_tokens.weight", "lm_head.weight"]])
        self.assertEqual(found, tensors)
        self.convert(self.path("bin"), self.path("again"), "--to", "native")
        self.convert(self.path("again"), self.path("back"))
        self.assertEqual(files.read_directory(self.path("back")), tensors)

    def test_the_same_input_gives_the_same_bytes(self):
        self.convert(ONE, self.path("a"))
        self.convert(ONE, self.path("b"), "--threads", 1, "--max-memory", "64MiB")
        for name in os.listdir(self.path("a")):
            if os.path.isfile(os.path.join(self.path("a"), name)):
                with open(os.path.join(self.path("a"), name), "rb") as a, \
                        open(os.path.join(self.path("b"), name), "rb") as b:
                    self.assertEqual(a.read(), b.read(), name)

    def test_stored_rotary_frequencies_are_dropped_with_a_note(self):
        out = self.convert(LEGACY, self.path("native"))

        self.assertRegex(out, r"note: .*rotary_emb\.inv_freq.*computed")

    def test_shards_have_names_and_an_index_that_add_up(self):
        self.convert(ONE, self.path("native"))
        self.convert(self.path("native"), self.path("back"), "--max-shard-size", "100KB")

        shards = [os.path.basename(path) for path in files.safetensors_files(self.path("back"))]
        count = len(shards)
        self.assertGreater(count, 2)
        self.assertEqual(shards, ["model-%05d-of-%05d.safetensors" % (i + 1, count) for i in range(count)])
        index = files.read_json(self.path("back"), "model.safetensors.index.json")
        tensors = files.read_directory(self.path("back"))
        self.assertEqual(tensors, files.read_directory(ONE))
        self.assertEqual(sorted(index["weight_map"]), sorted(tensors))
        self.assertEqual(set(index["weight_map"].values()), set(shards))
        self.assertEqual(index["metadata"]["total_size"], sum(len(data) for _, _, data in tensors.values()))

    def test_a_cast_rounds_to_nearest_even(self):
        self.convert(FLOAT32, self.path("cast"), "--to", "llama", "--dtype", "bfloat16")

        cast = files.read_directory(self.path("cast"))
        for name, tensor in files.read_directory(FLOAT32).items():
            bits = struct.unpack("<%dI" % (len(tensor[2]) // 4), tensor[2])
            rounded = struct.pack("<%dH" % len(bits), *((b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits))
            self.assertEqual(cast[name], ("BF16", tensor[1], rounded), name)
        config = files.read_json(self.path("cast"), "config.json")
        self.assertEqual(config.get("dtype", config.get("torch_dtype")), "bfloat16")

    def test_the_config_says_the_type_of_the_weights_whenever_they_were_cast(self):
        for source, dtype in ((os.path.join(files.FIXTURES, "llama3_bf16_sharded", "hf"), "float32"), (FLOAT32, "bfloat16"),
                              (ONE, "float32")):
            config = files.read_json(source, "config.json")
            key = "dtype" if "dtype" in config else "torch_dtype"
            self.assertNotEqual(config[key], dtype)
            with self.subTest(source=source):
                name = "%s.%s" % (os.path.basename(os.path.dirname(source)), dtype)
                self.convert(source, self.path(name), "--dtype", dtype)
                self.convert(self.path(name), self.path(name + ".hf"))
                config[key] = dtype
                self.assertEqual(files.read_json(self.path(name + ".hf"), "config.json"), config)

    def test_without_a_cast_the_config_keeps_what_it_said(self):
        source = self.editable_copy(FLOAT32)
        config = files.read_json(source, "config.json")
        config["torch_dtype"] = "float16"
        with open(os.path.join(source, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        self.convert(source, self.path("native"))
        self.convert(self.path("native"), self.path("back"))

        self.assertEqual(files.read_json(self.path("back"), "config.json"), config)

    def test_meta_weights_that_were_cast_are_described_as_such(self):
        source = os.path.join(files.FIXTURES, "meta_llama31_bf16_mp2", "meta")
        self.convert(source, self.path("native"), "--dtype", "float32")
        self.convert(self.path("native"), self.path("hf"), "--to", "llama")

        self.assertEqual(files.read_json(self.path("hf"), "config.json")["torch_dtype"], "float32")

    def test_files_that_nobody_reads_travel_along(self):
        source = self.editable_copy(ONE)
        with open(os.path.join(source, "chat_template.jinja"), "w", encoding="utf-8") as file:
            file.write("{{ messages }}\n")

        self.convert(source, self.path("native"))
        self.convert(self.path("native"), self.path("back"))

        with open(os.path.join(self.path("back"), "chat_template.jinja"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "{{ messages }}\n")

    def test_templates_of_their_own_directory_travel_along(self):
        source = self.editable_copy(os.path.join(files.FIXTURES, "meta_llama2_bf16", "hf"))
        templates = os.path.join(source, "additional_chat_templates")
        os.makedirs(os.path.join(templates, "deeper"))
        for name in ("tool_use.jinja", "rag.jinja", "notes.txt"):
            with open(os.path.join(templates, name), "w", encoding="utf-8") as file:
                file.write("{{ %s }}\n" % name)

        out = self.convert(source, self.path("native"))
        self.convert(self.path("native"), self.path("back"))
        self.convert(source, self.path("reference"), "--to", "reference")
        self.convert(self.path("reference"), self.path("again"), "--to", "llama")

        self.assertIn("additional_chat_templates/notes.txt", out)
        self.assertIn("additional_chat_templates/deeper", out)
        for back in ("back", "again"):
            self.assertEqual(sorted(os.listdir(self.path(back + "/additional_chat_templates"))),
                             ["rag.jinja", "tool_use.jinja"])
            self.assertEqual(files.read_text(self.path(back), "additional_chat_templates", "rag.jinja"),
                             "{{ rag.jinja }}\n")
        # Not seen by a reader, a changed byte would travel on.
        with open(self.path("native/assets/additional_chat_templates/rag.jinja"), "w", encoding="utf-8") as file:
            file.write("{{ RAG.jinja }}\n")
        self.refuse(3, "E_CHECKSUM", self.path("native"), self.path("third"))

    def test_what_cannot_travel_is_left_behind_with_a_note(self):
        source = self.editable_copy(ONE)
        with open(os.path.join(source.encode(), b"tokenizer.model.\xff"), "wb"):
            pass
        os.symlink("blobs/gone", os.path.join(source, "README.md"))

        code, out, err = files.run("convert", source, self.path("native"))

        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"note: left behind.*README\.md.*tokenizer\.model\.")
        self.convert(self.path("native"), self.path("back"))
        # A tokenizer is another matter.
        os.symlink("blobs/gone", os.path.join(source, "tokenizer.json"))
        self.assertIn("tokenizer.json", self.refuse(5, "E_IO", source, self.path("other")))

    def test_unknown_config_keys_are_refused_or_carried(self):
        source = self.editable_copy(ONE)
        config = files.read_json(source, "config.json")
        config["frobnication"] = {"depth": 3}
        config["glorp"] = 1
        with open(os.path.join(source, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)

        error = self.refuse(3, "E_CONFIG", source, self.path("native"))
        self.convert(source, self.path("native"), "--carry-unknown")
        # They are part of the native checkpoint now.
        self.convert(self.path("native"), self.path("back"))

        self.assertIn("frobnication", error)
        self.assertIn("glorp", error)
        self.assertEqual(files.read_json(self.path("back"), "config.json"), config)

    def test_a_dry_run_plans_and_writes_nothing(self):
        out = self.convert(ONE, self.path("native"), "--dry-run", "--print-plan")

        self.assertEqual(os.listdir(self.work), [])
        self.assertRegex(out, r"(?m)^decoder\.0\.mixer\.query\.weight = model\.layers\.0\.self_attn\.q_proj\.weight$")
        self.assertRegex(out, r"(?m)^decoder\.0\.mixer\.key_value\.weight = concat\(")
        self.assertIn("nothing was written", out)

    def test_json_reports_are_json(self):
        report = json.loads(self.convert(ONE, self.path("native"), "--json", "--print-plan"))

        self.assertTrue(report["published"])
        self.assertEqual((report["from"], report["to"]), ("llama", "native"))
        self.assertEqual(report["tensors"], len(report["plan"]))
        self.assertEqual(report["verify"], "digest")
        self.assertLess(report["peak_memory_growth_bytes"], 256 << 20)
        code, out, _ = files.run("convert", ONE, self.path("native"), "--json")
        self.assertEqual(code, 2)
        self.assertEqual(json.loads(out)["error"]["kind"], "E_EXISTS")

    def test_logits_are_verified_on_demand(self):
        out = self.convert(FLOAT32, self.path("native"), "--verify", "logits", "--dtype", "bfloat16")

        self.assertIn("logits too", out)

    def test_logits_of_a_small_vocabulary_verify(self):
        source = self.editable_copy(FLOAT32)
        config = files.read_json(source, "config.json")
        config["vocab_size"] = 7
        with open(os.path.join(source, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        path = os.path.join(source, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            dtype, (_, width), data = tensors[name]
            tensors[name] = (dtype, [7, width], data[:7 * width * 4])
        files.write_safetensors(path, tensors, metadata)

        self.assertIn("logits too", self.convert(source, self.path("native"), "--verify", "logits"))

    def test_weights_are_safetensors_or_bin(self):
        self.refuse(2, "E_REQUEST", ONE, self.path("out"), "--to", "llama", "--weights", "pickle")

    def test_wrong_requests(self):
        os.mkdir(self.path("out"))
        with open(os.path.join(self.path("out"), "thesis.tex"), "w", encoding="utf-8"):
            pass
        self.refuse(2, "E_REQUEST", ONE)
        self.refuse(2, "E_REQUEST", ONE, self.path("x"), "--frobnicate")
        self.refuse(2, "E_REQUEST", ONE, self.path("x"), "--max-memory", "1MiB")
        self.refuse(2, "E_REQUEST", ONE, self.path("x"), "--max-shard-size", "much")
        self.assertIn("native", self.refuse(2, "E_REQUEST", ONE, self.path("x"), "--to", "gguf"))
        self.assertIn('without ".."', self.refuse(2, "E_REQUEST", ONE, os.path.join(self.work, "q", "..", "q2")))
        self.refuse(2, "E_REQUEST", ONE, ONE)
        self.refuse(2, "E_REQUEST", ONE, os.path.join(ONE, "inside"))
        self.refuse(2, "E_REQUEST", ONE, os.path.dirname(ONE))
        self.assertIn("--overwrite", self.refuse(2, "E_EXISTS", ONE, self.path("out")))
        self.refuse(2, "E_EXISTS", ONE, self.path("out"), "--overwrite")

    def test_overwrite_keeps_what_belongs_to_no_checkpoint(self):
        source = self.editable_copy(ONE)
        for name in ("thesis.tex", "results.csv"):
            with open(os.path.join(source, name), "w", encoding="utf-8"):
                pass
        os.mkdir(os.path.join(source, "figures"))

        error = self.refuse(2, "E_EXISTS", FLOAT32, source, "--overwrite")

        for name in ("thesis.tex", "results.csv", "figures"):
            self.assertIn('"%s"' % name, error)
            self.assertTrue(os.path.exists(os.path.join(source, name)))
        self.assertNotIn('"config.json"', error)

    def test_overwrite_keeps_what_another_format_would_write(self):
        self.convert(ONE, self.path("out"))
        own = ["README.md", "params.json", "tokenizer.json", "pytorch_model.bin", "train.py", "assets/notes.txt"]
        os.makedirs(self.path("out/assets"), exist_ok=True)
        for name in own:
            with open(self.path("out/" + name), "w", encoding="utf-8") as file:
                file.write("{}")

        error = self.refuse(2, "E_EXISTS", FLOAT32, self.path("out"), "--overwrite")

        for name in own:
            self.assertIn('"%s"' % name, error)
            self.assertTrue(os.path.exists(self.path("out/" + name)))

        # A script beside a model is not the model's, whatever its name: no index names it, and the new output has none.
        source = self.editable_copy(ONE)
        for name in ("train.py", "modeling_llama.py"):
            with open(os.path.join(source, name), "w", encoding="utf-8"):
                pass
        error = self.refuse(2, "E_EXISTS", FLOAT32, source, "--overwrite")
        self.assertIn('"train.py"', error)
        self.assertIn('"modeling_llama.py"', error)

        # Two checkpoints in one directory.
        self.convert(ONE, self.path("two"))
        shutil.copy(os.path.join(ONE, "config.json"), self.path("two"))
        shutil.copy(os.path.join(ONE, "model.safetensors"), self.path("two"))
        error = self.refuse(2, "E_EXISTS", FLOAT32, self.path("two"), "--overwrite")
        self.assertIn("several formats (llama, native)", error)

    def test_a_size_of_shards_is_refused_where_it_says_nothing(self):
        hf = os.path.join(files.FIXTURES, "meta_llama2_gqa_bf16_mp2", "hf")
        for to in ("distributed", "reference", "fairseq2"):
            error = self.refuse(2, "E_REQUEST", hf, self.path("out"), "--to", to, "--max-shard-size", "1MB")
            self.assertIn("--max-shard-size is no option here", error)

    def test_what_every_format_writes_may_be_replaced(self):
        hf = os.path.join(files.FIXTURES, "meta_llama2_gqa_bf16_mp2", "hf")
        for to, flags in (("llama", ["--max-shard-size", "20KB"]), ("llama", ["--weights", "bin"]), ("native", []),
                          ("llama", ["--weights", "bin", "--max-shard-size", "20KB"]), ("distributed", []),
                          ("reference", ["--model-parallel", 2]), ("fairseq2", []), ("fairseq2", ["--model-parallel", 2]),
                          ("native", ["--max-shard-size", "20KB"])):
            with self.subTest(to=to, flags=flags):
                self.convert(hf, self.path("out"), "--to", to, "--overwrite", *flags)
        # One whose save did not finish, too.
        os.truncate(self.path("out/manifest.pb"), 30)
        self.convert(hf, self.path("out"), "--overwrite")

    def test_overwrite_replaces_a_checkpoint(self):
        self.convert(LEGACY, self.path("out"))
        self.convert(ONE, self.path("out"), "--overwrite")
        self.convert(self.path("out"), self.path("back"))

        self.assertEqual(files.read_directory(self.path("back")), files.read_directory(ONE))
        self.assertEqual(sorted(os.listdir(self.work)), ["back", "out"])

    def test_bad_input(self):
        source = self.editable_copy(ONE)
        weights = os.path.join(source, "model.safetensors")
        os.truncate(weights, os.path.getsize(weights) - 1)

        self.refuse(3, "E_TRUNCATED", source, self.path("native"))
        self.refuse(5, "E_IO", self.path("nothing"), self.path("native"))
        os.mkdir(self.path("empty"))
        self.refuse(3, "E_UNSUPPORTED", self.path("empty"), self.path("native"))

    def test_what_is_no_model_is_told_by_what_it_is(self):
        source = self.editable_copy(ONE)
        config = files.read_json(source, "config.json")

        def refused_with(model_type):
            with open(os.path.join(source, "config.json"), "w", encoding="utf-8") as file:
                json.dump({**config, "model_type": model_type} if model_type else
                          {key: value for key, value in config.items() if key != "model_type"}, file)
            return self.refuse(3, "E_UNSUPPORTED", source, self.path("native"))

        self.assertIn('model_type "mistral"', refused_with("mistral"))
        self.assertIn("no model_type", refused_with(None))
        os.mkdir(self.path("empty"))
        error = self.refuse(3, "E_UNSUPPORTED", self.path("empty"), self.path("native"))
        self.assertIn("is empty", error)
        self.assertIn("linked: distributed, fairseq2, llama, native, reference", error)
        revision = self.path("models--meta--llama/snapshots/0123abcd")
        os.makedirs(revision)
        self.assertIn(revision, self.refuse(3, "E_UNSUPPORTED", self.path("models--meta--llama"), self.path("native")))

    def test_checklists_are_compared(self):
        for name in ("meta_llama31_bf16_mp2", "meta_llama2_gqa_bf16_mp2"):
            # Of files that do not say themselves under which name they were saved.
            source = self.path(name)
            self.convert(os.path.join(files.FIXTURES, name, "meta"), source, "--to", "reference")
            for path in (os.path.join(source, "consolidated.%02d.pth" % i) for i in range(2)):
                with open(path, "rb") as file:
                    content = file.read()
                with open(path, "wb") as file:
                    file.write(content.replace(os.path.basename(path)[:-4].encode() + b"/", b"archive_of_any1/"))
            with open(os.path.join(source, "tokenizer.model"), "w", encoding="utf-8") as file:
                file.write("tokens")
            listed = ("consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model")
            with open(os.path.join(source, "checklist.chk"), "w", encoding="utf-8") as file:
                for entry in listed:
                    with open(os.path.join(source, entry), "rb") as content:
                        file.write("%s  %s\n" % (hashlib.md5(content.read()).hexdigest(), entry))
            self.assertIn("compared the MD5 of 4 files", self.convert(source, self.path(name + ".whole")))
            self.assertEqual(files.run("inspect", source, "--verify")[0], 0)

            def refused(entry):
                error = self.refuse(3, "E_CHECKSUM", source, self.path("out"))
                self.assertIn(entry + '" has MD5', error)
                self.assertIn("checklist.chk", error)
                code, _, err = files.run("inspect", source, "--verify")
                self.assertEqual(code, 3)
                self.assertIn("E_CHECKSUM", err)
                # Who changed them knows.
                self.convert(source, self.path("out"), "--verify", "none")
                shutil.rmtree(self.path("out"))

            first, second = (os.path.join(source, entry) for entry in listed[:2])
            os.rename(first, first + ".x")
            os.rename(second, first)
            os.rename(first + ".x", second)
            refused("consolidated.00.pth")
            os.rename(first, first + ".x")
            os.rename(second, first)
            os.rename(first + ".x", second)
            with open(os.path.join(source, "tokenizer.model"), "w", encoding="utf-8") as file:
                file.write("Tokens")
            refused("tokenizer.model")

    def test_files_that_changed_places_are_found_without_a_checklist(self):
        for fixture, folder, names, options in (
                ("meta_llama31_bf16_mp2", "meta", ("consolidated.00.pth", "consolidated.01.pth"), ()),
                ("fairseq2_llama2_gqa_bf16_tp2", "fairseq2", ("model.0.pt", "model.1.pt"), ("--model", "7b"))):
            source = self.path(fixture)
            shutil.copytree(os.path.join(files.FIXTURES, fixture, folder), source)
            os.chmod(source, 0o755)
            if os.path.exists(os.path.join(source, "checklist.chk")):
                os.remove(os.path.join(source, "checklist.chk"))
            first, second = (os.path.join(source, name) for name in names)
            os.rename(first, first + ".x")
            os.rename(second, first)
            os.rename(first + ".x", second)
            error = self.refuse(3, "E_AMBIGUOUS", source, self.path("out"), *options)
            self.assertIn('was saved as "%s"' % names[1], error)

    def test_pointers_in_place_of_any_file_are_named(self):
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 5\n" % ("0" * 64)
        sharded = os.path.join(files.FIXTURES, "llama3_bf16_sharded", "hf")
        meta = os.path.join(files.FIXTURES, "meta_llama31_bf16_mp2", "meta")
        fairseq2 = os.path.join(files.FIXTURES, "fairseq2_llama2_bf16", "fairseq2")
        assets = ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
                  "generation_config.json", "chat_template.jinja", "additional_chat_templates/tool.jinja"]
        for fixture, options, names in (
                (sharded, (), ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"] + assets),
                (meta, (), ["params.json", "checklist.chk", "consolidated.01.pth"] + assets),
                (fairseq2, ("--model", "7b"), ["params.json", "model.pt", "checklist.chk"] + assets)):
            for name in names:
                with self.subTest(fixture=fixture, name=name):
                    source = self.editable_copy(fixture)
                    path = os.path.join(source, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    if fixture == sharded and name.startswith("model-"):
                        path = os.path.join(source, sorted(n for n in os.listdir(source) if n.startswith("model-"))[0])
                    with open(path, "w", encoding="utf-8") as file:
                        file.write(pointer)
                    error = self.refuse(3, "E_HEADER", source, self.path("out"), *options)
                    self.assertIn(os.path.basename(path), error)
                    self.assertIn("git lfs pull", error)
                    shutil.rmtree(source)

    def test_wrapped_names_are_stripped(self):
        def wrapped(prefix):
            source = self.editable_copy(FLOAT32)
            path = os.path.join(source, "model.safetensors")
            tensors, metadata = files.read_safetensors(path)
            files.write_safetensors(path, {prefix + name: tensor for name, tensor in tensors.items()}, metadata)
            return source

        for prefix, flags in (("module.", ["module."]), ("model.", ["model."]), ("module._orig_mod.", ["module.", "_orig_mod."])):
            with self.subTest(prefix=prefix):
                source = wrapped(prefix)
                error = self.refuse(3, "E_MISSING", source, self.path("out"))
                self.assertIn('--strip-prefix "%s"' % prefix, error)
                options = [part for flag in flags for part in ("--strip-prefix", flag)]
                self.convert(source, self.path("out"), *options)
                self.assertEqual(files.run("inspect", self.path("out"), "--diff", FLOAT32)[0], 0)
                code, _, err = files.run("inspect", source, "--diff", FLOAT32, *options)
                self.assertEqual(code, 0, err)
                self.refuse(2, "E_REQUEST", source, self.path("out2"), "--strip-prefix", "modul.")
                shutil.rmtree(source)
                shutil.rmtree(self.path("out"))
        self.convert(ONE, self.path("native"))
        self.assertIn("no option", self.refuse(2, "E_REQUEST", self.path("native"), self.path("out"), "--strip-prefix", "a"))

    def test_directories_that_are_no_checkpoint_say_what_they_are(self):
        os.mkdir(self.path("dcp"))
        for name in (".metadata", "__0_0.distcp"):
            with open(os.path.join(self.path("dcp"), name), "w", encoding="utf-8"):
                pass
        self.assertIn("dcp_to_torch", self.refuse(3, "E_UNSUPPORTED", self.path("dcp"), self.path("out")))
        weights = os.path.join(ONE, "model.safetensors")
        self.assertIn("is a file of a checkpoint", self.refuse(5, "E_IO", weights, self.path("out")))
        os.symlink("gone", self.path("link"))
        self.assertIn("leads nowhere", self.refuse(5, "E_IO", self.path("link"), self.path("out")))

    def test_a_cast_that_would_make_infinities_is_refused(self):
        source = self.editable_copy(FLOAT32)
        path = os.path.join(source, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        name = "model.layers.0.mlp.down_proj.weight"
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, struct.pack("<3f", 65519.0, -1e6, float("inf")) + data[12:])
        files.write_safetensors(path, tensors, metadata)

        for to in ("native", "llama"):
            error = self.refuse(3, "E_DTYPE", source, self.path("out"), "--dtype", "float16", "--to", to)
            self.assertIn('tensor "%s": 1 of ' % name, error)
            self.assertIn("bfloat16 and float32 can hold", error)
        # Infinities of the source's own are no loss.
        self.convert(source, self.path("bf16"), "--dtype", "bfloat16")

    def test_parts_of_different_types_are_joined_by_a_cast_only(self):
        source = self.editable_copy(FLOAT32)
        path = os.path.join(source, "model.safetensors")
        tensors, metadata = files.read_safetensors(path)
        half = {}
        for name in ("model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.gate_proj.weight"):
            values = files.floats(tensors[name])
            half[name] = ("F16", tensors[name][1], struct.pack("<%de" % len(values), *values))
        files.write_safetensors(path, {**tensors, **half}, metadata)

        error = self.refuse(3, "E_DTYPE", source, self.path("native"))
        self.assertIn("v_proj.weight\" is F16", error)
        self.assertIn("--dtype", error)
        self.convert(source, self.path("native"), "--dtype", "float32")
        self.convert(self.path("native"), self.path("back"))
        widened = {name: ("F32", shape, struct.pack("<%df" % (len(data) // 2), *struct.unpack("<%de" % (len(data) // 2), data)))
                   for name, (_, shape, data) in half.items()}
        self.assertEqual(files.read_directory(self.path("back")), {**tensors, **widened})

    def test_a_damaged_native_checkpoint_is_not_converted(self):
        self.convert(ONE, self.path("native"))
        weights = os.path.join(self.path("native"), "model.safetensors")
        with open(weights, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))

        self.refuse(3, "E_CHECKSUM", self.path("native"), self.path("back"))


if __name__ == "__main__":
    unittest.main()
