#!/usr/bin/env python3
"""What `shoal bench` finds on this machine, as the table of docs/benchmarks-tables.md: two shapes with random 4-bit weights against the
bounds of the machine, and where the time goes.

Each case is one process, which also measures the bounds. Rates of arithmetic are the best that any process found. What memory gives changes
from minute to minute on a machine that is shared: a row is held against the most that was read before, between and after its own
runs; and the cases take turns, round after round, so that rows are compared with each other within a round. Only the standard library.
"""
import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from report import ROOT, commit, cpu_isa, machine, markers, spread, write_section

DRIVER = "table.py"
# A case that takes longer than this hangs.
CASE_LIMIT_S = 1800


# How layers lie on two nodes: as the planner puts them where nothing is said (it counts what a token reads, the head as well),
# and half each.
AS_PLANNED, HALVES = "layers as planned", "layers 1:1"


@dataclass(frozen=True)
class Case:
    """One run of `shoal bench`."""
    shape: str
    threads: int  # Per node.
    flags: tuple
    nodes: int = 1
    placement: str = ""
    first_round_only: bool = False  # Nothing is compared with it, and it takes long.


ROUNDS = {"quick": 1, "normal": 3, "long": 3}


def cases(effort):
    """effort: quick (fewer rows), normal, long (also large batches, long prompts, 32768 positions; three rounds take 16 minutes on two
    cores)."""
    runs = ("--runs", 1)
    gen = ("--gen", 16 if effort == "quick" else 32)
    prompts = {"quick": "512", "normal": "512", "long": "512,2048"}[effort]
    batches = {"quick": "1,4,8", "normal": "1,4,8,16", "long": "1,4,8,16,64"}[effort]
    contexts = {"quick": "", "normal": "8192", "long": "8192,32768"}[effort]
    # Each node a CPU of its own.
    over_grpc = ("--transport", "grpc", "--cpus", ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))[:2]))
    deep = [Case("A", 2, ("--runs", 3, *gen, "--prompt", 0, "--batch", 0, "--context", contexts), first_round_only=True)]
    return [
        Case("A", 1, (*runs, *gen, "--prompt", 0, "--batch", 1)),
        Case("A", 2, (*runs, *gen, "--prompt", prompts, "--batch", batches)),
        Case("A", 1, (*runs, *gen, "--prompt", prompts, "--batch", "1,8", "--nodes", 2, *over_grpc), 2, AS_PLANNED),
        Case("A", 1, (*runs, *gen, "--prompt", prompts, "--batch", "1,8", "--split", "1,1", *over_grpc), 2, HALVES),
        Case("B", 1, (*runs, *gen, "--prompt", 0, "--batch", 1)),
        Case("B", 2, (*runs, *gen, "--prompt", "512", "--batch", "1,16")),
        Case("B", 1, (*runs, *gen, "--prompt", 0, "--batch", 1, "--experts-over", 2, *over_grpc), 2, "experts over both"),
        *(deep if contexts else []),
    ]


# ------------------------------------------------------------------------------------------------------------ the tables


def what(result):
    if result["what"] == "prefill":
        return f"prefill {result['prompt']}"
    streams = "" if result["batch"] == 1 else f", {result['batch']} streams"
    groups = "" if result["groups"] == 1 else f" in {result['groups']} steps"
    return f"decode at {result['context']}{streams}{groups}"


def target(case, result):
    """The share of the bound that is aimed at, in percent; None where the aim is another."""
    if case.shape != "A" or case.nodes != 1:
        return None
    if result["what"] == "prefill":
        return 60
    if result["batch"] == 1 and result["context"] <= 32:
        return {1: 85, 2: 92}.get(case.threads)
    return None


def rate(results):
    """'median (minimum-maximum)' of a row over its rounds."""
    rates = [result["tokens_per_s"] for result in results]
    return f"{median(r['median'] for r in rates):.1f} ({min(r['min'] for r in rates):.1f}-{max(r['max'] for r in rates):.1f})"


def rows(rounds):
    """[(case, [its result in each round])], in the order of the first round. rounds: [[(Case, report)]]."""
    found = {}
    for measured in rounds:
        for case, report in measured:
            for result in report["results"]:
                found.setdefault((case, what(result)), (case, []))[1].append(result)
    return list(found.values())


