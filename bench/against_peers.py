#!/usr/bin/env python3
"""Ours beside other programs that run the same shapes on the same CPU, in turns: ours, each peer, ours, each peer ...

Which programs and models is said by flags; nothing is fetched or built here. Every round runs each contender once per row, one
right after the other, so that a machine that slows down or is shared slows all of them; a row's ratio is taken round by round,
between neighbours in time. Only the standard library.

    bench/against_peers.py --model A=DIR --model B=DIR
        --llama-bench PATH --llama-batched-bench PATH --llama-model A:q4_0=FILE --llama-model A:q4_k=FILE ...
        --ik-bench PATH --ik-batched-bench PATH --ik-model A:q4_0=FILE ...
        --dllama PATH --dllama-tokenizer FILE --dllama-model A:q40=FILE ...

A peer with models in several formats is a contender in each: which of them is its fastest differs from row to row.

exit status: 0 measured (or no peer named: nothing to do), 1 a program failed or did not print what was asked for, 2 wrong flags
"""
import argparse
import datetime
import json
import os
import random
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from report import ROOT, commit, cpu_isa, machine, markers, spread, write_section

DRIVER = "against_peers.py"

# Decoding is measured behind a short prompt on every side: at positions 32 to 96 the cache weighs little beside the weights.
DECODE_PROMPT, DECODE_TOKENS = 32, 64
# In batched decoding every stream has that prompt too; fewer steps, as each has `batch` rows.
BATCH_TOKENS = 32

# A run that takes longer than this hangs: the slowest row (2048 tokens, one thread) takes a few minutes.
RUN_LIMIT_S = 1800

# What makes a peer its fastest: (peer, format or None for all) -> options of llama-bench, options of llama-batched-bench.
# llama.cpp repacks K-quants at load for its older kernels; left as they are, its tiled ones run, twice as fast in prefill.
OPTIONS = {
    ("llama.cpp", None): (["-fa", "on"], ["-fa", "on"]),
    ("llama.cpp", "q4_k"): (["--repack", "0"], ["--no-repack"]),
    ("ik_llama.cpp", None): (["-fa", "1"], ["-fa", "on"]),
    ("ik_llama.cpp", "q4_0_r8"): (["-rtr", "1"], ["-rtr"]),
}


class BenchError(Exception):
    """A program or its output is not as expected; the message says which, expected and got."""


@dataclass(frozen=True)
class Row:
    """One line of the table. what: decode (one stream), batched (`batch` streams), prefill (`prompt` tokens of one)."""
    model: str
    what: str
    threads: int
    prompt: int
    batch: int = 1

    @property
    def detail(self):
        return {"decode": "decode", "batched": f"decode, {self.batch} streams",
                "prefill": f"prefill {self.prompt}"}[self.what]

    def __str__(self):
        return f"{self.model}: {self.detail}, {self.threads} thread{'s' if self.threads > 1 else ''}"


# The ratio to the best peer that is aimed at.
TARGETS = {
    Row("A", "decode", 1, DECODE_PROMPT): 1.5,
    Row("A", "decode", 2, DECODE_PROMPT): 1.15,
    Row("A", "prefill", 2, 512): 1.8,
    Row("A", "prefill", 2, 2048): 1.8,
    Row("A", "batched", 2, DECODE_PROMPT, 16): 3.0,
    Row("B", "decode", 2, DECODE_PROMPT): 1.15,
    Row("B", "prefill", 2, 512): 1.8,
    Row("B", "batched", 2, DECODE_PROMPT, 16): 2.0,
}
# The same where both sides are held to 256 bits (peers that were built without AVX-512).
NARROW_ISAS = ("avx2", "avx-vnni")
NARROW_TARGETS = {
    Row("A", "decode", 1, DECODE_PROMPT): 1.6,
    Row("A", "decode", 2, DECODE_PROMPT): 1.3,
    Row("A", "prefill", 2, 512): 2.0,
    Row("A", "batched", 2, DECODE_PROMPT, 16): 2.5,
    Row("B", "batched", 2, DECODE_PROMPT, 4): 1.3,
}
# Prefill of A where our kernels are AMX's: the peers that have such kernels use them unasked.
AMX_PREFILL_TARGET = 3.5


def target(row, isa):
    """The ratio aimed at, None where none is. isa: of our kernels, as --isa has it."""
    if isa in NARROW_ISAS:
        return NARROW_TARGETS.get(row)
    if isa == "amx" and row.model == "A" and row.what == "prefill":
        return AMX_PREFILL_TARGET
    return TARGETS.get(row)


