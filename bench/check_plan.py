#!/usr/bin/env python3
"""Predicted against measured: plans on 1 to 4 nodes, with delays, bandwidths and CPU quotas between and around them.

Every case is a cluster of processes. Its machines are measured (`shoal profile --refresh`, inside the same limits), `shoal plan`
predicts, `shoal serve` runs the same plan, and tokens are timed at the client. Needs root: workers run in network namespaces of
their own, behind a pair of TUN devices that this program joins, with the delay of the case (netem is not in every kernel), and
behind a token bucket where a case has a bandwidth; CPU quotas are cgroups of version 1 or 2. Only the standard library.

Nodes share this machine's cores. One stream uses them by turns, which is what the prediction assumes; the time to the first token
of more nodes than cores, and 16 streams over several nodes, are not compared, as the cores would be counted twice.
"""
import argparse
import ctypes
import datetime
import fcntl
import heapq
import json
import multiprocessing
import os
import random
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from end_to_end import ends_of_text, generate, random_prompt, synthesized
from report import ROOT, commit, machine

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster  # noqa: E402  (it lies beside the demo)

CORES = len(os.sched_getaffinity(0))
CONTEXT = 1024  # As in src/plan/predict.h: of a stream that decodes.
PROMPT = 2048   # Likewise: of the time to the first token.
TOKENS = 32
RUNS = 3
CLONE_NEWNET = 0x40000000


class Case:
    def __init__(self, name, model, nodes=1, threads=1, placement=(), delay_ms=None, mbit=None, quota=None):
        self.name, self.model, self.nodes, self.threads = name, model, nodes, threads
        self.placement, self.delay_ms, self.mbit, self.quota = list(placement), delay_ms, mbit, quota