def reports(rounds):
    return [report for measured in rounds for _, report in measured]


def best_rates(rounds):
    """{kind of arithmetic: {threads: the most that any process found}}."""
    best = {}
    for report in reports(rounds):
        for kind in ("vnni_gops", "amx_gops", "fma_gflops"):
            for threads, value in report["bounds"][kind].items():
                at = best.setdefault(kind, {})
                at[int(threads)] = max(value, at.get(int(threads), 0))
    return best


def roofline_time(work, result, rates):
    """(seconds, "read" or "multiply") of a token's work {bytes, int8_ops, f32_ops}; docs/benchmarks-method.md says what that is."""
    threads = result["bound_threads"]
    tiles = rates.get("amx_gops", {}) if result["isa"] == "amx" else {}
    read_s = 1e-9 * work["bytes_per_token"] / result["read_bound_gbs"]
    multiply_s = 1e-9 * (work["int8_ops_per_token"] / tiles.get(threads, rates["vnni_gops"][threads]) +
                         work["f32_ops_per_token"] / rates["fma_gflops"][threads])
    return (read_s, "read") if read_s > multiply_s else (multiply_s, "multiply")


def over_rounds(results, share_of, rates):
    """'63 % of read' from the (percent, text) that share_of tells of each result: their median, and the most frequent text."""
    shares, texts = zip(*(share_of(result, rates) for result in results))
    return f"{median(shares):.0f} % {max(dict.fromkeys(texts), key=texts.count)}"


def share(result, rates):
    """(63, "of read"): the roofline time of a token over the time it took."""
    whole = {**result, "bytes_per_token": result["bytes_per_token"] + result["kv_bytes_per_token"]}
    seconds, bound = roofline_time(whole, result, rates)
    return 100 * seconds * result["tokens_per_s"]["median"], f"of {bound}"


def share_per_phase(result, rates):
    """(81, "(experts read, else multiply)"): the same against the per-phase roofline, and which phase is bounded by what."""
    times = {part: roofline_time(work, result, rates) for part, work in result["parts"].items()}
    seconds = sum(part_s for part_s, _ in times.values())
    main = max(("read", "multiply"), key=lambda kind: sum(part_s for part_s, bound in times.values() if bound == kind))
    others = [part for part, (part_s, bound) in times.items() if bound != main and part_s > 0.02 * seconds]
    other = "multiply" if main == "read" else "read"
    said = f"({', '.join(others)} {other}, else {main})" if others else f"(all {main})"
    return 100 * seconds * result["tokens_per_s"]["median"], said


