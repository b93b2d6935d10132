#!/usr/bin/env python3
"""A large MoE model on a coordinator that holds the layers and workers that hold the experts: memory of each, tokens per second.

The model is the shape of Qwen3-Coder-30B-A3B with random weights in 4 bits: 17 GB, written once. Every process computes with one
thread, since all share this machine; decoding is compared with the time that memory takes to give what a token reads. Only the
standard library.
"""
import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import tempfile
from pathlib import Path

from end_to_end import LocalCluster, ends_of_text, generate, random_prompt, sent_of_a_token, synthesized
from report import ROOT, commit, machine, spread

LAYERS, EXPERTS, TOP_K = 48, 128, 8
BITS_OF_A_WEIGHT = 4.5  # 4, and a scale and a bias of 16 bits for 64 weights.
START_TIMEOUT_S = 1800


def explicit_shares(workers):
    """The experts of each layer in equal parts over the workers, none on the coordinator."""
    size = EXPERTS // workers
    return "explicit:" + "".join(f";{i * size}-{(i + 1) * size - 1}" for i in range(workers))


def measured_gbs(shoal, threads):
    """What memory gives so many threads, now, in bytes per nanosecond."""
    out = subprocess.run([shoal, "profile", "--refresh", "--json", "--threads", str(threads)], check=True, capture_output=True,
                         text=True, env={**os.environ, "SHOAL_PROFILE": "off"}).stdout
    return max(rate["read_gbs"] for rate in json.loads(out)["rates"] if rate["threads"] == threads)


def read_of_a_token(nodes, embedding):
    """Bytes that one token reads: the coordinator's weights without the embedding, and the token's experts on the workers."""
    layers, experts = nodes[0]["weight_bytes"], sum(node["weight_bytes"] for node in nodes[1:])
    return layers - embedding, experts * TOP_K / EXPERTS


def measure(flags, workers, logs):
    config = json.loads((flags.model / "config.json").read_text())
    eos = ends_of_text(flags.model)
    numbers = random.Random(1)
    alike = ["--threads", 1]
    cluster = LocalCluster(flags.shoal, flags.model, logs, workers=workers, worker_args=alike,
                           serve_args=[*alike, "--split", ",".join([str(LAYERS)] + ["0"] * workers), "--experts", explicit_shares(workers),
                                       "--kv-positions", 2048, "--speculate", "off", "--prefix-cache", "off"])
    decode, prefill = [], []
    try:
        cluster.start(START_TIMEOUT_S)
        for run in range(-1, flags.runs):  # The first is a warm-up.
            prompt = random_prompt(numbers, config["vocab_size"], flags.prompt)
            first, last = generate(cluster.url, prompt, flags.generate, eos)
            if run >= 0:
                prefill.append(flags.prompt / first)
                decode.append((flags.generate - 1) / (last - first))
        sent = sent_of_a_token(cluster, prompt, flags.generate, eos)
        embedding = config["vocab_size"] * config["hidden_size"] * BITS_OF_A_WEIGHT / 8
        return {"embedding": embedding, "decode": decode, "prefill": prefill, "sent": sent, "nodes": cluster.status()["nodes"],
                "resident": [p.rss_bytes() for p in cluster.processes], "peak": [p.rss_bytes(peak=True) for p in cluster.processes],
                "anonymous": [p.memory_bytes("RssAnon") for p in cluster.processes]}
    finally:
        cluster.stop()


def gb(values):
    return ", ".join(f"{value / 1e9:.2f}" for value in values)


def row(workers, result, gbs):
    layers, experts = read_of_a_token(result["nodes"], result["embedding"])
    bound = 1e9 / (layers / gbs[1] + experts / gbs[min(workers, 2)])
    return (f"| {workers} | {gb(result['resident'][:1])} | {gb(result['resident'][1:])} | {gb(result['peak'][1:])} | "
            f"{spread(result['prefill'])} | {spread(result['decode'], 2)} | {bound:.1f} | "
            f"{statistics.median(result['decode']) / bound:.2f} | {result['sent']['messages']:.0f} | "
            f"{result['sent']['bytes'] / 2**20:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", type=Path, default=ROOT / "build/release/bin/shoal")
    parser.add_argument("--model", type=Path, default=ROOT / "build/bench/qwen3-30b-a3b-4bit")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--generate", type=int, default=48)
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    synthesized(flags.shoal, flags.model, "B", LAYERS)

    print(f"Machine: {machine()}. Commit {commit()}, {datetime.date.today().isoformat()}. Median (minimum-maximum) of {flags.runs} "
          f"runs after a warm-up; all processes on this machine, one thread each.\n")
    rows = []
    for workers in flags.workers:
        gbs = {threads: measured_gbs(flags.shoal, threads) for threads in (1, 2)}
        print(f"{workers} workers; memory gives one thread {gbs[1]:.1f} GB/s, two {gbs[2]:.1f} ...", flush=True)
        with tempfile.TemporaryDirectory() as logs:
            result = measure(flags, workers, Path(logs))
        print(json.dumps({key: result[key] for key in ("decode", "prefill", "resident", "peak", "anonymous", "sent")}), flush=True)
        rows.append(row(workers, result, gbs))
    print("\n| workers | coordinator, GB | a worker, GB | its peak, GB | prefill tokens/s | decode tokens/s | memory's bound | share | "
          "messages a token | MiB a token |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
