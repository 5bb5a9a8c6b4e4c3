#!/usr/bin/env python3
"""logits, end to end: float32 logits of every fixture equal the ones that other implementations computed."""

import json
import os
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, "tests/tools")
import checkpoint_files as files  # noqa: E402

ONE = os.path.join(files.FIXTURES, "llama31_v5_bf16")


class LogitsTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.work)
        self.output = os.path.join(self.work, "logits.safetensors")

    def logits(self, directory, tokens):
        code, _, err = files.run("logits", directory, "--tokens", tokens, "--overwrite", "--output", self.output)
        self.assertEqual(code, 0, err)
        tensors, _ = files.read_safetensors(self.output)
        self.assertEqual(list(tensors), ["logits"])
        return tensors["logits"]

    def test_a_directory_is_no_output(self):
        code, _, err = files.run("logits", os.path.join(ONE, "hf"), "--tokens", "1", "--output", self.work)

        self.assertEqual(code, 2, err)
        self.assertIn("error: E_REQUEST: --output: ", err)
        self.assertEqual(os.listdir(self.work), [])

    def test_every_fixture_from_each_format(self):
        self.assertTrue(files.fixtures())
        for fixture in files.fixtures() + files.meta_fixtures():
            with self.subTest(fixture=fixture):
                expected_path = os.path.join(fixture, "expected.safetensors")
                expected = files.read_safetensors(expected_path)[0]["logits"]
                tolerance = files.read_json(fixture, "fixture.json")["atol_fp32"]
                meta = os.path.join(fixture, "meta")
                if os.path.isdir(meta):
                    directories = [meta]
                else:
                    native = os.path.join(self.work, os.path.basename(fixture))
                    code, _, err = files.run("convert", os.path.join(fixture, "hf"), native)
                    self.assertEqual(code, 0, err)
                    directories = [os.path.join(fixture, "hf"), native]
                for directory in directories:
                    found = self.logits(directory, expected_path)
                    self.assertEqual(found[1], expected[1])
                    distance = max(abs(a - b) for a, b in zip(files.floats(found), files.floats(expected)))
                    self.assertLessEqual(distance, tolerance, directory)

    def test_a_tree_of_fairseq2(self):
        # The others are the same tensors and config as their twins, which other tests compare.
        (name, fixture, twin, params), = [row for row in files.fairseq2_fixtures() if row[0].endswith("_tree")]
        source = os.path.join(self.work, name)
        shutil.copytree(fixture, source)
        shutil.copy(params, os.path.join(source, "params.json"))
        expected_path = os.path.join(twin, "expected.safetensors")
        expected = files.read_safetensors(expected_path)[0]["logits"]
        found = self.logits(source, expected_path)
        self.assertEqual(found[1], expected[1])
        distance = max(abs(a - b) for a, b in zip(files.floats(found), files.floats(expected)))
        self.assertLessEqual(distance, files.read_json(twin, "fixture.json")["atol_fp32"])

    def test_ids_on_the_command_line(self):
        _, shape, _ = self.logits(os.path.join(ONE, "hf"), "1,2,3")

        self.assertEqual(shape, [1, 3, 320])

    def test_refusals(self):
        def code_of(*arguments):
            return files.run("logits", os.path.join(ONE, "hf"), "--output", self.output, *arguments)[0]

        self.assertEqual(code_of("--tokens", "1,2,320"), 2)  # outside the vocabulary
        self.assertEqual(code_of("--tokens", "one"), 2)
        self.assertEqual(code_of(), 2)
        self.assertEqual(code_of("--tokens", os.path.join(ONE, "hf", "model.safetensors")), 3)  # no input_ids
        self.assertEqual(os.listdir(self.work), [])

    def test_json(self):
        code, out, err = files.run("logits", os.path.join(ONE, "hf"), "--tokens", "5", "--output", self.output, "--json")

        self.assertEqual(code, 0, err)
        self.assertEqual(json.loads(out)["shape"], [1, 1, 320])


if __name__ == "__main__":
    unittest.main()
