#!/usr/bin/env python3
"""What each turn of a conversation costs: tokens computed, and the time to the first token.

    conversation.py --model DIR [--head 3000] [--turns 12] [--new 50] [--answer 30] [--workers 0] [--runs 3]
                    [--serve-arg=--threads=2 ...]

The model is one of bench/chain_model.py, so that the tokens of an answer are known. A turn's prompt is all that was said
before, answers included, and NEW tokens more; the first has HEAD tokens in front, as the instructions and tools of an
agent are. Fails where a turn computes more than its new tokens and 32 (two blocks of the cache). Each run has another head.
Medians over the runs, with minimum and maximum.
"""
import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from chain_model import next_token
from report import ROOT, commit, machine, spread

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster  # noqa: E402  (it lies beside the demo)

SLACK = 32


def ask(url, prompt, count):
    """(seconds to the first token, tokens of the prompt that were computed)"""
    body = {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    begin, first, usage = time.perf_counter(), None, None
    with urllib.request.urlopen(request, timeout=900) as response:
        for line in response:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                usage = event["usage"]
            if first is None and event["choices"]:
                first = time.perf_counter() - begin
    if usage is None or usage["completion_tokens"] != count:
        raise SystemExit(f"expected {count} tokens, got {usage}")
    return first, usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]


def converse(url, flags, vocabulary, seed):
    """A row (seconds to the first token, computed tokens) for each turn."""
    numbers = random.Random(seed)
    said = [numbers.randrange(vocabulary) for _ in range(flags.head)]
    rows = []
    for turn in range(flags.turns):
        said += [numbers.randrange(vocabulary) for _ in range(flags.new)]
        seconds, computed = ask(url, said, flags.answer)
        if turn > 0 and computed > flags.new + SLACK:
            raise SystemExit(f"turn {turn + 1} computed {computed} tokens, of which {flags.new} are new")
        rows.append((seconds, computed))
        said += list(itertools.accumulate(range(flags.answer), lambda token, _: next_token(token, vocabulary),
                                          initial=said[-1]))[1:]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--model", required=True, type=Path)
    for name, default in (("head", 3000), ("turns", 12), ("new", 50), ("answer", 30), ("workers", 0), ("runs", 3)):
        parser.add_argument(f"--{name}", default=default, type=int)
    parser.add_argument("--serve-arg", action="append", default=[], help="a further flag of the server")
    flags = parser.parse_args()
    vocabulary = json.loads((flags.model / "config.json").read_text())["vocab_size"]
    with tempfile.TemporaryDirectory() as logs, LocalCluster(flags.shoal, flags.model, logs, workers=flags.workers,
                                                             serve_args=flags.serve_arg) as cluster:
        ask(cluster.url, [1, 2, 3], 2)
        runs = [converse(cluster.url, flags, vocabulary, run) for run in range(flags.runs)]
    print(f"{flags.model.name}, {flags.workers + 1} processes, a head of {flags.head} tokens, {flags.new} new ones and an "
          f"answer of {flags.answer} each turn, {flags.runs} runs; {machine()}; commit {commit()}\n")
    print("| turn | first token, ms | relative to turn 1 | tokens computed |")
    print("| ---: | ---: | ---: | ---: |")
    for turn, rows in enumerate(zip(*runs)):
        ratios = [row[0] / run[0][0] for row, run in zip(rows, runs)]
        print(f"| {turn + 1} | {spread([1e3 * row[0] for row in rows])} | {statistics.median(ratios):.3f} | "
              f"{spread([row[1] for row in rows], 0)} |")


if __name__ == "__main__":
    main()
