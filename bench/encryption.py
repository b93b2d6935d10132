#!/usr/bin/env python3
"""What TLS between nodes costs: two clusters of three processes on loopback in turns, one without and one with --tls-dir.

Per round and cluster: tokens per second of one stream and of eight (decode: messages of a few KiB), seconds to the first token
of a prompt of 400 words (prefill: hundreds of KiB a hop), and what `shoal doctor` measures of a link between two workers: round trip of
a small call, and MB/s of 8 MiB. All processes share this machine, so encryption takes CPU from computing, as it would not
on machines of their own.

    bench/encryption.py [--rounds 5]
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from report import ROOT, commit, machine, spread

sys.path.insert(0, str(ROOT / "tools/demo"))
from local_cluster import LocalCluster  # noqa: E402

ROWS = ("tokens/s, 1 stream", "tokens/s, 8 streams", "first token of a long prompt, ms", "round trip of a link, us",
        "MB/s of a link")


def run(shoal, *words):
    done = subprocess.run([shoal, *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        sys.exit(f"encryption: shoal {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
    return done.stdout


def measure(shoal, cluster, tls):
    def load(*words):
        return json.loads(run(shoal, "load", "--url", cluster.url, "--json", *words))

    values = {}
    for streams in (1, 8):
        report = load("--concurrency", streams, "--requests", 2 * streams, "--prompt-words", "8", "--output-tokens", "60",
                      "--extra", '{"ignore_eos": true}')
        values[f"tokens/s, {streams} stream{'s' if streams > 1 else ''}"] = report["per_second"]["output_tokens"]
    report = load("--concurrency", "1", "--requests", "4", "--prompt-words", "400", "--output-tokens", "1")
    values["first token of a long prompt, ms"] = report["ttft_ms"]["p50"]
    found = json.loads(run(shoal, "doctor", "--workers", ",".join(cluster.addresses), "--json", *tls))
    link = next(one["text"] for one in found["findings"] if one["node"] == "worker-1" and one["check"] == "link to worker-2")
    values["round trip of a link, us"] = float(re.search(r"([\d.]+) us", link)[1])
    values["MB/s of a link"] = float(re.search(r"([\d.]+) MB/s", link)[1])
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", type=Path, default=ROOT / "build/release/bin/shoal")
    parser.add_argument("--model", type=Path, default=ROOT / "models/shoal-demo-4bit")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        certs = Path(folder) / "certs"
        run(options.shoal, "cert", "init", certs, "--node", "worker-1", "--node", "worker-2")
        split = ("--split", "2,2,2", "--experts", "round_robin:3", "--speculate", "off")
        flags = {"plain": (), "TLS": ("--tls-dir", certs)}
        clusters = {name: stack.enter_context(LocalCluster(options.shoal, options.model, Path(folder) / name, 2, worker_args=more,
                                                           serve_args=(*split, *more))) for name, more in flags.items()}
        rounds = [{name: measure(options.shoal, cluster, flags[name]) for name, cluster in clusters.items()}
                  for _ in range(options.rounds + 1)]
    rounds = rounds[1:]  # The first warms up.
    print(f"{machine()}; commit {commit()}; {options.rounds} rounds, median (minimum-maximum)\n")
    print("| | plain | TLS | TLS / plain |\n| --- | ---: | ---: | ---: |")
    for row in ROWS:
        plain, tls = ([one[name][row] for one in rounds] for name in ("plain", "TLS"))
        ratio = statistics.median(t / p for t, p in zip(tls, plain))
        print(f"| {row} | {spread(plain)} | {spread(tls)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