def rates_table(rounds):
    rates = best_rates(rounds)
    lines = ["| shape | nodes x threads | what | tokens/s | MB per token | GB/s | peak read bandwidth | share of the bound | per-phase roofline | target |",
             "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for case, results in rows(rounds):
        place = f"{case.nodes} x {case.threads}" + (f", {case.placement}" if case.placement else "")
        aim = target(case, results[0])
        megabytes = median(1e-6 * (result["bytes_per_token"] + result["kv_bytes_per_token"]) for result in results)
        lines.append(f"| {case.shape} | {place} | {what(results[0])} | {rate(results)} | {megabytes:.1f} | "
                     f"{median(result['read_gbs'] for result in results):.1f} | "
                     f"{spread([result['read_bound_gbs'] for result in results])} | {over_rounds(results, share, rates)} | "
                     f"{over_rounds(results, share_per_phase, rates)} | {f'{aim} %' if aim else ''} |")
    return lines


class Found:
    """Looks results of one round up; None where a case or a result was not measured."""

    def __init__(self, measured):
        self.measured = measured

    def result(self, shape, nodes, threads, placement="", **fields):
        """The one with these fields; of several (other numbers of steps), the fastest."""
        found = [result for case, report in self.measured
                 if (case.shape, case.nodes, case.threads) == (shape, nodes, threads) and placement in ("", case.placement)
                 for result in report["results"] if all(result[key] == value for key, value in fields.items())]
        return max(found, key=lambda result: result["tokens_per_s"]["median"], default=None)

    def report(self, shape, nodes, threads):
        """Of the first case of this shape on so many nodes and threads."""
        return next(report for case, report in self.measured if (case.shape, case.nodes, case.threads) == (shape, nodes, threads))

    def rate(self, *place, **fields):
        result = self.result(*place, **fields)
        return None if result is None else result["tokens_per_s"]["median"]


def step_ms(result):
    return result["nodes"][0]["elapsed_ms"]


def compared(measured):
    """[(what, figure, how it is written, target)] of one round: rows with each other and with what they are made of."""
    found = Found(measured)
    lines = []

    def ratio(text, over, under, aim):
        if over and under:
            lines.append((text, over / under, "{:.2f}", aim))

    def decode(*place, **fields):
        return found.result(*place, what="decode", **fields)

    alone, four = decode("A", 1, 2, batch=1, context=32), decode("A", 1, 2, batch=4)
    ratio("A, 2 threads: time of a step with 4 streams, relative to one stream", four and step_ms(four), alone and step_ms(alone),
          "<= 1.15")
    for how in (AS_PLANNED, HALVES):
        spread_over = ("A", 2, 1, how)
        ratio(f"A, one stream: 2 nodes of 1 thread, {how}, relative to 1 node of 1 thread",
              found.rate(*spread_over, what="decode", batch=1), found.rate("A", 1, 1, what="decode", batch=1), ">= 0.95")
        one, one_here = decode(*spread_over, batch=1), decode("A", 1, 1, batch=1)
        if one and one_here and one["bound"] == one_here["bound"] == "read":
            ratio(f"the same ({how}), each relative to the read bandwidth around its own runs", one["share_of_bound"],
                  one_here["share_of_bound"], "")
        ratio(f"A, 8 streams: 2 nodes of 1 thread, {how} (the better number of steps), relative to 1 node of 2 threads",
              found.rate(*spread_over, what="decode", batch=8), found.rate("A", 1, 2, what="decode", batch=8), ">= 0.9")
        eight = decode(*spread_over, batch=8)
        if eight:
            peak = 1e9 * eight["read_bound_gbs"] / (eight["bytes_per_token"] + eight["kv_bytes_per_token"])
            ratio(f"the same ({how}), if both nodes read their weights at the measured bandwidth", peak,
                  found.rate("A", 1, 2, what="decode", batch=8), "")
        for prompt, aim in ((512, ">= 0.8"), (2048, ">= 0.9")):
            ratio(f"A, prefill {prompt}: 2 nodes of 1 thread, {how}, relative to 1 node of 2 threads",
                  found.rate(*spread_over, what="prefill", prompt=prompt),
                  found.rate("A", 1, 2, what="prefill", prompt=prompt), aim)
    spread_experts = decode("B", 2, 1, batch=1)
    if spread_experts and "expert_overhead_us_per_layer" in spread_experts:
        overhead_us = spread_experts["expert_overhead_us_per_layer"]
        exchange_us = 1e3 * spread_experts["nodes"][0]["parts_ms"]["exchange"] / B_LAYERS
        trip_us = found.report("B", 2, 1)["round_trip_us"]["median"]
        lines += [("B, experts over 2 nodes: overhead per layer, beyond the longer of both nodes' computing", overhead_us, "{:.0f} us",
                   "<= 120 us"),
                  ("a bare round trip of 4 KiB between the two nodes", trip_us, "{:.0f} us", ""),
                  ("that overhead, in such round trips", overhead_us / trip_us, "{:.1f}", "<= 2.2"),
                  ("the asking node sends and waits, per layer", exchange_us, "{:.0f} us", "")]
    for context in (8192, 32768):
        deep = decode("A", 1, 2, batch=1, context=context)
        if deep:
            lines.append((f"A, 2 threads, decode at {context}: attention's share of its own bound",
                          100 * deep["attention_share_of_bound"], "{:.0f} %", ">= 80 %"))
    for prompt in (512, 2048):
        long = found.result("A", 1, 2, what="prefill", prompt=prompt)
        if long:
            lines.append((f"A, 2 threads, prefill {prompt}: attention's share of its own bound",
                          100 * long["attention_share_of_bound"], "{:.0f} %", ">= 50 %"))
    for case, report in measured:
        if case.nodes == 1 and case.threads == 2:
            model = report["model"]
            lines.append((f"{case.shape}{', long contexts' if case.first_round_only else ''}: peak memory, relative to "
                          "1.1 x weights + cache + 200 MB",
                          model["peak_resident_bytes"] / (1.1 * model["weight_bytes"] + model["kv_bytes"] + 200e6), "{:.2f}", "<= 1"))
    return lines


def comparisons(rounds, starts):
    """[(what, median (minimum-maximum) over the rounds, target)]. starts: {shape: report of a second start}."""
    found = {}
    for measured in rounds:
        for text, figure, form, aim in compared(measured):
            found.setdefault(text, (form, aim, []))[2].append(figure)
    lines = []
    for text, (form, aim, figures) in found.items():
        range_text = f" ({form.format(min(figures))}-{form.format(max(figures))})" if len(figures) > 1 else ""
        lines.append((text, form.format(median(figures)) + range_text, aim))
    for shape, report in starts.items():
        model = report["model"]
        lines.append((f"{shape}: second start from the packed cache, per GB",
                      f"{1e9 * model['load_s'] / model['weight_bytes']:.2f} s", "< 2 s"))
    return lines


LOADING_TARGET = ">= 1.5"


def loading_table(rounds):
    """How fast the weights of each shape were packed on one node, and what the files and the memory gave before: a row per shape and
    number of threads, median (minimum-maximum) over the rounds."""
    found = {}
    for case, report in (pair for measured in rounds for pair in measured):
        if case.nodes != 1 or case.first_round_only:
            continue
        model, gigabytes = report["model"], 1e-9 * report["model"]["weight_bytes"]
        found.setdefault((case.shape, case.threads), []).append(
            (gigabytes / model["load_s"] / case.threads, model["load_user_s"] / gigabytes, model["load_system_s"] / gigabytes,
             model["file_read_gbs"] / case.threads, model["first_touch_gbs"] / case.threads))
    lines = ["| loading | packed, GB/s per thread | target | user CPU, s per GB | system CPU, s per GB | file read rate, GB/s per thread | "
             "first-touch rate, GB/s per thread |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for (shape, threads), runs in found.items():
        packed, *others = (spread(values, 2) for values in zip(*runs))
        lines.append(f"| {shape}, {threads} thread{'s' if threads > 1 else ''} | {packed} | {LOADING_TARGET} | {' | '.join(others)} |")
    return lines


B_LAYERS = 6


def breakdown_table(rounds):
    """Milliseconds of a step (decode) or of a whole prompt (prefill), and percent, by part; one column a result, of the round with
    the median rate."""
    columns = []
    for case, results in rows(rounds):
        if (case.nodes, case.threads) == (1, 2) and results[0]["batch"] in (1, 16):
            middle = sorted(results, key=lambda result: result["tokens_per_s"]["median"])[len(results) // 2]
            columns.append((f"{case.shape}, {what(middle)}", middle["nodes"][0]))
    parts = []
    for _, node in columns:
        parts += [part for part in node["parts_ms"] if part not in parts]
    lines = ["| ms (%) | " + " | ".join(name for name, _ in columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for part in parts:
        cells = []
        for _, node in columns:
            ms = node["parts_ms"].get(part, 0)
            cells.append(f"{ms:.2f} ({100 * ms / node['elapsed_ms']:.1f})" if ms else "")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines.append("| total | " + " | ".join(f"{node['sum_ms']:.2f} of {node['elapsed_ms']:.2f}" for _, node in columns) + " |")
    return lines


def bounds_lines(rounds):
    """The bounds that the processes found, over all of them."""
    lines = []
    names = {"read_gbs": "reads, GB/s", "vnni_gops": "8-bit, Gop/s", "scaled_gops": "8-bit with scales, Gop/s",
             "wide_gops": "8-bit weights with scales, Gop/s", "amx_gops": "tiles, Gop/s", "fma_gflops": "f32, GFLOP/s"}
    threads = sorted({int(key) for report in reports(rounds) for key in report["bounds"]["read_gbs"]})
    lines.append("| bound | " + " | ".join(f"{n} thread{'s' if n > 1 else ''}" for n in threads) + " |")
    lines.append("| --- |" + " ---: |" * len(threads))
    for key, name in names.items():
        values = {n: [report["bounds"][key][str(n)] for report in reports(rounds) if str(n) in report["bounds"][key]]
                  for n in threads}
        if any(values.values()):
            lines.append(f"| {name} | " + " | ".join(spread(values[n], 1 if key == "read_gbs" else 0) if values[n] else ""
                                                     for n in threads) + " |")
    return lines


def page(rounds, starts, load, seconds):
    every = reports(rounds)
    isas = sorted({result["isa"] for report in every for result in report["results"]})
    how = every[0]["bounds"]["vnni_how"]
    return "\n".join([
        f"Machine: {machine()} ({' '.join(cpu_isa())}), load {load:.1f} at the start; kernels: {', '.join(isas)}. "
        f"Commit {commit()}, {datetime.date.today().isoformat()}; {seconds:.0f} s. Median (minimum-maximum) of {len(rounds)} rounds, in each of "
        "which every case has a process of its own and a run after one to warm up (contexts beyond 32: one process, three runs); nodes are "
        "of one process, over loopback gRPC where there are two.", "",
        f"The bounds, as each of the {len(every)} processes found them (8-bit: {how}):", "", *bounds_lines(rounds), "",
        *rates_table(rounds), "",
        "| comparison, round by round | result | target |", "| --- | ---: | ---: |",
        *(f"| {text} | {figure} | {aim} |" for text, figure, aim in comparisons(rounds, starts)), "",
        *loading_table(rounds), "",
        "Where the time goes:", "", *breakdown_table(rounds)])


# --------------------------------------------------------------------------------------------------------------- running


def run(shoal, cache, isa, case, packed_cache="off"):
    """The parsed JSON of one case. RuntimeError with what the program said where it fails. Weights are packed anew unless a packed cache is
    named: what loading takes would depend on who ran before."""
    command = [shoal, "bench", "--shape", case.shape, "--cache", cache, "--threads", case.threads, *case.flags, "--json",
               "--packed-cache", packed_cache, *(["--isa", isa] if isa else [])]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=CASE_LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def second_start(shoal, cache, isa, shape):
    """The report of a process that finds its weights in the packed cache, where the one before it left them."""
    case = Case(shape, 2, ("--runs", 1, "--gen", 0, "--prompt", 8))
    run(shoal, cache, isa, case, cache / "packed")
    report = run(shoal, cache, isa, case, cache / "packed")
    if not report["model"]["from_packed_cache"]:
        raise RuntimeError(f"{shape}: a second start found no packed weights in {cache / 'packed'}")
    return report


def one_round(flags, cases_of_it):
    """[(Case, report)], and a line for each result as it comes."""
    measured = []
    for case in cases_of_it:
        print(f"{case.shape}: {case.nodes} x {case.threads} {case.placement} ...", flush=True)
        report = run(flags.shoal, flags.cache, flags.isa, case)
        for result in report["results"]:
            print(f"  {what(result)}: {rate([result])} tokens/s, {100 * result['share_of_bound']:.0f} % of {result['bound']}", flush=True)
        measured.append((case, report))
    return measured


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--cache", default=ROOT / "build" / "bench", type=Path,
                        help="where the shapes' weights are kept (3 GB, and as much again packed; written once; default build/bench)")
    parser.add_argument("--isa", default="", help="instruction set of the kernels (default: the fastest here)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks-tables.md")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", dest="effort", action="store_const", const="quick", help="fewer rows, fewer runs")
    effort.add_argument("--long", dest="effort", action="store_const", const="long",
                        help="also 2048 tokens, 64 streams and 32768 positions")
    parser.add_argument("--rounds", type=int, help="how often each case has its turn (default: 3; 1 with --quick)")
    flags = parser.parse_args(arguments)
    effort = flags.effort or "normal"
    load, begin, rounds = os.getloadavg()[0], time.monotonic(), []
    try:
        for round_number in range(flags.rounds or ROUNDS[effort]):
            rounds.append(one_round(flags, [case for case in cases(effort) if round_number == 0 or not case.first_round_only]))
        starts = {shape: second_start(flags.shoal, flags.cache, flags.isa, shape) for shape in "AB"}
    except (RuntimeError, subprocess.TimeoutExpired, OSError) as error:
        print(f"bench/{DRIVER}: {error}", file=sys.stderr)
        return 1
    text = page(rounds, starts, load, time.monotonic() - begin)
    print("\n".join((markers(DRIVER)[0], text, markers(DRIVER)[1])))
    if flags.write:
        write_section(DRIVER, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