def rows_of(model):
    """The rows that are compared for a model, cheap ones first."""
    return [
        *(Row(model, "decode", threads, DECODE_PROMPT) for threads in (1, 2)),
        Row(model, "prefill", 2, 512),
        *(Row(model, "batched", 2, DECODE_PROMPT, batch) for batch in (4, 16, 64)),
        Row(model, "prefill", 2, 2048),
    ]


# ------------------------------------------------------------------------------------------------------------ running


def run(name, command):
    """What `command` printed, (stdout, stderr). BenchError with the end of it where it fails, hangs or is not there."""
    command = [str(word) for word in command]
    try:
        with tempfile.TemporaryDirectory() as scratch:  # Some peers leave a log where they run.
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                                  timeout=RUN_LIMIT_S, check=False, cwd=scratch)
    except OSError as error:
        raise BenchError(f"{name}: {command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{name}: no end after {RUN_LIMIT_S} s: {shlex.join(command)}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:] or ["(it said nothing)"]
        raise BenchError(f"{name}: exit status {done.returncode} from {shlex.join(command)}\n  " + "\n  ".join(said))
    return done.stdout, done.stderr


def parse_json(name, text):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{name}: expected JSON, got {text.strip()[:200]!r} ({error})") from error


def rate(name, value):
    """`value` as tokens per second: a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise BenchError(f"{name}: expected tokens per second above 0, got {value!r}")
    return float(value)


def pick(name, results, wanted):
    """The one element of `results` (a list of objects) that has all of `wanted`."""
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise BenchError(f"{name}: expected a list of results, got {str(results)[:200]}")
    found = [result for result in results if all(result.get(key) == value for key, value in wanted.items())]
    if len(found) != 1:
        raise BenchError(f"{name}: expected one result with {wanted}, found {len(found)} among "
                         f"{[{key: result.get(key) for key in wanted} for result in results]}")
    return found[0]


# --------------------------------------------------------------------------------------------------------- contenders
# Each has: name, version (known after the first run, as the program prints it), options (for the page), can(row), measure(row).


class Shoal:
    """Ours, through `shoal bench --json`, which measures the bounds of the machine beside the model each time."""

    def __init__(self, binary, models, isa="", name="shoal"):
        self.name, self.binary, self.models, self.isa = name, binary, models, isa
        self.version, self.options = commit(), []
        self.shares = {}  # Row -> [(percent of the bound, "read" or "multiply", percent per phase)], one for each round

    def can(self, row):
        return row.model in self.models

    def command(self, row):
        if row.what == "prefill":
            test = ["--prompt", row.prompt, "--gen", 0]
        else:  # The shortest prefill, as one is always measured. Decoding begins at DECODE_PROMPT unasked; pick() sees to it.
            test = ["--prompt", 1, "--gen", DECODE_TOKENS if row.what == "decode" else BATCH_TOKENS, "--batch", row.batch]
        return [self.binary, "bench", "--model", self.models[row.model], "--threads", row.threads, *test, "--runs", 1,
                *(["--isa", self.isa] if self.isa else []), "--json"]

    def parse(self, row, text):
        """Tokens per second; notes the share of the bound."""
        report = parse_json(self.name, text)
        if not isinstance(report, dict) or "results" not in report:
            raise BenchError(f"{self.name}: expected an object with 'results', got {text.strip()[:200]!r}")
        test = ({"what": "prefill", "prompt": row.prompt} if row.what == "prefill" else
                {"what": "decode", "batch": row.batch, "context": row.prompt})
        found = pick(self.name, report["results"], {**test, "threads": row.threads})
        for field in ("tokens_per_s", "share_of_bound", "bound", "share_of_bound_per_phase"):
            if field not in found:
                raise BenchError(f"{self.name}: expected '{field}' in {found}")
        median = rate(self.name, found["tokens_per_s"].get("median"))
        self.shares.setdefault(row, []).append(
            (100 * found["share_of_bound"], found["bound"], 100 * found["share_of_bound_per_phase"]))
        return median

    def measure(self, row):
        return self.parse(row, run(self.name, self.command(row))[0])


class Llama:
    """llama.cpp or its fork ik_llama.cpp on models of one format: llama-bench for one stream, llama-batched-bench for many.
    """

    def __init__(self, peer, form, programs, models):
        """peer: a name in OPTIONS. programs: paths of (llama-bench, llama-batched-bench), either may be None."""
        self.peer, self.name, self.models = peer, f"{peer} {form}".strip(), models
        self.bench, self.batched = programs
        everywhere, here = OPTIONS[peer, None], OPTIONS.get((peer, form), ([], []))
        self.options, self.batched_options = everywhere[0] + here[0], everywhere[1] + here[1]
        self.version = ""

    def can(self, row):
        return row.model in self.models and (self.batched if row.what == "batched" else self.bench) is not None

    def command(self, row):
        model, threads = self.models[row.model], row.threads
        if row.what == "batched":
            positions = row.batch * (row.prompt + BATCH_TOKENS)
            return [self.batched, "-m", model, "-t", threads, "-tb", threads, "-c", positions, "-b", 2048, "-ub", 512,
                    "-npp", row.prompt, "-ntg", BATCH_TOKENS, "-npl", row.batch, *self.batched_options]
        if row.what == "prefill":
            test = ["-p", row.prompt, "-n", 0]
        elif self.peer == "ik_llama.cpp":
            test = ["-p", 0, "-n", 0, "-gp", f"{row.prompt},{DECODE_TOKENS}"]
        else:
            test = ["-p", 0, "-n", DECODE_TOKENS, "-d", row.prompt]
        return [self.bench, "-m", model, "-t", threads, *test, "-r", 1, "-o", "json", *self.options]

    def parse_bench(self, row, text):
        test = {"n_prompt": row.prompt, "n_gen": 0} if row.what == "prefill" else {"n_gen": DECODE_TOKENS}
        found = pick(self.name, parse_json(self.name, text), {**test, "n_threads": row.threads})
        self.version = str(found.get("build_commit", ""))
        return rate(self.name, found.get("avg_ts"))

    def parse_batched(self, row, text):
        """From the table that every version prints:
        | PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |
        """
        lines = [re.findall(r"[-+\w.]+", line) for line in text.splitlines() if re.match(r"\|\s*\d", line)]
        wanted = [str(row.prompt), str(BATCH_TOKENS), str(row.batch)]
        found = [line for line in lines if line[:3] == wanted and len(line) == 10]
        if len(found) != 1:
            raise BenchError(f"{self.name}: expected one line with PP, TG, B = {wanted}, found {len(found)} among "
                             f"{[line[:3] for line in lines]}; it ended with {text.strip()[-200:]!r}")
        try:
            return rate(self.name, float(found[0][7]))
        except ValueError as error:
            raise BenchError(f"{self.name}: expected tokens per second, got '{found[0][7]}'") from error

    def measure(self, row):
        out, err = run(self.name, self.command(row))
        return self.parse_batched(row, out + "\n" + err) if row.what == "batched" else self.parse_bench(row, out)


class DistributedLlama:
    """distributed-llama: one stream only, in text. Its tokenizer is to have a token for every byte and none that joins two."""

    # Weights of 4 bits need activations of 8; it evaluates prompts 32 tokens at a time, no flag changes that.
    options = ["--buffer-float-type", "q80"]

    def __init__(self, form, binary, tokenizer, models):
        self.name = f"distributed-llama {form}".strip()
        self.binary, self.tokenizer, self.models = binary, tokenizer, models
        self.version = "prints no version"

    def can(self, row):
        return row.what != "batched" and row.model in self.models

    def command(self, row):
        letters = random.Random(1)
        # One id more than the rows that are evaluated: the last one begins the prediction.
        prompt = "".join(letters.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(row.prompt + 1))
        steps = row.prompt + (DECODE_TOKENS if row.what == "decode" else 1)
        return [self.binary, "inference", "--model", self.models[row.model], "--tokenizer", self.tokenizer,
                "--prompt", prompt, "--steps", steps, "--nthreads", row.threads, "--temperature", 0, "--seed", 1,
                "--max-seq-len", 4096, *self.options]

    def parse(self, row, text):
        part, count = ("Evaluation", row.prompt) if row.what == "prefill" else ("Prediction", DECODE_TOKENS)
        found = re.search(rf"^{part}\n(?:\s+nBatches: \d+\n)?\s+nTokens: (\d+)\n\s+tokens/s: ([\d.]+)", text, re.MULTILINE)
        if found is None:
            raise BenchError(f"{self.name}: expected '{part}' with nTokens and tokens/s, got {text.strip()[-200:]!r}")
        if int(found[1]) != count:
            raise BenchError(f"{self.name}: expected {count} tokens under '{part}', got {found[1]}")
        return rate(self.name, float(found[2]))

    def measure(self, row):
        return self.parse(row, run(self.name, self.command(row))[0])


# ------------------------------------------------------------------------------------------------------------- turns


def measure_row(row, contenders, rounds):
    """Tokens per second by name, one for each round; in turns."""
    taking_part = [contender for contender in contenders if contender.can(row)]
    rates = {contender.name: [] for contender in taking_part}
    for _ in range(rounds):
        for contender in taking_part:
            rates[contender.name].append(contender.measure(row))
    return rates


def best_peer(rates, ours):
    """Name of the peer with the largest median; None where no peer has the row. 'ours, ...' is ours with other kernels."""
    medians = {name: statistics.median(values) for name, values in rates.items() if name.split(",")[0] != ours}
    return max(medians, key=medians.get) if medians else None


def ratios(rates, ours):
    """Ours over the best peer's, round by round: the two of a round met the same load. Empty where either is missing."""
    best = best_peer(rates, ours)
    if best is None or ours not in rates:
        return []
    return [mine / other for mine, other in zip(rates[ours], rates[best], strict=True)]


def share_of_bound(shares):
    """[(percent, which bound, percent of the per-phase roofline)] of the rounds as a cell."""
    if not shares:
        return "-"
    percents, bounds, per_phase = zip(*shares, strict=True)
    return (f"{statistics.median(percents):.0f} % of {statistics.mode(bounds)}, "
            f"{statistics.median(per_phase):.0f} % per phase")


def table(results, contenders, rounds, isa, load):
    """Markdown. results: [(Row, rates by name)]; contenders: ours first; load: of the machine before the first run."""
    ours = contenders[0].name
    versions = [f"{contender.name}: {contender.version or 'version unknown'}"
                + (f", `{shlex.join(contender.options)}`" if contender.options else "") for contender in contenders]
    lines = [
        f"Machine: {machine()} ({' '.join(cpu_isa())}), load {load:.1f} at the start; {datetime.date.today().isoformat()}. "
        f"{'; '.join(versions)}; our kernels: {isa or 'the fastest here'}.", "",
        f"Tokens/s, median (minimum-maximum) of {rounds} rounds in turns. The best peer of a row is bold; ratio: ours to "
        "it, round by round; bound: our share of what the machine can read, or multiply, measured in the same rounds, and the same "
        "per phase of a step.", "",
        "| model | what | threads | " + " | ".join(contender.name for contender in contenders)
        + " | ratio | target | bound |",
        "| --- | --- | ---: |" + " ---: |" * (len(contenders) + 3)]
    for row, rates in results:
        cells = []
        for contender in contenders:
            text = spread(rates[contender.name]) if contender.name in rates else "-"
            cells.append(f"**{text}**" if contender.name == best_peer(rates, ours) else text)
        paired, aim = ratios(rates, ours), target(row, isa)
        lines.append(f"| {row.model} | {row.detail} | {row.threads} | " + " | ".join(cells)
                     + f" | {spread(paired, 2) if paired else '-'} | {aim or '-'}"
                     + f" | {share_of_bound(contenders[0].shares.get(row))} |")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------------------- flags


def program_path(text):
    """Absolute, as programs run in a folder of their own."""
    return Path(text).absolute()


def model_path(text):
    """'NAME=PATH' or 'NAME:FORMAT=PATH' -> (name, format, path); the format is '' where there is none."""
    key, separator, path = text.partition("=")
    name, _, form = key.partition(":")
    if not (separator and name and path):
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=PATH or NAME:FORMAT=PATH, as in A:q4_0=models/a.gguf")
    return name, form, Path(path).absolute()


PROGRAMS = {"llama": ("llama_bench", "llama_batched_bench"), "ik": ("ik_bench", "ik_batched_bench"), "dllama": ("dllama",)}


def flags_parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--shoal", default=ROOT / "build/release/bin/shoal", type=program_path, metavar="PATH")
    parser.add_argument("--model", action="append", default=[], type=model_path, metavar="NAME=DIR",
                        help="ours, as `shoal synth --shape NAME --bits 4 --group 64` writes it")
    for peer, title in (("llama", "llama.cpp"), ("ik", "ik_llama.cpp")):
        parser.add_argument(f"--{peer}-bench", type=program_path, metavar="PATH", help=f"llama-bench of {title}")
        parser.add_argument(f"--{peer}-batched-bench", type=program_path, metavar="PATH", help="llama-batched-bench of it")
        parser.add_argument(f"--{peer}-model", action="append", default=[], type=model_path, metavar="NAME:FORMAT=FILE")
    parser.add_argument("--dllama", type=program_path, metavar="PATH", help="dllama of distributed-llama")
    parser.add_argument("--dllama-tokenizer", type=program_path, metavar="FILE")
    parser.add_argument("--dllama-model", action="append", default=[], type=model_path, metavar="NAME:FORMAT=FILE")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--rows", default=".", metavar="REGEX", help="only rows that match, as 'A: prefill 512, 2 threads'")
    parser.add_argument("--isa", default="", help="our kernels: avx2, avx-vnni, avx512, amx ... (default: the fastest here)")
    parser.add_argument("--beside", default="", metavar="ISA",
                        help="ours with other kernels, too, which no peer is compared with; best: the fastest here")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks-tables.md")
    return parser


def problems(flags):
    """What is wrong with the flags, a line each: told before anything is measured."""
    found = []
    for flag in ("shoal", *(program for programs in PROGRAMS.values() for program in programs)):
        path = getattr(flags, flag)
        if path is not None and not (path.is_file() and os.access(path, os.X_OK)):
            found.append(f"--{flag.replace('_', '-')} {path}: no such program")
    for flag in ("model", *(f"{peer}_model" for peer in PROGRAMS)):
        found += [f"--{flag.replace('_', '-')} {name}={path}: not there" for name, _, path in getattr(flags, flag)
                  if not path.exists()]
    for peer, programs in PROGRAMS.items():
        if any(getattr(flags, program) for program in programs) != bool(getattr(flags, f"{peer}_model")):
            found.append(f"--{peer}-model and a program of that peer: expected both or neither")
    if flags.dllama and not (flags.dllama_tokenizer and flags.dllama_tokenizer.is_file()):
        found.append(f"--dllama-tokenizer {flags.dllama_tokenizer}: expected the tokenizer's file")
    if not flags.model:
        found.append("--model: expected at least one NAME=DIR of ours")
    if flags.rounds < 1:
        found.append(f"--rounds {flags.rounds}: expected 1 or more")
    return found


def by_format(models):
    """[(name, format, path)] -> {format: {name: path}}, formats in the order in which they came."""
    out = {}
    for name, form, path in models:
        out.setdefault(form, {})[name] = path
    return out


def contenders_of(flags):
    """Ours first, then a contender for each peer and format."""
    ours = {name: path for name, _, path in flags.model}
    out = [Shoal(flags.shoal, ours, flags.isa)]
    if flags.beside:
        out.append(Shoal(flags.shoal, ours, "" if flags.beside == "best" else flags.beside, f"shoal, {flags.beside}"))
    out += [Llama("llama.cpp", form, (flags.llama_bench, flags.llama_batched_bench), models)
            for form, models in by_format(flags.llama_model).items()]
    out += [Llama("ik_llama.cpp", form, (flags.ik_bench, flags.ik_batched_bench), models)
            for form, models in by_format(flags.ik_model).items()]
    out += [DistributedLlama(form, flags.dllama, flags.dllama_tokenizer, models)
            for form, models in by_format(flags.dllama_model).items()]
    return out


def main(arguments=None):
    parser = flags_parser()
    flags = parser.parse_args(arguments)
    if not any(getattr(flags, name) for peer, programs in PROGRAMS.items() for name in (*programs, f"{peer}_model")):
        print(f"bench/{DRIVER}: no peer named, so there is nothing to compare with; --help says how to name one")
        return 0
    wrong = problems(flags)
    if wrong:
        parser.error("\n  ".join(wrong))
    contenders = contenders_of(flags)
    every_row = [row for name, _, _ in flags.model for row in rows_of(name)]
    rows = [row for row in every_row if re.search(flags.rows, str(row))]
    if not rows:
        parser.error(f"--rows '{flags.rows}' matches none of\n  " + "\n  ".join(str(row) for row in every_row))
    load = os.getloadavg()[0]
    results = []
    try:
        for row in rows:
            print(f"{row} ...", flush=True)
            rates = measure_row(row, contenders, flags.rounds)
            print("  " + ", ".join(f"{name} {spread(values)}" for name, values in rates.items()), flush=True)
            results.append((row, rates))
    except BenchError as error:
        print(f"bench/{DRIVER}: {error}", file=sys.stderr)
        return 1
    text = table(results, contenders, flags.rounds, flags.isa, load)
    print("\n".join((markers(DRIVER)[0], text, markers(DRIVER)[1])))
    if flags.write:
        write_section(DRIVER, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
