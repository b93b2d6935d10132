#!/usr/bin/env python3
"""What drafts gain and cost: two servers of one binary, with and without, asked in turns.

    speculation.py --model DIR [--draft-model DIR] [--text NAME] [--shoal BIN] [--turns 5] [--tokens 200] [--streams 1] [--serve-arg=--threads=1 ...]

Texts: "repeats" is greedy, which makes a small model go in circles; "does not repeat" is drawn at temperature 1. A
random model of some size goes in no circle: "one token" has logit_bias force one id, so that all drafts are right and
what is measured is the cost of their rows; "four tokens" lets the model choose among four ids. "drawn alike" draws
from two ids at temperature 2, of which two random models draw the same one about half of the time, and lookup finds
some, too. "edit" is for a model of bench/chain_model.py: the prompt is the answer with an edit (a token changed, left out
or put in) every 25 tokens, as a file is before an agent changes it. End-of-text ids are ignored, and the prompts are in
the prefix cache, so the time is that of decoding.
Prints, for each text, the median rates of both servers, the median and the range of the ratio of the two within each
turn, the median ratio of the CPU time that a token took (which a busy machine disturbs less), and how many drafted
tokens were right. Fails if the answers differ.
"""
import argparse
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from chain_model import next_token

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/demo"))
from local_cluster import LocalCluster  # noqa: E402

TEXTS = {"repeats": {"temperature": 0}, "does not repeat": {"temperature": 1, "top_p": 1, "top_k": 0},
         "one token": {"temperature": 0, "logit_bias": {"500": 100}},
         "four tokens": {"temperature": 0, "logit_bias": {str(500 + i): 100 for i in range(4)}},
         "drawn alike": {"temperature": 2, "top_p": 1, "top_k": 0, "logit_bias": {str(500 + i): 100 for i in range(2)}},
         "edit": {"temperature": 0}}
PROMPT_TOKENS = 48
TOKENS_PER_EDIT = 25


def answer(url, body, timeout_s=600):
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return json.load(response)["choices"][0]["text"]


def edited(tokens, vocabulary, numbers):
    """The tokens with an edit in every stretch of TOKENS_PER_EDIT."""
    out = []
    for begin in range(0, len(tokens), TOKENS_PER_EDIT):
        stretch = list(tokens[begin:begin + TOKENS_PER_EDIT])
        at = numbers.randrange(len(stretch))
        new = numbers.randrange(vocabulary)
        stretch[at:at + 1] = numbers.choice(([new], [], [stretch[at], new]))
        out += stretch
    return out


def prompt_of(text, args, stream, turn):
    if text != "edit":
        return [100 + (7 * i * i + 13 * stream) % 1900 for i in range(PROMPT_TOKENS)]
    vocabulary = json.loads((args.model / "config.json").read_text())["vocab_size"]
    numbers = random.Random(f"{turn}/{stream}")
    start = numbers.randrange(vocabulary)
    answer_tokens = list(itertools.accumulate(range(args.tokens), lambda token, _: next_token(token, vocabulary),
                                              initial=start))[1:]
    return [*edited(answer_tokens, vocabulary, numbers), start]


def cpu_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(cluster, text, args, turn):
    """Tokens a second of time and of CPU time, over all streams, and their answers."""
    bodies = [{"prompt": prompt_of(text, args, stream, turn), "max_tokens": args.tokens, "ignore_eos": True,
               "seed": 1000 * turn + stream, **TEXTS[text]} for stream in range(args.streams)]
    for body in bodies:
        answer(cluster.url, {**body, "max_tokens": 1})
    got = [None] * len(bodies)

    def ask(i):
        got[i] = answer(cluster.url, bodies[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    start, cpu = time.monotonic(), cpu_seconds(cluster.coordinator)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = args.tokens * args.streams
    return (tokens / (time.monotonic() - start), tokens / max(cpu_seconds(cluster.coordinator) - cpu, 0.01)), got


def drafts(cluster):
    metrics = cluster.metrics()
    return [metrics[f"shoal_{name}_tokens_total"]
            for name in ("drafted", "accepted_draft", "model_drafted", "accepted_model_draft")]


def column(pairs, i):
    return [pair[i] for pair in pairs]


def compare(plain, drafting, text, args):
    rates = {"off": [], "lookup": []}
    before = drafts(drafting)
    for turn in range(args.turns + 1):
        # Who goes first changes from turn to turn; the first turn is for warming up.
        order = [("off", plain), ("lookup", drafting)]
        answers = []
        for name, cluster in order if turn % 2 == 0 else reversed(order):
            rate, got = measure(cluster, text, args, turn)
            answers.append(got)
            if turn > 0:
                rates[name].append(rate)
        if answers[0] != answers[1]:
            raise SystemExit(f"{text}, turn {turn}: the answers differ")
    ratios, cpu = ([a / b for a, b in zip(*(column(rates[mode], i) for mode in ("lookup", "off")))] for i in (0, 1))
    drafted, accepted, by_model, by_model_right = (b - a for a, b in zip(before, drafts(drafting)))
    print(f"{text:16}  off {statistics.median(column(rates['off'], 0)):7.1f}/s  "
          f"lookup {statistics.median(column(rates['lookup'], 0)):7.1f}/s  "
          f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), of CPU time {statistics.median(cpu):.2f}  "
          f"{accepted:.0f} of {drafted:.0f} drafted tokens right ({by_model_right:.0f} of {by_model:.0f} by the model), of {args.tokens * args.streams * (args.turns + 1)}",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--draft-model", type=Path, help="of the server that drafts")
    parser.add_argument("--shoal", type=Path, default=ROOT / "build/release/bin/shoal")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--text", action="append", choices=TEXTS, help="only these texts; all but \"edit\" where none is named")
    parser.add_argument("--serve-arg", action="append", default=[], help="a further flag of both servers")
    args = parser.parse_args()
    with_model = ("--draft-model", args.draft_model.resolve()) if args.draft_model else ()
    with tempfile.TemporaryDirectory() as logs, contextlib.ExitStack() as stack:
        plain, drafting = (LocalCluster(args.shoal, args.model, Path(logs) / mode,
                                        serve_args=("--speculate", mode, *more, *args.serve_arg))
                           for mode, more in (("off", ()), ("lookup", with_model)))
        for server in (plain, drafting):
            stack.callback(server.stop)
            server.start(600)
        for text in args.text or [name for name in TEXTS if name != "edit"]:
            compare(plain, drafting, text, args)


if __name__ == "__main__":
    main()
