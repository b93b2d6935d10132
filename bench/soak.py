#!/usr/bin/env python3
"""A cluster of 8 workers under mixed load while its workers fail at random: what changes, what is lost, what grows.

Clients send requests of a fixed set over and over (greedy, sampled with penalties, a tool, a grammar, prompts that begin
alike), streamed or whole. What each is answered undisturbed is noted first; every answer during the soak must be the
same. Faults, one after the other, up to three at a time: a worker is killed and started again soon, or later; stopped
(SIGSTOP) for up to 2 s, or for longer than it takes to count as lost; drained and taken in again; cut off by a network
that swallows all it sends (as root: a worker of its own lives in a network namespace). A seed decides which and when.
At the end nothing runs, and no block may be missing. Only the standard library.
"""
import argparse
import http.client
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

from report import ROOT, commit, machine

sys.path[:0] = [str(ROOT / "tools" / "demo"), str(ROOT / "tests" / "e2e")]
from black_hole import BlackHole  # noqa: E402  (it lies beside the tests)
from local_cluster import ClusterError, LocalCluster, wait_until  # noqa: E402  (it lies beside the demo)

WORKERS = 8
AT_ONCE = 3
ONE = ("--threads", "1")
# Two workers with layers beside the coordinator; all have experts, each of which is on two nodes.
SERVE = ("--split", "2,2,2", "--experts", "round_robin:9", "--expert-replicas", "1", "--replan-as", "balanced",
         "--replan-after", "2", "--rejoin-wait", "2", *ONE)
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
          "required": ["city", "size"], "additionalProperties": False}


def requests():
    """The set. Each has an answer that depends on nothing but itself."""
    story = "Tell me a story about a lonely robot."
    long = " ".join(f"The robot saw stone {i}." for i in range(80))
    user = lambda text: [{"role": "user", "content": text}]  # noqa: E731
    return [
        dict(messages=user(story), temperature=0, max_tokens=120, ignore_eos=True, stream=True),
        dict(messages=user(f"{long} {story}"), temperature=0, max_tokens=60, ignore_eos=True),
        dict(messages=user(f"{long} What is 38 + 47?"), temperature=0.8, seed=3, max_tokens=60, ignore_eos=True, stream=True),
        dict(messages=user("Write a poem about the moon."), temperature=0.9, seed=7, max_tokens=150, ignore_eos=True,
             presence_penalty=0.8, frequency_penalty=0.5, stream=True),
        dict(messages=user("Why is it called shoal?"), temperature=1.1, seed=8, max_tokens=100, top_p=0.9, top_k=40,
             repetition_penalty=1.1, ignore_eos=True),
        dict(messages=user("Weather in Tokyo? Use the tool."), temperature=0, max_tokens=100, tools=[TOOL]),
        dict(messages=user("Name a city and its size."), temperature=1.0, seed=4, max_tokens=80,
             response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
        dict(messages=user(story), temperature=0.7, seed=11, n=2, max_tokens=60, ignore_eos=True),
    ]


def answer(cluster, body):
    """What the client gets of a request, without ids and times."""
    link = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=300)
    try:
        link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = link.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.read(300)}")
        if not body.get("stream"):
            choices = json.load(reply)["choices"]
            calls = [[call["function"] for call in c["message"].get("tool_calls") or []] for c in choices]
            return [(c["message"]["content"], c["finish_reason"], call) for c, call in zip(choices, calls)]
        text, reason = "", None
        for line in reply:
            if line.startswith(b"data: [DONE]"):
                return [(text, reason, [])]
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                text += event["choices"][0]["delta"].get("content") or ""
                reason = event["choices"][0]["finish_reason"] or reason
        raise RuntimeError("the stream broke off")
    finally:
        link.close()


class Load:
    """Clients that ask until the end, each request compared with its undisturbed answer."""

    def __init__(self, cluster, model, clients, seed):
        self.cluster = cluster
        self.bodies = [dict(body, model=model) for body in requests()]
        self.expected = [answer(cluster, body) for body in self.bodies]
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.answered, self.changed, self.errors, self.longest = 0, [], [], 0.0
        self.threads = [threading.Thread(target=self.ask, args=(random.Random(seed + i),), daemon=True) for i in range(clients)]

    def ask(self, chance):
        while not self.over.is_set():
            i = chance.randrange(len(self.bodies))
            begin = time.monotonic()
            try:
                same, error = answer(self.cluster, self.bodies[i]) == self.expected[i], None
            except (RuntimeError, OSError, http.client.HTTPException) as caught:
                same, error = True, f"request {i}: {caught or type(caught).__name__}"
            with self.lock:
                self.answered += 1
                self.longest = max(self.longest, time.monotonic() - begin)
                if error:
                    self.errors.append(error)
                if not same:
                    self.changed.append(i)

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(300)


