#!/usr/bin/env python3
"""Decode and prefill of whole clusters of processes, through the HTTP API, as a user would see them.

Per case: one warm-up, then RUNS requests; medians, with minimum and maximum. Tokens are timed at the client, so the numbers
hold HTTP, scheduling and streaming too. Only the standard library.
"""
import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from report import PAGE, ROOT, commit, machine, spread, write_section

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster  # noqa: E402  (it lies beside the demo)

RUNS = 5


class Case:
    """A model on some nodes, each with `threads` threads."""

    def __init__(self, model, nodes, threads, prompt, generate, placement=(), note=""):
        self.model, self.nodes, self.threads = model, nodes, threads
        self.prompt, self.generate, self.placement, self.note = prompt, generate, list(placement), note


def cases(models):
    demo, big = models["demo"], models.get("A")
    out = [
        Case(demo, 1, 2, 256, 128),
        Case(demo, 1, 1, 256, 128),
        Case(demo, 2, 1, 256, 128, ["--split", "3,3"], "layers 3 + 3"),
        Case(demo, 2, 1, 256, 128, ["--split", "3,3", "--experts", "round_robin:2"], "layers 3 + 3, experts over both"),
    ]
    if big:
        out += [
            Case(big, 1, 2, 512, 64),
            Case(big, 1, 1, 512, 64),
            Case(big, 2, 1, 512, 64, ["--split", "14,14"], "layers 14 + 14"),
        ]
    return out


def generate(url, prompt, count, banned, temperature=0):
    """Streams `count` tokens after `prompt` (ids). Returns the arrival times of the pieces, from the request on."""
    body = {"prompt": prompt, "max_tokens": count, "temperature": temperature, "stream": True, "stream_options": {"include_usage": True},
            "logit_bias": {str(i): -100 for i in banned}, "ignore_eos": True}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    begin = time.perf_counter()
    times, usage, reason = [], None, None
    with urllib.request.urlopen(request, timeout=900) as response:
        for line in response:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if event.get("usage"):
                usage = event["usage"]
            if event["choices"]:
                times.append(time.perf_counter() - begin)
                reason = event["choices"][0].get("finish_reason") or reason
    if usage is None or usage["completion_tokens"] != count:
        raise RuntimeError(f"expected {count} tokens, got {usage}, ended by {reason!r}")
    return times[0], times[-1]


def link_totals(cluster):
    totals = {"bytes": 0.0, "messages": 0.0}
    for name, value in cluster.metrics().items():
        for kind in totals:
            if name.startswith(f"shoal_link_{kind}_total"):
                totals[kind] += value
    return totals


def sent_of_a_token(cluster, prompt, count, banned):
    """What is sent between nodes for a token that is decoded, by kind as of link_totals()."""
    before = link_totals(cluster)
    generate(cluster.url, prompt[:1], count, banned)  # One prompt token: decode steps only.
    return {kind: (total - before[kind]) / count for kind, total in link_totals(cluster).items()}


def random_prompt(numbers, vocabulary, length):
    """Ids, without the last of the vocabulary: special tokens are there."""
    return [numbers.randrange(vocabulary - 300) for _ in range(length)]


def synthesized(shoal, folder, shape, layers=None):
    """The folder of a model with random weights of 4 bits, which is written where it is not there yet. layers: None for all."""
    if not (folder / "config.json").exists():
        some = [] if layers is None else ["--layers", str(layers)]
        subprocess.run([shoal, "synth", "--shape", shape, *some, "--bits", "4", "--out", folder], check=True)
    return folder


def ends_of_text(folder):
    """Ids that end a text of the model, which a request for so many tokens must not give."""
    eos = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id", [])
    return eos if isinstance(eos, list) else [eos]


def measure(shoal, case, log_dir):
    config = json.loads((case.model["folder"] / "config.json").read_text())
    eos = ends_of_text(case.model["folder"])
    prompt = random_prompt(random.Random(1), config["vocab_size"], case.prompt)
    threads = ["--threads", case.threads]
    with LocalCluster(shoal, case.model["folder"], log_dir, workers=case.nodes - 1, worker_args=threads,
                      serve_args=[*threads, *case.placement, "--kv-positions", 4096]) as cluster:
        generate(cluster.url, prompt, 8, eos)
        prefill, decode = [], []
        for _ in range(RUNS):
            first, last = generate(cluster.url, prompt, case.generate, eos)
            prefill.append(case.prompt / first)
            decode.append((case.generate - 1) / (last - first))
        sent = sent_of_a_token(cluster, prompt, case.generate, eos)
        nodes = cluster.status()["nodes"]
        rss = [process.rss_bytes(peak=True) for process in cluster.processes]
    return {"prefill": prefill, "decode": decode, **sent, "rss": rss, "weights": [node.get("weight_bytes", 0) for node in nodes]}


def mib(values):
    return " + ".join(f"{value / 2**20:.0f}" for value in values)


def table(results, isa):
    lines = [f"Machine: {machine()}; kernels: {isa}. Commit {commit()}, {datetime.date.today().isoformat()}. "
             f"Median (minimum-maximum) of {RUNS} runs after a warm-up; all processes on this machine, over loopback.", "",
             "| model | nodes x threads | placement | prompt | prefill tokens/s | decode tokens/s | messages per token | "
             "KiB per token | peak RSS, MiB | packed weights, MiB |",
             "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for case, result in results:
        lines.append(f"| {case.model['name']} | {case.nodes} x {case.threads} | {case.note or 'one node'} | {case.prompt} | "
                     f"{spread(result['prefill'])} | {spread(result['decode'])} | {result['messages']:.2f} | "
                     f"{result['bytes'] / 1024:.2f} | {mib(result['rss'])} | {mib(result['weights'])} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--big", action="store_true", help="also a random Qwen3-1.7B at 4 bits (written once, about 1 GB)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    flags = parser.parse_args()

    models = {"demo": {"name": "shoal-demo-4bit", "folder": ROOT / "models" / "shoal-demo-4bit"}}
    if flags.big:
        folder = synthesized(flags.shoal, ROOT / "build" / "bench" / "qwen3-1.7b-4bit", "A")
        models["A"] = {"name": "Qwen3-1.7B shape, 4 bits, random", "folder": folder}
    results = []
    with tempfile.TemporaryDirectory() as logs:
        for number, case in enumerate(cases(models)):
            print(f"{case.model['name']}: {case.nodes} x {case.threads}, {case.note or 'one node'} ...", flush=True)
            result = measure(flags.shoal, case, Path(logs) / str(number))
            print(f"  prefill {spread(result['prefill'])}, decode {spread(result['decode'])} tokens/s", flush=True)
            results.append((case, result))
    text = table(results, os.environ.get("SHOAL_ISA") or "the fastest here")
    print(text)
    if flags.write:
        write_section("end_to_end.py", text)


if __name__ == "__main__":
    main()
