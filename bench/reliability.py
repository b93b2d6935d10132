#!/usr/bin/env python3
"""What clients notice of faults: the longest pause of any of 8 streams, texts that changed, and errors.

Per fault and state a fresh cluster of real processes on loopback: an undisturbed run of 8 streams (greedy and sampled,
with penalties, one with a stop string), then the same requests with the fault in their middle. States: "decode", all
streams have had ten pieces of text; "prefill", the requests, with prompts of some 1,500 tokens, were sent 0.2 s ago;
"idle", nothing runs, and the requests are sent 0.2 s after the fault. --contexts 4096,32768 instead: one stream behind a
prompt of so many tokens, whose node with layers is killed for good when its buddy has copies of all full blocks; the
demo model with a longer context in its config. Pauses include what the streams compute anyway:
"undisturbed" is the longest pause without a fault. Where the coordinator dies its clients' connections break; they ask
again until they are answered, and the pause ends with the first piece of that. Black holes need root, for a network
namespace. Only the standard library.
"""
import argparse
import http.client
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from report import ROOT, commit, machine

sys.path[:0] = [str(ROOT / "tools" / "demo"), str(ROOT / "tests" / "e2e")]
from black_hole import BlackHole  # noqa: E402  (it lies beside the tests)
from local_cluster import LocalCluster, wait_until  # noqa: E402  (it lies beside the demo)

STREAMS = 8
ONE = ("--threads", "1")
SOON = ("--replan-after", "1")
REPLICAS = ("--split", "3,3", "--experts", "round_robin", "--expert-replicas", "1", *SOON)
BUDDY = ("--kv-buddy", "auto")
SPREAD = ("--strategy", "uniform", "--experts", "round_robin:3", *SOON)
SAMPLING = [
    dict(temperature=0),
    dict(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.5),
    dict(temperature=1.1, top_p=0.9, top_k=40, repetition_penalty=1.1),
]


class Stream(threading.Thread):
    """One request, and when its pieces came. again: it is sent until it is answered to its end."""

    path = "/v1/chat/completions"
    timeout_s = 120
    tokens = 150

    def __init__(self, cluster, model, index, state, stop, again):
        super().__init__(daemon=True)
        filler = "" if state != "prefill" else " ".join(f"The robot saw stone {i} of {index}." for i in range(120))
        self.body = dict(model=model, stream=True, max_tokens=self.tokens, seed=100 + index, ignore_eos=True,
                         messages=[dict(role="user", content=f"{filler} Tell me a story about robot {index}.")],
                         **SAMPLING[index % len(SAMPLING)])
        if stop:
            self.body["stop"] = stop
        self.port = cluster.port
        self.again_until = time.monotonic() + 60 if again else 0
        self.times = []
        self.pieces = []
        self.error = None

    def run(self):
        self.times.append(time.monotonic())
        self.ask()
        while self.error and time.monotonic() < self.again_until:
            time.sleep(0.01)
            self.error, self.pieces = None, []
            self.ask()

    def ask(self):
        ended = False
        try:
            link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
            link.request("POST", self.path, json.dumps(self.body), {"Content-Type": "application/json"})
            reply = link.getresponse()
            if reply.status != 200:
                self.error = f"{reply.status}: {reply.read(300)}"
                return
            for line in reply:
                ended = ended or line.startswith(b"data: [DONE]")
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    self.error = event["error"]["message"]
                    return
                self.times.append(time.monotonic())
                self.pieces.append(self.piece(event["choices"][0]))
            self.error = None if ended else "the stream broke off"
        except (OSError, http.client.HTTPException) as error:
            self.error = str(error) or type(error).__name__

    @staticmethod
    def piece(choice):
        return choice["delta"].get("content") or ""

    def text(self):
        return "".join(self.pieces)

    def pause(self):
        return max((later - earlier for earlier, later in zip(self.times, self.times[1:])), default=0.0)


class LongStream(Stream):
    """One request behind a prompt of ids, the same each time."""
    path = "/v1/completions"
    timeout_s = 900

    def __init__(self, cluster, model, context, tokens):
        super().__init__(cluster, model, 0, "long", None, False)
        ids = random.Random(context)
        self.body = dict(model=model, stream=True, max_tokens=tokens, temperature=0, ignore_eos=True,
                         prompt=[ids.randrange(1000) for _ in range(context)])

    @staticmethod
    def piece(choice):
        return choice["text"]