class Faults:
    def __init__(self, cluster, hole, seed):
        self.cluster, self.hole = cluster, hole
        self.chance = random.Random(seed)
        self.free = set(range(WORKERS))
        self.lock = threading.Lock()
        self.told = Counter()
        self.refused = 0
        self.over = threading.Event()

    def run(self, until):
        running = []
        while time.monotonic() < until:
            time.sleep(self.chance.uniform(0, 4))
            running = [thread for thread in running if thread.is_alive()]
            with self.lock:
                free = sorted(self.free)
            if len(running) >= AT_ONCE:
                continue
            worker = self.chance.choice(free)
            kinds = [self.restart, self.kill_for_a_while, self.stop_shortly, self.stop_for_long, self.drain]
            if self.hole and worker == WORKERS - 1:
                kinds += 3 * [self.swallow]
            fault, taken = self.chance.choice(kinds), self.chance.random()
            with self.lock:
                self.free.discard(worker)
                self.told[fault.__name__.replace("_", " ")] += 1
            running.append(threading.Thread(target=self.one, args=(fault, worker, taken), daemon=True))
            running[-1].start()
        for thread in running:
            thread.join(120)

    def one(self, fault, worker, taken):
        try:
            fault(worker, taken)
        finally:
            with self.lock:
                self.free.add(worker)

    def restart(self, worker, _):
        self.cluster.workers[worker].kill()
        self.cluster.workers[worker].start()

    def kill_for_a_while(self, worker, taken):
        self.cluster.workers[worker].kill()
        time.sleep(1 + 14 * taken)
        self.cluster.workers[worker].start()

    def stop_shortly(self, worker, taken):
        self.cluster.workers[worker].pause()
        time.sleep(2 * taken)
        self.cluster.workers[worker].resume()

    def stop_for_long(self, worker, taken):
        self.cluster.workers[worker].pause()
        time.sleep(5 + 10 * taken)
        self.cluster.workers[worker].resume()

    def swallow(self, _, taken):
        self.hole.swallow()
        time.sleep(1 + 14 * taken)
        self.hole.release()

    def drain(self, worker, taken):
        self.order("drain", worker)
        time.sleep(10 * taken)
        self.order("undrain", worker)

    def order(self, what, worker):
        """Refused where the others can't do without it, which is an answer as good as any."""
        body = json.dumps({"node": self.cluster.workers[worker].name}).encode()
        request = urllib.request.Request(f"{self.cluster.url}/cluster/{what}", body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except OSError:
            self.refused += 1


def sizes(cluster):
    """(resident MiB, descriptors) of the coordinator, and the largest of both over the workers."""
    def of(process):
        return process.rss_bytes() / 2**20, len(os.listdir(f"/proc/{process.pid}/fd"))
    workers = []
    for worker in cluster.workers:
        with suppress(OSError, ClusterError):  # It may be killed meanwhile.
            if worker.alive:
                workers.append(of(worker))
    return (*of(cluster.coordinator), max(w[0] for w in workers), max(w[1] for w in workers))


def make_cluster(flags, log_dir, hole):
    options = dict(serve_args=SERVE, worker_args=ONE)
    if hole:
        options = dict(serve_args=(*SERVE, "--insecure"), worker_args=(*ONE, "--insecure"), **hole.around_last(WORKERS))
    return LocalCluster(flags.shoal, flags.model, log_dir, WORKERS, **options)


def soak(flags, cluster, hole):
    load = Load(cluster, flags.model.name, flags.clients, flags.seed)
    faults = Faults(cluster, hole, flags.seed)
    end = time.monotonic() + 60 * flags.minutes
    load.start()
    thread = threading.Thread(target=faults.run, args=(end,), daemon=True)
    thread.start()
    print("| minute | answers | faults | coordinator, MiB | its descriptors | largest worker, MiB | its descriptors |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    minute = 0
    while thread.is_alive():
        thread.join(flags.every)
        minute += flags.every / 60
        rss, descriptors, worker_rss, worker_descriptors = sizes(cluster)
        print(f"| {minute:.0f} | {load.answered} | {sum(faults.told.values())} | {rss:.1f} | {descriptors} | {worker_rss:.1f} | "
              f"{worker_descriptors} |", flush=True)
    load.stop()
    serves = wait_until(cluster.healthy, 60)
    # Nodes that were lost often are kept out for minutes: that is as it should be.
    out = sum(node.get("out") is not None for node in cluster.status()["nodes"])
    blocks = cluster.cache_stats()["blocks"]
    leaked = blocks["total"] - blocks["free"] - blocks["cached"]
    print(f"\n{load.answered} answers, {len(load.changed)} changed, {len(load.errors)} errors, {leaked} blocks leaked; the longest "
          f"took {load.longest:.1f} s; {cluster.status()['generation']} sessions; at the end it serves: {serves}, with {out} nodes still out")
    print("faults: " + ", ".join(f"{count} {name}" for name, count in sorted(faults.told.items())) +
          f"; {faults.refused} orders refused")
    for error in load.errors[:5]:
        print(f"  {error}", file=sys.stderr)
    return not load.changed and not load.errors and leaked == 0 and serves


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--model", default=ROOT / "models" / "shoal-demo-4bit", type=Path)
    parser.add_argument("--minutes", default=10.0, type=float)
    parser.add_argument("--clients", default=6, type=int)
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--every", default=60.0, type=float, help="seconds between two lines of the table")
    parser.add_argument("--logs", type=Path, help="keep the logs of all processes in this folder")
    flags = parser.parse_args()
    print(f"{flags.model.name}; {machine()}, a thread a process; commit {commit()}; {flags.clients} clients, seed {flags.seed}\n")
    logs = flags.logs or Path(tempfile.mkdtemp())
    hole = BlackHole(10 + os.getpid() % 40).open() if os.geteuid() == 0 else None
    try:
        with make_cluster(flags, logs, hole) as cluster:
            good = soak(flags, cluster, hole)
    finally:
        if hole:
            hole.close()
    if good and not flags.logs:
        shutil.rmtree(logs)
    else:
        print(f"logs: {logs}", file=sys.stderr)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
