#!/usr/bin/env python3
"""Fresh workers behind slow links: how long from the start of the cluster until it serves, against bytes ÷ bandwidth.

Needs root and veth: each worker is in a network namespace of its own, behind a token bucket of --mbit in both directions, and has
no model files. The slowest worker's bytes decide what the links alone would take. A second row per run kills each worker when half
of its part is there, and starts it again. Only the standard library.
"""
import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import ROOT, commit, machine, spread

sys.path.insert(0, str(ROOT / "tools" / "demo"))
from local_cluster import LocalCluster, wait_until  # noqa: E402  (it lies beside the demo)

LIMIT_S = 1800


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Links:
    """Namespaces behind a link of `mbit` each. Worker i is at `hosts[i]`, and runs behind `prefixes[i]`."""

    def __init__(self, workers, mbit):
        self.spaces = [f"shoal-fetch-{os.getpid()}-{i}" for i in range(workers)]
        self.hosts = {i: f"10.234.{i}.2" for i in range(workers)}
        self.prefixes = {i: ["ip", "netns", "exec", space] for i, space in enumerate(self.spaces)}
        self.mbit = mbit

    def __enter__(self):
        try:
            for i, space in enumerate(self.spaces):
                here, there = f"sfetch{i}h", f"sfetch{i}t"
                ip("netns", "add", space)
                ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
                for prefix, name, address in (([], here, f"10.234.{i}.1"), (["-n", space], there, self.hosts[i])):
                    ip(*prefix, "addr", "add", f"{address}/30", "dev", name)
                    ip(*prefix, "link", "set", name, "up")
                    inside = ["ip", "netns", "exec", space] if prefix else []
                    subprocess.run([*inside, "tc", "qdisc", "replace", "dev", name, "root", "tbf", "rate", f"{self.mbit}mbit",
                                    "burst", "64k", "latency", "100ms"], check=True)
                ip("-n", space, "link", "set", "lo", "up")
                ip("-n", space, "route", "add", "default", "via", f"10.234.{i}.1")
        except BaseException:
            self.__exit__()
            raise
        self.forwarding = Path("/proc/sys/net/ipv4/ip_forward")
        self.before = self.forwarding.read_text()
        self.forwarding.write_text("1")
        return self

    def __exit__(self, *_):
        if hasattr(self, "before"):
            self.forwarding.write_text(self.before)
        for i, space in enumerate(self.spaces):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", f"sfetch{i}h"], capture_output=True, check=False)


def fetched(worker):
    """Bytes that the worker's last finished fetch took over the network."""
    lines = [line for line in worker.log().splitlines() if "fetched" in line and "of weights" in line]
    return int(lines[-1].split("(")[1].split(" bytes")[0])


def fetching(cluster, worker):
    """Bytes that are there and bytes of the whole, of a fetch under way; zeros where the worker does not fetch."""
    try:
        state = cluster.node(worker.name).get("fetching", {})
    except (OSError, StopIteration):
        return 0, 0  # Not up yet, or the worker has not told its name.
    return state.get("bytes", 0), state.get("total_bytes", 0)


def start(shoal, model, links, folder):
    workers = len(links.hosts)
    empty = folder / "empty"
    empty.mkdir()
    cluster = LocalCluster(shoal, model, folder / "logs", workers, hosts=links.hosts, prefixes=links.prefixes, model_root=empty,
                           worker_args=lambda i: ["--weights-cache", folder / f"weights-{i}", "--threads", 1, "--insecure"],
                           serve_args=["--strategy", "uniform", "--kv-positions", 4096, "--threads", 1, "--insecure",
                                       "--listen", "0.0.0.0:0", "--liveness-timeout", 120])
    for process in cluster.processes:
        process.start()
    return cluster


def serve_after(shoal, model, links, folder):
    """Seconds until the cluster serves, and the most bytes that a worker fetched."""
    begin = time.monotonic()
    cluster = start(shoal, model, links, folder)
    try:
        if not wait_until(cluster.healthy, LIMIT_S, pause_s=0.02):
            raise RuntimeError(cluster.coordinator.log_tail())
        seconds = time.monotonic() - begin
        return seconds, max(fetched(worker) for worker in cluster.workers)
    finally:
        cluster.stop()


def rest_after_kill(shoal, model, links, folder):
    """The largest share of its part that a worker fetched again or anew after it was killed at half of it."""
    cluster = start(shoal, model, links, folder)
    try:
        shares = []
        left = list(cluster.workers)
        while left:
            for worker in list(left):
                here, total = fetching(cluster, worker)
                if total > 0 and 2 * here >= total:
                    worker.kill()
                    worker.start()
                    shares.append((worker, total))
                    left.remove(worker)
            time.sleep(0.02)
        if not wait_until(cluster.healthy, LIMIT_S, pause_s=0.1):
            raise RuntimeError(cluster.coordinator.log_tail())
        return max(fetched(worker) / total for worker, total in shares)
    finally:
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--layers", type=int, default=28, help="of shape A, 4 bits")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--mbit", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    print(f"Machine: {machine()}; commit {commit()}, {datetime.date.today().isoformat()}, load {os.getloadavg()[0]:.1f}.\n")
    with tempfile.TemporaryDirectory() as scratch, Links(flags.workers, flags.mbit) as links:
        model = Path(scratch) / "model"
        subprocess.run([flags.shoal, "synth", "--shape", "A", "--bits", "4", "--layers", str(flags.layers), "--out", model],
                       check=True, stdout=subprocess.DEVNULL)
        ratios, most = [], 0
        for run in range(flags.runs):
            folder = Path(scratch) / f"fresh-{run}"
            folder.mkdir()
            seconds, most = serve_after(flags.shoal, model, links, folder)
            ratios.append(seconds * flags.mbit * 1e6 / 8 / most)
        folder = Path(scratch) / "killed"
        folder.mkdir()
        share = rest_after_kill(flags.shoal, model, links, folder)
    print(f"{flags.workers} fresh workers behind {flags.mbit} Mbit/s each, shape A with {flags.layers} layers, "
          f"{most / 1e6:.0f} MB for the one that needs most:\n")
    print("| what | measured | aim |\n| --- | ---: | ---: |")
    print(f"| start until it serves ÷ (bytes ÷ bandwidth), {flags.runs} runs | {spread(ratios, 3)} | 1.15 |")
    print(f"| killed at half: fetched after the restart, of its part | {share:.2f} | 0.55 |")


if __name__ == "__main__":
    main()
