"""Includes point only downwards: tools > engine > {models, optimizer} > checkpoint > third_party."""

import os
import re
import sys
import unittest

# What each folder may include, beside itself.
ALLOWED = {
    "checkpoint": set(),
    "optimizer": {"checkpoint"},
    "models": {"checkpoint"},
    "engine": {"checkpoint", "models", "optimizer"},
    "tools": {"checkpoint", "models", "optimizer", "engine"},
}
# Inside checkpoint/, from the bottom up; a folder may include those before it.
CHECKPOINT_ORDER = [
    ["base"],
    ["storage", "tensor"],
    ["container", "plan"],
    ["convert", "coordination"],
    ["format"],
    ["checkpointer"],
    ["async"],
    ["torch"],
]
# Where checkpoint/ may name libtorch: live tensors, and messages between processes.
LIBTORCH = ("checkpoint/torch/", "checkpoint/coordination/c10d/")
INCLUDE = re.compile(r'^#include "((?:%s)/[^"]+)"' % "|".join(ALLOWED), re.MULTILINE)


def sources():
    for root in ALLOWED:
        for folder, _, names in os.walk(root):
            for name in names:
                if name.endswith((".h", ".cc")):
                    yield os.path.join(folder, name)


def level(path):
    folder = path.split("/")[1]
    for i, folders in enumerate(CHECKPOINT_ORDER):
        if folder in folders:
            return i
    raise AssertionError("checkpoint/%s has no place in CHECKPOINT_ORDER" % folder)


class LayeringTest(unittest.TestCase):
    def test_there_is_something_to_check(self):
        self.assertGreater(len(list(sources())), 50)

    def test_folders_include_downwards(self):
        wrong = []
        for path in sources():
            own = path.split("/")[0]
            with open(path, encoding="utf-8") as file:
                for included in INCLUDE.findall(file.read()):
                    other = included.split("/")[0]
                    if other != own and other not in ALLOWED[own]:
                        wrong.append("%s includes %s" % (path, included))
                    if own == other == "checkpoint" and level(included) > level(path):
                        wrong.append("%s includes %s" % (path, included))
        self.assertEqual(wrong, [])

    def test_only_the_bridge_and_c10d_name_libtorch_in_checkpoint(self):
        torch = re.compile(r'^#include [<"](ATen|c10|torch)/', re.MULTILINE)
        wrong = []
        for path in sources():
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if path.startswith("checkpoint/") and not path.startswith(LIBTORCH) and torch.search(text):
                wrong.append(path)
            if path.endswith(".h") and "torch/torch.h" in text:
                wrong.append(path + " includes torch/torch.h")
        self.assertEqual(wrong, [])

    def test_every_number_of_every_message_states_its_range(self):
        number = re.compile(
            r"^\s*(?:optional |repeated )?(?:map<\w+, )?(?:u?int|s?fixed|sint)(?:32|64)>? (\w+) = \d+([^;]*);"
            r"|^\s*(?:optional |repeated )?(?:map<\w+, )?(?:double|float)>? (\w+) = \d+([^;]*);",
            re.MULTILINE,
        )
        without = []
        fields = 0
        for root in ALLOWED:
            for folder, _, names in os.walk(root):
                for name in names:
                    path = os.path.join(folder, name)
                    # The range itself is read from no file.
                    if not name.endswith(".proto") or path == "checkpoint/base/range.proto":
                        continue
                    with open(path, encoding="utf-8") as file:
                        for found in number.finditer(file.read()):
                            fields += 1
                            if "(waypoint.range)" not in (found.group(2) or "") + (found.group(4) or ""):
                                without.append("%s: %s" % (path, found.group(1) or found.group(3)))
        self.assertGreater(fields, 80)
        self.assertEqual(without, [])

    def test_no_source_is_longer_than_600_lines(self):
        long = []
        for path in sources():
            with open(path, encoding="utf-8") as file:
                lines = sum(1 for _ in file)
            if lines > 600:
                long.append("%s: %d lines" % (path, lines))
        self.assertEqual(long, [])


if __name__ == "__main__":
    # The sources are those beside this file's real place, not copies in a test's own folder.
    os.chdir(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))
    sys.exit(unittest.main())