def cases(dense_layers, moe_layers):
    def layers(*parts):
        return ["--split", ",".join(map(str, parts))]
    half = dense_layers // 2
    quarter = dense_layers // 4
    experts = [*layers(moe_layers), "--experts-over", "2"]
    return [
        Case("1 node x 2 threads", "dense", threads=2),
        Case("1 node x 1 thread", "dense"),
        Case("1 node x 2 threads", "moe", threads=2),
        Case("1 node, quota of 0.5 CPU", "dense", quota=0.5),
        Case("2 nodes, layers 1:1", "dense", 2, placement=layers(half, half)),
        Case("2 nodes, layers 3:1", "dense", 2, placement=layers(3 * quarter, quarter)),
        Case("2 nodes, layers 1:1, 0.1 ms", "dense", 2, placement=layers(half, half), delay_ms=0.1),
        Case("2 nodes, layers 1:1, 1 ms", "dense", 2, placement=layers(half, half), delay_ms=1),
        Case("2 nodes, layers 1:1, 5 ms", "dense", 2, placement=layers(half, half), delay_ms=5),
        Case("2 nodes, layers 1:1, 50 Mbit/s", "dense", 2, placement=layers(half, half), delay_ms=0.1, mbit=50),
        Case("2 nodes, layers 1:1, the second with a quota of 0.5 CPU", "dense", 2, placement=layers(half, half), quota=0.5),
        Case("3 nodes, layers 1:1:2, 1 ms", "dense", 3, placement=layers(quarter, quarter, half), delay_ms=1),
        Case("4 nodes, layers 1:1:1:1, 1 ms", "dense", 4, placement=layers(*[quarter] * 4), delay_ms=1),
        Case("2 nodes, experts over both", "moe", 2, placement=experts),
        Case("2 nodes, experts over both, 1 ms", "moe", 2, placement=experts, delay_ms=1),
        Case("2 nodes, experts over both, 5 ms", "moe", 2, placement=experts, delay_ms=5),
    ]


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def open_tun(name, space=None):
    """A TUN device in a network namespace: what is written to it arrives there, what is sent there is read from it."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if space is not None:
            there = os.open(f"/var/run/netns/{space}", os.O_RDONLY)
            if libc.setns(there, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.close(there)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH", name.encode(), 0x0001 | 0x1000))  # IFF_TUN, without packet info.
        return device
    finally:
        libc.setns(here, CLONE_NEWNET)
        os.close(here)


def join(ends, delay_s):
    """Carries packets between the two devices of each pair, `delay_s` later."""
    other = {}
    for a, b in ends:
        other[a], other[b] = b, a
    waiting, number = [], 0
    while True:
        now = time.monotonic()
        timeout = max(0.0, waiting[0][0] - now) if waiting else 1.0
        # select() rounds up to its timer: the last part of a wait is spun.
        ready, _, _ = select.select(list(other), [], [], timeout if timeout > 2e-3 else 0)
        for device in ready:
            try:
                while True:
                    packet = os.read(device, 65536)
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + delay_s, number, other[device], packet))
            except BlockingIOError:
                pass
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(waiting[0][2], heapq.heappop(waiting)[3])


class Network:
    """Workers in namespaces of their own, each behind a delayed link. Worker i is at `hosts[i]`."""

    def __init__(self, workers, delay_ms, mbit):
        self.spaces, self.hosts, ends = [], {}, []
        self.process = None
        try:
            for i in range(workers):
                space, name = f"shoal-plan-{os.getpid()}-{i}", f"splan{i}"
                here, there = f"10.233.{i}.1", f"10.233.{i}.2"
                ip("netns", "add", space)
                self.spaces.append(space)
                pair = open_tun(name), open_tun(name, space)
                ends.append(pair)
                for prefix, mine, its in (([], here, there), (["-n", space], there, here)):
                    ip(*prefix, "addr", "add", mine, "peer", its, "dev", name)
                    ip(*prefix, "link", "set", name, "mtu", "9000", "up")
                    if mbit:
                        enter = ["ip", "netns", "exec", space] if prefix else []
                        subprocess.run([*enter, "tc", "qdisc", "replace", "dev", name, "root", "tbf", "rate", f"{mbit}mbit",
                                        "burst", "16k", "latency", "500ms"], check=True)
                ip("-n", space, "link", "set", "lo", "up")
                ip("-n", space, "route", "add", "default", "via", here)
                self.hosts[i] = there
            self.forwarding = Path("/proc/sys/net/ipv4/ip_forward")
            self.before = self.forwarding.read_text()
            self.forwarding.write_text("1")
            self.process = multiprocessing.Process(target=join, args=(ends, delay_ms * 1e-3), daemon=True)
            self.process.start()
            for pair in ends:
                for device in pair:
                    os.close(device)
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.process is not None:
            self.process.terminate()
            self.process.join(5)
            self.forwarding.write_text(self.before)
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


class Quota:
    """A cgroup with a CPU quota; `prefix` runs a program in it."""

    def __init__(self, cpus):
        name = f"shoal-plan-{os.getpid()}"
        v1 = Path("/sys/fs/cgroup/cpu")
        self.folder = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / name
        self.folder.mkdir()
        if v1.is_dir():
            (self.folder / "cpu.cfs_period_us").write_text("20000")
            (self.folder / "cpu.cfs_quota_us").write_text(str(int(20000 * cpus)))
        else:
            (self.folder / "cpu.max").write_text(f"{int(20000 * cpus)} 20000")
        self.prefix = ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    def close(self):
        for _ in range(50):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def prompt_of(model, length, seed):
    return random_prompt(random.Random(seed), model["vocabulary"], length)


def measure(url, model):
    """Median seconds to the first token of a prompt of PROMPT, and tokens/s behind one of CONTEXT. Prompts are all different;
    tokens are drawn at a temperature, as predicted."""
    first_token, decode = [], []
    for run in range(RUNS + 1):
        begin, end = generate(url, prompt_of(model, CONTEXT, 10 + run), TOKENS, model["eos"], temperature=1)
        first, _ = generate(url, prompt_of(model, PROMPT, 100 + run), 1, model["eos"])
        if run > 0:  # The first warms up.
            decode.append((TOKENS - 1) / (end - begin))
            first_token.append(first)
    return statistics.median(first_token), statistics.median(decode)


def run_case(shoal, case, model, folder):
    quota = Quota(case.quota) if case.quota else None
    network = None
    try:
        network = Network(case.nodes - 1, case.delay_ms, case.mbit) if case.delay_ms is not None else None
        flags = ["--threads", case.threads]
        prefixes = {i: ["ip", "netns", "exec", space] for i, space in enumerate(network.spaces)} if network else {}
        if quota and case.nodes > 1:
            prefixes[0] = [*quota.prefix, *prefixes.get(0, [])]
        own = quota.prefix if quota and case.nodes == 1 else []
        kept = [folder / f"profile-{i}" for i in range(case.nodes)]
        profile = lambda i: [*flags, "--profile", kept[i]]  # noqa: E731
        for i in range(case.nodes):  # One after the other: two that measure at once would share cores and memory.
            prefix = own if i == 0 else prefixes.get(i - 1, [])
            subprocess.run([*map(str, [*prefix, shoal, "profile", *profile(i), "--refresh", "--json"])], check=True,
                           capture_output=True)
        placement = [*case.placement, "--kv-positions", "8192"]
        secure = ["--insecure"] if network else []
        cluster = LocalCluster(shoal, model["folder"], folder / "logs", workers=case.nodes - 1, hosts=network and network.hosts,
                               prefixes=prefixes, worker_args=lambda i: [*profile(i + 1), *secure],
                               serve_args=[*profile(0), *placement, *secure, "--prefix-cache", "off", "--speculate", "off",
                                           *(["--listen", "0.0.0.0:0"] if network else [])])
        cluster.coordinator.argv = [*map(str, own), *cluster.coordinator.argv]
        with cluster:
            words = [*own, shoal, "plan", "--model", model["folder"], *profile(0), *placement, "--json"]
            words += ["--workers", ",".join(cluster.addresses)] if cluster.addresses else []
            told = json.loads(subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout)
            predicted = next(s for s in told["strategies"] if s.get("chosen"))["predicted"]
            first_s, decode = measure(cluster.url, model)
        return predicted, first_s, decode
    finally:
        if network:
            network.close()
        if quota:
            quota.close()


def open_model(shoal, name, layers):
    shape = {"dense": "A", "moe": "B"}[name]
    folder = synthesized(shoal, ROOT / "build" / "bench" / f"plan-{name}-{layers}", shape, layers)
    config = json.loads((folder / "config.json").read_text())
    return {"folder": folder, "vocabulary": config["vocab_size"], "eos": ends_of_text(folder)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--dense-layers", type=int, default=8, help="of shape A; a multiple of 4")
    parser.add_argument("--moe-layers", type=int, default=4, help="of shape B")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    flags = parser.parse_args()
    models = {"dense": open_model(flags.shoal, "dense", flags.dense_layers), "moe": open_model(flags.shoal, "moe", flags.moe_layers)}
    rows, errors = [], []
    print(f"Machine: {machine()}; commit {commit()}, {datetime.date.today().isoformat()}, load {os.getloadavg()[0]:.1f}.\n")
    print("| model | plan | decode, tokens/s: predicted | measured | error | first token of 2 k, s: predicted | measured | error |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases(flags.dense_layers, flags.moe_layers):
        if flags.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            predicted, first_s, decode = run_case(flags.shoal, case, models[case.model], Path(folder))
        decode_error = predicted["tokens_per_s_1"] / decode - 1
        first_error = predicted["ttft_2k_s"] / first_s - 1
        comparable = case.nodes * case.threads <= CORES
        errors.append(abs(decode_error))
        if comparable:
            errors.append(abs(first_error))
        print(f"| {case.model} | {case.name} | {predicted['tokens_per_s_1']:.1f} | {decode:.1f} | {decode_error:+.0%} | "
              f"{predicted['ttft_2k_s']:.2f} | {first_s:.2f} | {f'{first_error:+.0%}' if comparable else 'cores shared'} |", flush=True)
        rows.append(case)
    print(f"\n{len(rows)} plans, {len(errors)} comparisons: median error {statistics.median(errors):.0%}, worst {max(errors):.0%}.")


if __name__ == "__main__":
    main()
