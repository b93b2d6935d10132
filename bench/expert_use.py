#!/usr/bin/env python3
"""What rows need of experts on other nodes, for each way to place experts: exact counts, no times.

Three processes of the demo model on loopback, two layers each. The same greedy answers for each placement: the first
run, round_robin, counts how experts are used; the others are placed by that file. Only the standard library.
"""
import argparse
import json
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path

from report import ROOT, commit

sys.path[:0] = [str(ROOT / "tools" / "demo"), str(ROOT / "tests" / "e2e")]
from local_cluster import LocalCluster, get_json, wait_until  # noqa: E402  (it lies beside the demo)
from questions import QUESTIONS  # noqa: E402  (it lies beside the tests)

FIXED = ("--split", "2,2,2", "--prefix-cache", "off", "--speculate", "off", "--liveness-timeout", "120")
PLACEMENTS = {
    "round_robin": ("round_robin", None),
    "by_load": ("by_load", None),
    "by_locality": ("by_locality", None),
    "round_robin, hot:512KiB": ("round_robin", "hot:512KiB"),
    "by_load, hot:512KiB": ("by_load", "hot:512KiB"),
    "by_locality, hot:512KiB": ("by_locality", "hot:512KiB"),
    "with_layer": ("with_layer", None),
}


def ask(url, text, tokens):
    model = get_json(url + "/v1/models")["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def counts_of(url):
    """The counts, when two answers in turn are the same: all that ran is in them."""
    seen = []

    def settled():
        seen.append(get_json(url + "/cluster/experts")["since_start"])
        return len(seen) > 1 and seen[-1] == seen[-2]

    assert wait_until(settled, 60, pause_s=0.2), seen[-2:]
    return seen[-1]


def run(options, flags, stats, logs):
    """The answers, the counts, how many layers were counted, and how many experts have a copy."""
    with LocalCluster(options.shoal, options.model, logs, 2, serve_args=(*FIXED, *flags, "--expert-stats", stats)) as cluster:
        answers = [ask(cluster.url, text, options.tokens) for text in QUESTIONS]
        counts = counts_of(cluster.url)
        layers = get_json(cluster.url + "/cluster/experts")["layers"]
        copies = sum(len(nodes) for layer in layers for nodes in layer["replicas"].values())
        return answers, counts, len(layers), copies


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", type=Path, default=ROOT / "build/release/bin/shoal")
    parser.add_argument("--model", type=Path, default=ROOT / "models/shoal-demo-4bit")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counted = Path(folder) / "counted.json"
        expected = None
        print(f"commit {commit()}\n\n| experts | copies | rows | messages/token | rows local | requests |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for index, (name, (experts, replicas)) in enumerate(PLACEMENTS.items()):
            stats = Path(folder) / f"{index}.json"
            if counted.exists():
                shutil.copy(counted, stats)  # Each is placed by the same counts, whatever it counts itself.
            flags = ("--experts", experts, *(("--expert-replicas", replicas) if replicas else ()))
            answers, counts, layers, copies = run(options, flags, stats, Path(folder) / f"logs-{index}")
            if expected is None:
                expected = answers
                shutil.copy(stats, counted)
            assert answers == expected, f"{name}: the text changed"
            tokens = counts["rows"] // layers
            print(f"| `{name}` | {copies} | {tokens} | {counts['rows_sent'] / tokens:.2f} | "
                  f"{100 * counts['local_share']:.1f} % | {counts['messages']} |", flush=True)


if __name__ == "__main__":
    main()
