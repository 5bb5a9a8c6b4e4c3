#!/usr/bin/env python3
"""What tools write: reports that cannot be written are failures, and files that users name are never somebody else's."""

import fcntl
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import unittest

sys.path.insert(0, "tests/tools")
import checkpoint_files as files  # noqa: E402

ONE = os.path.join(files.FIXTURES, "llama31_v5_bf16", "hf")
OTHER = os.path.join(files.FIXTURES, "llama31_fp32", "hf")


class WorkTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.work)
        self.out = self.path("out")

    def path(self, name):
        return os.path.join(self.work, name)

    def run_tool(self, arguments, stdout=subprocess.PIPE, shell=None):
        """`shell`: what a shell does before it becomes the tool."""
        command = [os.path.join("tools", arguments[0]), *map(str, arguments[1:])]
        if shell is not None:
            command = ["sh", "-c", shell + '; exec "$@"', "sh", *command]
        return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)


class ReportTest(WorkTest):
    def setUp(self):
        super().setUp()
        with open(self.path("data"), "wb") as file:
            file.write(bytes(100))
        with open(self.path("run.textproto"), "w", encoding="utf-8") as file:
            file.write("steps: 1 output: \"%s\" threads: 1 pretrained { path: \"%s\" } optimizer { lr: 1e-3 } "
                       "data { path: \"%s\" kind: BYTES batch_size: 1 sequence_length: 8 }" % (
                           self.path("run"), ONE, self.path("data")))
        logits = ["logits", ONE, "--tokens", "1", "--overwrite", "--output", self.path("logits")]
        self.reports = [
            ["convert", ONE, self.out], ["convert", ONE, self.out, "--json"],
            ["convert", ONE, self.out, "--dry-run", "--print-plan"],
            ["convert", ONE, self.out, "--dry-run", "--json"],
            ["inspect", ONE], ["inspect", ONE, "--json"], ["inspect", ONE, "--verify"],
            ["inspect", ONE, "--diff", ONE], ["inspect", ONE, "--diff", OTHER],
            ["inspect", ONE, "--diff", OTHER, "--json"],
            logits, logits + ["--json"],
            ["train", self.path("run.textproto"), "--dry-run"],
            ["train", self.path("run.textproto"), "--dry-run", "--json"],
            ["train", self.path("run.textproto"), "--json"],
            ["launch", "1", "--program", "/bin/echo", "--", "what a rank says"],
        ] + [[tool, flag] for tool in ("convert", "inspect", "logits", "train", "launch")
             for flag in ("--help", "--version")]

    def clean(self):
        for name in ("out", "run"):
            shutil.rmtree(self.path(name), ignore_errors=True)

    def test_a_full_disk_is_an_error(self):
        for arguments in self.reports:
            with self.subTest(arguments=arguments), open("/dev/full", "wb") as full:
                done = self.run_tool(arguments, stdout=full)
                self.assertEqual(done.returncode, 5, done.stderr)
                self.assertIn(b"standard output cannot be written: No space left on device", done.stderr)
                self.assertEqual(done.stderr.count(b"error: E_IO: "), 1)
            self.clean()

    def test_a_closed_output_is_an_error_and_no_file_of_ours_takes_its_place(self):
        for arguments in self.reports:
            with self.subTest(arguments=arguments):
                done = self.run_tool(arguments, shell="exec >&-")
                self.assertEqual(done.returncode, 5, done.stderr)
                self.assertIn(b"error: E_IO: ", done.stderr)
            if arguments == ["convert", ONE, self.out]:
                self.assertEqual(files.run("inspect", self.out, "--verify")[0], 0)
            self.clean()

    def test_a_reader_that_is_gone_ends_tools_quietly(self):
        for arguments in self.reports:
            for shell in (None, "trap '' PIPE"):
                with self.subTest(arguments=arguments, shell=shell):
                    reader, writer = os.pipe()
                    os.close(reader)
                    done = self.run_tool(arguments, stdout=writer, shell=shell)
                    os.close(writer)
                    self.assertEqual(done.returncode, -signal.SIGPIPE, done.stderr)
                    self.assertNotIn(b"error", done.stderr)
                self.clean()

    def test_an_output_that_does_not_block_gets_all(self):
        """Some programs give those that they start such pipes."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        with subprocess.Popen([os.path.join("tools", "inspect"), ONE, "--json", "--verify"], stdout=writer) as tool:
            os.close(writer)
            waiting = bytearray(4)
            while struct.unpack("i", waiting)[0] < 4096:  # until the pipe is full
                fcntl.ioctl(reader, termios.FIONREAD, waiting)
            with open(reader, encoding="utf-8") as file:
                said = file.read()
        self.assertEqual(tool.returncode, 0)
        self.assertEqual(said, files.run("inspect", ONE, "--json", "--verify")[1])

    def test_what_is_published_stays_and_is_told(self):
        with open("/dev/full", "wb") as full:
            done = self.run_tool(["convert", ONE, self.out], stdout=full)
        self.assertEqual(done.returncode, 5)
        self.assertIn(b"/out\" is published and whole: standard output cannot be written", done.stderr)
        self.assertEqual(os.listdir(self.work).count("out"), 1)
        self.assertEqual(files.run("inspect", self.out, "--diff", ONE)[0], 0)

    def test_a_plan_that_cannot_be_written_ends_the_work_before_it_begins(self):
        before = sorted(os.listdir(self.work))
        with open("/dev/full", "wb") as full:
            self.assertEqual(self.run_tool(["convert", ONE, self.out, "--print-plan"], stdout=full).returncode, 5)
        self.assertEqual(sorted(os.listdir(self.work)), before)
        reader, writer = os.pipe()
        os.close(reader)
        self.assertEqual(self.run_tool(["convert", ONE, self.out, "--print-plan"], stdout=writer).returncode,
                         -signal.SIGPIPE)
        os.close(writer)
        self.assertEqual(sorted(os.listdir(self.work)), before)

    def test_errors_keep_their_codes(self):
        with open("/dev/full", "wb") as full:
            for flags in ([], ["--json"]):
                self.assertEqual(self.run_tool(["inspect", ONE, "--bogus"] + flags, stdout=full).returncode, 2)
                self.assertEqual(self.run_tool(["convert", self.path("data"), self.out] + flags,
                                               stdout=full).returncode,
                                 self.run_tool(["convert", self.path("data"), self.out] + flags).returncode)

    def test_versions(self):
        for tool in ("convert", "inspect", "logits", "train", "launch"):
            done = self.run_tool([tool, "--version"])
            said = done.stdout.decode()
            self.assertEqual(done.returncode, 0)
            self.assertRegex(said, r"^%s \(waypoint\) [0-9]+\.[0-9]+\.[0-9]+\n" % tool)
            self.assertEqual("\nformats: distributed, fairseq2, llama, native, reference\n" in said, tool != "launch")
            self.assertEqual("\nlibtorch: " in said, tool in ("logits", "train"), said)


class OutputFileTest(WorkTest):
    def logits(self, *flags, output=None, **how):
        return self.run_tool(["logits", ONE, "--tokens", "1,2", "--output", output or self.out, *flags], **how)

    def refused(self, code, kind, *flags, output=None):
        done = self.logits(*flags, output=output)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(b"error: %s: --output: " % kind, done.stderr)

    def is_logits(self, path):
        return list(files.read_safetensors(path)[0]) == ["logits"]

    def write(self, path, text="mine"):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def test_a_file_that_is_there_needs_overwrite(self):
        self.write(self.out)
        os.chmod(self.out, 0o640)
        self.refused(2, b"E_EXISTS")
        self.assertEqual(files.read_text(self.out), "mine")
        self.assertEqual(self.logits("--overwrite").returncode, 0)
        self.assertTrue(self.is_logits(self.out))
        self.assertEqual(stat.S_IMODE(os.stat(self.out).st_mode), 0o640)
        self.assertEqual(os.listdir(self.work), ["out"])

    def test_it_is_looked_at_before_the_work(self):
        self.write(self.out)
        done = self.run_tool(["logits", self.path("no checkpoint"), "--tokens", "1", "--output", self.out])
        self.assertIn(b"error: E_EXISTS: ", done.stderr)
        self.refused(5, b"E_IO", output=self.path("no directory/out"))

    def test_any_name_that_the_file_system_takes_will_do(self):
        longest = self.path("x" * 255)
        self.assertEqual(self.logits(output=longest).returncode, 0)
        self.assertTrue(self.is_logits(longest))
        self.refused(5, b"E_IO", output=self.path("x" * 256))
        self.assertEqual(len(os.listdir(self.work)), 1)

    def test_a_file_of_the_checkpoint_is_no_output(self):
        copy = self.path("copy")
        shutil.copytree(ONE, copy)
        done = self.run_tool(["logits", copy, "--tokens", "1", "--overwrite", "--output", copy + "/config.json"])
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(files.read_json(copy, "config.json"), files.read_json(ONE, "config.json"))

    def test_directories_and_links_are_refused(self):
        os.mkdir(self.path("directory"))
        self.write(self.path("mine"))
        for name, target in (("to_file", "mine"), ("to_nothing", "nothing"), ("to_directory", "directory")):
            os.symlink(target, self.path(name))
        for name in ("directory", "to_file", "to_nothing", "to_directory"):
            for flags in ([], ["--overwrite"]):
                self.refused(2, b"E_REQUEST", *flags, output=self.path(name))
        self.assertEqual(files.read_text(self.path("mine")), "mine")
        self.assertTrue(os.path.islink(self.path("to_file")))
        self.assertEqual(len(os.listdir(self.work)), 5)

    def test_devices_are_written_into(self):
        os.symlink("/dev/null", self.path("link"))
        for path in ("/dev/null", self.path("link")):
            for flags in ([], ["--overwrite"]):
                done = self.logits(*flags, output=path)
                self.assertEqual(done.returncode, 0, done.stderr)
        done = self.logits("--overwrite", output="/dev/full")
        self.assertEqual(done.returncode, 5)
        self.assertIn(b"error: E_NO_SPACE: write to \"/dev/full\"", done.stderr)
        for path in ("/dev/null", "/dev/full"):
            self.assertTrue(stat.S_ISCHR(os.lstat(path).st_mode))
        self.assertTrue(os.path.islink(self.path("link")))

    def test_pipes_are_written_into(self):
        os.mkfifo(self.out)
        os.symlink("out", self.path("link"))
        for path in (self.out, self.path("link")):
            got = []

            def read():
                with open(self.out, "rb") as file:
                    got.append(file.read())
            reader = threading.Thread(target=read)
            reader.start()
            done = self.logits("--overwrite", output=path)
            reader.join()
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(self.path("copy"), "wb") as file:
                file.write(got[0])
            self.assertTrue(self.is_logits(self.path("copy")))
            self.assertTrue(stat.S_ISFIFO(os.lstat(self.out).st_mode))

    def test_standard_output_gets_the_data_and_nothing_else(self):
        done = self.logits(output="/dev/stdout")
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.out, "wb") as file:
            file.write(done.stdout)
        self.assertTrue(self.is_logits(self.out))
        self.assertIn(b"logits [1, 2, 320]", done.stderr)
        # Redirected to a file, behind what is there.
        with open(self.out, "wb") as file:
            file.write(b"before")
            file.flush()
            done = self.logits("--json", output="/dev/stdout", stdout=file)
            self.assertEqual(done.returncode, 0, done.stderr)
            file.flush()
        with open(self.out, "rb") as file:
            self.assertEqual(file.read(6), b"before")
            data = file.read()
        self.write(self.out, "")
        with open(self.out, "wb") as file:
            file.write(data)
        self.assertTrue(self.is_logits(self.out))
        self.assertEqual(json.loads(done.stderr)["shape"], [1, 2, 320])


if __name__ == "__main__":
    unittest.main()
