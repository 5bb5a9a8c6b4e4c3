"""What the comparison scripts share: cold, synced, side by side."""

import os
import random
import statistics
import subprocess
import sys
import time


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3\n")
    except PermissionError:
        sys.exit("error: the page cache can only be dropped by root: sudo %s" % " ".join(sys.argv))


def run(command):
    """Seconds, and the most bytes that were resident, of a command that starts on a cold cache."""
    drop_caches()
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss * 1024


def cp(source, target):
    drop_caches()
    start = time.monotonic()
    subprocess.run(["cp", "-r", source, target], check=True)
    os.sync()
    return time.monotonic() - start


def in_turn(measurements, rounds, clean):
    """{name: [value of each round]}; every measurement once a round, in an order that is drawn anew for each.

    Who runs before leaves the machine as it likes: a virtual one, for instance, with memory that the host has already
    found for it, or without.  So nobody always comes after the same other one.  The same draw in every run.
    """
    draw = random.Random(1)
    values = {name: [] for name in measurements}
    for round_number in range(rounds):
        for name in draw.sample(list(measurements), len(measurements)):
            values[name].append(measurements[name]())
            clean()
            print("round %d: %-30s %s" % (round_number + 1, name, values[name][-1]), file=sys.stderr)
    return values


def ratios(numerators, denominators):
    """Median, least and greatest of the ratios of each round."""
    each = [a / b for a, b in zip(numerators, denominators)]
    return statistics.median(each), min(each), max(each)
