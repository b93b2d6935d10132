#!/usr/bin/env python3
"""Rows that travel exactly, as f16 and as q8 over slow links: time to the first token, and tokens per second of one stream.

Needs root and veth: each worker is in a network namespace of its own, behind a token bucket of --mbit in both directions. One
cluster per format, all up at once, asked by turns. Only the standard library.
"""
import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from end_to_end import ends_of_text, generate, random_prompt, sent_of_a_token
from fetch_weights import Links
from report import ROOT, commit, machine, spread

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster  # noqa: E402  (it lies beside the demo)

FORMATS = ("exact", "f16", "q8")


def serve(flags, model, links, folder, wire):
    alike = ["--threads", 1, "--insecure"]
    return LocalCluster(flags.shoal, model, folder / wire, len(links.hosts), hosts=links.hosts, prefixes=links.prefixes,
                        worker_args=alike,
                        serve_args=[*alike, "--wire", wire, "--listen", "0.0.0.0:0", "--kv-positions", 4096, "--prefix-cache", "off",
                                    "--speculate", "off", "--liveness-timeout", 120, *flags.placement.split()])


def measure(clusters, vocabulary, eos, flags):
    """Per format: times to the first token and rates of decoding, and bytes of a token that was decoded."""
    numbers = random.Random(1)
    first, rate, sent = ({wire: [] for wire in clusters} for _ in range(3))
    for run in range(-1, flags.runs):  # The first is a warm-up.
        prompt = random_prompt(numbers, vocabulary, flags.prompt)
        for wire, cluster in clusters.items():
            times = generate(cluster.url, prompt, flags.generate, eos)
            of_a_token = sent_of_a_token(cluster, prompt, flags.generate, eos)
            if run >= 0:
                first[wire].append(times[0])
                rate[wire].append((flags.generate - 1) / (times[1] - times[0]))
                sent[wire].append(of_a_token["bytes"])
    return first, rate, sent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--shape", default="A")
    parser.add_argument("--layers", type=int, default=6, help="of the shape, 4 bits")
    parser.add_argument("--placement", default="--strategy uniform", help="flags of serve")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mbit", type=int, default=100)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    flags = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        model = Path(scratch) / "model"
        subprocess.run([flags.shoal, "synth", "--shape", flags.shape, "--bits", "4", "--layers", str(flags.layers), "--out", model],
                       check=True, stdout=subprocess.DEVNULL)
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        links = stack.enter_context(Links(flags.workers, flags.mbit))
        clusters = {wire: stack.enter_context(serve(flags, model, links, Path(scratch), wire)) for wire in FORMATS}
        first, rate, sent = measure(clusters, vocabulary, ends_of_text(model), flags)
    print(f"Machine: {machine()}; commit {commit()}, {datetime.date.today().isoformat()}, load {load:.1f} before. Shape {flags.shape} "
          f"with {flags.layers} layers at 4 bits, `{flags.placement}` over a coordinator and {flags.workers} workers behind "
          f"{flags.mbit} Mbit/s each, one thread a node, {flags.runs} runs by turns: median (minimum-maximum).\n")
    print(f"| `--wire` | first token of {flags.prompt}, s | tokens/s of one stream | KiB of the coordinator per token |\n"
          "| --- | ---: | ---: | ---: |")
    for wire in FORMATS:
        print(f"| {wire} | {spread(first[wire], 2)} | {spread(rate[wire])} | {spread([b / 1024 for b in sent[wire]], 2)} |")


if __name__ == "__main__":
    main()