def run_streams(cluster, model, state, fault=None, stop=None):
    """fault: a Fault that happens meanwhile; None: nothing does."""
    if fault and state == "idle":
        fault.act(cluster)
        time.sleep(0.2)
    streams = [Stream(cluster, model, i, state, stop if i == 0 else None, fault and fault.again) for i in range(STREAMS)]
    for stream in streams:
        stream.start()
    begun = lambda: all(len(s.pieces) >= 10 or not s.is_alive() for s in streams)  # noqa: E731
    if fault and state == "decode" and not wait_until(begun, 60, 0.005):
        raise RuntimeError("the streams did not begin")
    if fault and state == "prefill":
        time.sleep(0.2)
    if fault and state != "idle":
        fault.act(cluster)
    for stream in streams:
        stream.join(180)
    return streams


def kill(index):
    return lambda cluster: cluster.workers[index].kill()


def restart(index):
    def fault(cluster):
        cluster.workers[index].kill()
        cluster.workers[index].start()
    return fault


def hang(index, seconds=None):
    def fault(cluster):
        cluster.workers[index].pause()
        if seconds:
            threading.Timer(seconds, cluster.workers[index].resume).start()
    return fault


def order(path, node):
    def fault(cluster):
        request = urllib.request.Request(cluster.url + path, json.dumps({"node": node}).encode(),
                                         {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).read()
    return fault


def drained_before(cluster):
    order("/cluster/drain", "worker-1")(cluster)
    if not wait_until(lambda: cluster.node("worker-1")["layers"] is None, 60):
        raise RuntimeError("worker-1 is not drained")


def restart_coordinator(cluster):
    cluster.coordinator.kill()
    cluster.coordinator.start()


@dataclass
class Fault:
    name: str
    workers: int
    serve: tuple
    act: object           # Of the cluster.
    before: object = None  # What goes before the streams.
    again: bool = False   # Clients lose their connections, and ask again.
    hole: bool = False    # The last worker's network may be cut: act takes the BlackHole instead.


NOBODY_ELSE = ("--split", "3,3", "--experts", "round_robin:3", *SOON)
FAULTS = [
    Fault("owner of experts killed, others hold them", 3, REPLICAS, kill(2)),
    Fault("owner of experts stopped (SIGSTOP), others hold them", 3, REPLICAS, hang(2)),
    Fault("owner of experts in a black hole, others hold them", 3, REPLICAS, BlackHole.swallow, hole=True),
    Fault("owner of experts killed, nobody else holds them", 2, NOBODY_ELSE, kill(1)),
    Fault("worker with layers restarted in place", 2, SPREAD, restart(1)),
    Fault("worker with layers restarted in place, with a buddy", 2, (*SPREAD, *BUDDY), restart(1)),
    Fault("worker with layers killed, for good", 2, SPREAD, kill(0)),
    Fault("worker with layers killed, for good, with a buddy", 2, (*SPREAD, *BUDDY), kill(0)),
    Fault("both workers killed, for good", 2, SPREAD, lambda cluster: [kill(0)(cluster), kill(1)(cluster)]),
    Fault("worker with layers stopped for 2 s", 2, SPREAD, hang(1, 2)),
    Fault("worker with layers stopped, for good", 2, SPREAD, hang(1)),
    Fault("worker with layers in a black hole", 2, SPREAD, BlackHole.swallow, hole=True),
    Fault("worker with layers drained", 2, SPREAD, order("/cluster/drain", "worker-1")),
    Fault("drained worker taken in again", 2, SPREAD, order("/cluster/undrain", "worker-1"), before=drained_before),
    Fault("coordinator killed and started again, workers warm", 2, SPREAD, restart_coordinator, again=True),
]


def cluster_for(flags, fault, log_dir, hole):
    options = dict(workers=fault.workers, serve_args=(*fault.serve, *ONE), worker_args=ONE)
    if hole:
        options.update(hole.around_last(fault.workers), serve_args=(*options["serve_args"], "--insecure"),
                       worker_args=(*ONE, "--insecure"))
    return LocalCluster(flags.shoal, flags.model, log_dir, **options)


def measure(flags, fault, state, log_dir):
    hole = None
    if fault.hole:
        hole = BlackHole(10 + os.getpid() % 40).open()
        fault = replace(fault, act=lambda _: hole.swallow())
    try:
        with cluster_for(flags, fault, log_dir, hole) as cluster:
            return measure_in(cluster, flags, fault, state)
    finally:
        if hole:
            hole.close()


def measure_in(cluster, flags, fault, state):
    if fault.before:
        fault.before(cluster)
    model = flags.model.name
    text = run_streams(cluster, model, state)[0].text()
    stop = [text[len(text) // 2:][:12]]
    calm = run_streams(cluster, model, state, stop=stop)
    if errors := [stream.error for stream in calm if stream.error]:
        raise RuntimeError(f"without a fault: {errors[0]}")
    generation = cluster.status()["generation"]
    disturbed = run_streams(cluster, model, state, fault, stop)
    sessions = cluster.status()["generation"] - (0 if fault.again else generation)
    blocks = cluster.cache_stats()["blocks"]
    changed = sum(a.text() != b.text() for a, b in zip(calm, disturbed))
    errors = [s.error for s in disturbed if s.error]
    print(f"| {fault.name} | {state} | {1e3 * max(s.pause() for s in calm):.0f} | "
          f"{1e3 * max(s.pause() for s in disturbed):.0f} | {sessions} | {changed} | {len(errors)} | {blocks['used']} |",
          flush=True)
    for error in errors[:1]:
        print(f"  error: {error}", file=sys.stderr)
    return changed == 0 and not errors


def with_context(model, positions, folder):
    """The model with room for so many positions: its weights are linked to."""
    folder.mkdir()
    for file in model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    return folder


def measure_context(flags, context, folder):
    """A worker with layers is killed for good in the middle of a stream behind `context` tokens; another has its copies."""
    tokens = 400
    model = with_context(flags.model, context + 2 * tokens, folder / "model")
    flags_of = (*SPREAD, *BUDDY, *ONE, "--kv-positions", str(2 * (context + 2 * tokens)), "--speculate", "off")
    with LocalCluster(flags.shoal, model, folder / "logs", workers=2, serve_args=flags_of, worker_args=ONE) as cluster:
        def run(count, fault=None):
            stream = LongStream(cluster, model.name, context, count)
            stream.start()
            if fault and not wait_until(lambda: len(stream.pieces) >= 10 or not stream.is_alive(), 600, 0.005):
                raise RuntimeError("the stream did not begin")
            if fault:
                fault(cluster)
            stream.join(900)
            if stream.error or stream.is_alive():
                raise RuntimeError(stream.error or "the stream did not end")
            return stream
        run(1)  # From here on the prompt is cached.
        blocks = context // 32
        copied = lambda: cluster.metrics()["shoal_kv_copies"] >= 2 * blocks  # noqa: E731  (Of both workers' layers.)
        if not wait_until(copied, 120):
            raise RuntimeError(f"only {cluster.metrics()['shoal_kv_copies']:.0f} of {2 * blocks} copies came")
        calm = run(tokens)
        rows = cluster.cache_stats()["rows"]
        disturbed = run(tokens, kill(0))
        rows = cluster.cache_stats()["rows"] - rows - tokens
        changed = calm.text() != disturbed.text()
        # The first "pause" of a stream is until its first piece: not what is asked here.
        pause = max(b - a for a, b in zip(disturbed.times[1:], disturbed.times[2:]))
        print(f"| {context} | {1e3 * max(b - a for a, b in zip(calm.times[1:], calm.times[2:])):.0f} | {1e3 * pause:.0f} | "
              f"{rows} | {int(changed)} |", flush=True)
        return not changed


def main_contexts(flags, folder):
    print("| tokens before the stream | longest pause undisturbed, ms | with the loss, ms | rows computed again | texts changed |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    good = True
    for context in map(int, flags.contexts.split(",")):
        here = folder / str(context)
        here.mkdir()
        good = measure_context(flags, context, here) and good
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--model", default=ROOT / "models" / "shoal-demo-4bit", type=Path)
    parser.add_argument("--states", default="decode,prefill,idle")
    parser.add_argument("--only", default=".", help="faults whose name matches this regular expression")
    parser.add_argument("--tokens", default=Stream.tokens, type=int,
                        help="of each stream; give more where a fast machine's streams end before a session changes")
    parser.add_argument("--contexts", default="", help="measure the loss of a node with a buddy behind prompts of so many tokens")
    flags = parser.parse_args()
    Stream.tokens = flags.tokens
    print(f"{flags.model.name}; {machine()}, a thread a process; commit {commit()}; {1 if flags.contexts else STREAMS} streams\n")
    if flags.contexts:
        with tempfile.TemporaryDirectory() as folder:
            sys.exit(0 if main_contexts(flags, Path(folder)) else 1)
    print("| fault | state | undisturbed, ms | with the fault, ms | new sessions | texts changed | errors | blocks leaked |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    good = True
    with tempfile.TemporaryDirectory() as logs:
        for i, fault in enumerate(f for f in FAULTS if re.search(flags.only, f.name)):
            if fault.hole and os.geteuid() != 0:
                print(f"  left out, as it needs root: {fault.name}", file=sys.stderr)
                continue
            for state in flags.states.split(","):
                good = measure(flags, fault, state, Path(logs) / f"{i}-{state}") and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
