#!/usr/bin/env python3
"""Time to the first token of a turn after a restart, with blocks of the cache on disk (--kv-disk) and without.

Per case: a first turn with a head of HEAD tokens, a restart of the server, and the next turn, which repeats the head and
has 40 tokens more; RUNS times with new heads, each way by turns. Medians, with minimum and maximum. The operating
system's cache of files is as the first turn left it: the reads measure a warm disk. Only the standard library.
"""
import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from end_to_end import generate
from report import ROOT, commit, machine, spread

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster, wait_until  # noqa: E402  (it lies beside the demo)


def settled(cluster):
    stats = cluster.cache_stats()
    return stats["kv_disk"]["blocks"] >= stats["blocks"]["cached"]


def turn_after_restart(shoal, folder, head, on_disk, log_dir, seed):
    """Milliseconds to the first token of the first turn, and of the turn after the restart; what of it was restored, and
    the bytes on disk."""
    numbers = random.Random(seed)
    prompt = [numbers.randrange(200) for _ in range(head)]
    tail = [numbers.randrange(200) for _ in range(40)]
    with tempfile.TemporaryDirectory() as disk:
        flags = ["--kv-positions", 8192, "--threads", 2]
        if on_disk:
            flags += ["--kv-disk", "4GiB", "--kv-disk-dir", Path(disk) / "kv"]
        with LocalCluster(shoal, folder, log_dir, serve_args=flags) as cluster:
            cold, _ = generate(cluster.url, prompt, 2, [])
            if on_disk and not wait_until(lambda: settled(cluster), 120):
                raise RuntimeError("the blocks are not written")
        with LocalCluster(shoal, folder, log_dir, serve_args=flags) as cluster:
            if on_disk and not wait_until(lambda: cluster.cache_stats()["kv_disk"]["blocks"] > 0, 60):
                raise RuntimeError("no blocks after the restart")
            first, _ = generate(cluster.url, prompt + tail, 2, [])
            stats = cluster.cache_stats()["kv_disk"]
    return 1e3 * cold, 1e3 * first, stats["tokens_restored"], stats["bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--model", default=ROOT / "models" / "shoal-demo-4bit", type=Path)
    parser.add_argument("--head", default=1500, type=int, help="tokens")
    parser.add_argument("--runs", default=5, type=int)
    parser.add_argument("--synth-layers", type=int, metavar="N",
                        help="a random Qwen3-1.7B at 4 bits with N layers instead of --model")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.model
        if flags.synth_layers:
            folder = Path(scratch) / f"qwen3-1.7b-{flags.synth_layers}-layers-4bit"
            subprocess.run([flags.shoal, "synth", "--shape", "A", "--bits", "4", "--layers", str(flags.synth_layers),
                            "--out", folder], check=True)
        results = {True: [], False: []}
        for run in range(flags.runs):
            for on_disk in (False, True):
                results[on_disk].append(turn_after_restart(flags.shoal, folder, flags.head, on_disk,
                                                           Path(scratch) / "logs", run))
    print(f"{folder.name}, head of {flags.head} tokens; {machine()}; commit {commit()}; {flags.runs} runs\n")
    print("| --kv-disk | TTFT of the first turn, ms | TTFT after the restart, ms | tokens restored | MiB on disk |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for on_disk, name in ((False, "off"), (True, "on")):
        cold, first, restored, size = zip(*results[on_disk])
        print(f"| {name} | {spread(cold)} | {spread(first)} | {restored[-1]} | {size[-1] / 2**20:.1f} |")


if __name__ == "__main__":
    main()
