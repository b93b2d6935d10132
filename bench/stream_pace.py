#!/usr/bin/env python3
"""The gaps between tokens of running streams while a long prompt arrives, with and without `--target-itl`.

    bench/stream_pace.py --layers 4 --targets 0,100

The model is Qwen3-1.7B (shape A) with random 4-bit weights and so many layers, written once below build/bench. Per target
one server and, one after the other, some prompts of different tokens; the streams run all the while. Printed only. Only the
standard library.
"""
import argparse
import json
import random
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from end_to_end import synthesized
from report import ROOT, commit, machine

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster, wait_until  # noqa: E402  (it lies beside the demo)


def arrivals(url, prompt, count, times, stop=None):
    """Appends the arrival time of each token of an answer of `count` tokens to `times`."""
    body = {"prompt": prompt, "max_tokens": count, "temperature": 0, "stream": True, "ignore_eos": True}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as response:
        for line in response:
            if line.startswith(b"data: {") and b'"choices":[{' in line:
                times.append(time.perf_counter())
            if stop is not None and stop.is_set():
                return


def percentile(values, percent):
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def gaps_within(streams, begin, end):
    """Milliseconds of the gaps that ended in [begin, end), or in which it lies."""
    return [1000 * (after - before) for times in streams for before, after in zip(times, times[1:])
            if after >= begin and before < end]


def line(what, gaps, target, prompt_s=None):
    share = f"{sum(gap <= 1.5 * target for gap in gaps) / len(gaps):8.1%}" if target else "       -"
    prompt = f"{prompt_s:8.1f}" if prompt_s else "       -"
    print(f"{target or 'none':>8} {what:>10} {len(gaps):6} {percentile(gaps, 50):8.1f} {percentile(gaps, 90):8.1f} "
          f"{percentile(gaps, 99):8.1f} {max(gaps):8.1f} {share} {prompt}", flush=True)


def measure(shoal, options, target, logs):
    flags = ("--target-itl", target, "--threads", options.threads, "--rows-per-step", options.rows_per_step)
    draw = random.Random(16)
    words = lambda count: [draw.randrange(1000, 20000) for _ in range(count)]  # noqa: E731
    model = synthesized(shoal, ROOT / "build" / "bench" / f"qwen3-1.7b-4bit-{options.layers}-layers", "A", options.layers)
    with LocalCluster(shoal, model, logs, 0, serve_args=flags) as cluster:
        stop = threading.Event()
        streams = [[] for _ in range(options.streams)]
        threads = [threading.Thread(target=arrivals, args=(cluster.url, words(64), 30000, times, stop), daemon=True)
                   for times in streams]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: all(len(times) > 30 for times in streams), 600), "the streams do not run"
        begin = time.perf_counter()
        time.sleep(options.alone_s)
        line("no prompt", gaps_within(streams, begin, time.perf_counter()), target)
        for _ in range(options.rounds):
            first = []
            begin = time.perf_counter()
            arrivals(cluster.url, words(options.prompt), 1, first)
            line("prompt", gaps_within(streams, begin, first[0]), target, first[0] - begin)
        stop.set()
        for thread in threads:
            thread.join(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", type=Path, default=ROOT / "build/release/bin/shoal")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--targets", default="0,100", help="milliseconds; 0: none")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=16384, help="tokens")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows-per-step", type=int, default=256)
    parser.add_argument("--alone-s", type=float, default=5, help="seconds without a prompt, before")
    options = parser.parse_args()
    print(f"{machine()}; {options.threads} threads; Qwen3-1.7B cut to {options.layers} layers; {options.streams} streams; a prompt of "
          f"{options.prompt} tokens; commit {commit()}")
    print("target/ms            gaps   p50/ms   p90/ms   p99/ms   max/ms  in time prompt/s")
    with tempfile.TemporaryDirectory() as logs:
        for target in map(int, options.targets.split(",")):
            measure(options.shoal, options, target, Path(logs) / str(target))


if __name__ == "__main__":
    main()
