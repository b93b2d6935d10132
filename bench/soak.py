#!/usr/bin/env python3
"""A cluster of 8 workers under mixed load while its processes fail at random: what changes, what is lost, what grows.

Clients send requests of a fixed set over and over: greedy, sampled with penalties, with log-probabilities, stop strings, a
tool, a grammar, two choices, prompts that begin alike; whole, streamed, or left in the middle; some with an
Idempotency-Key, which is asked again. What each is answered is noted first, by one process that has nothing of the
cluster; every answer during the soak, and every part of one, must be the same. A client that was told 503, or whose
connection broke while the coordinator was down, asks again; any other error is one.

Faults come by a schedule that a seed decides, up to three workers at a time: a worker is killed and started again soon,
or later; stopped (SIGSTOP) for up to 2 s, or for longer than it takes to count as lost; drained and taken in again; told
to end, and started again; cut off by a network that swallows all that it sends and is sent (as root: a worker of its own
lives in a network namespace), or all that it is sent (another one, behind a proxy). The coordinator is killed and started
again. Worker 1 is never killed, so that what it holds can be looked at over the whole time; worker 8 is not named to the
coordinator, but joins. At the end nothing runs, no block may be missing, and no process may hold more descriptors than at
the begin. Only the standard library.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from report import ROOT, commit, machine

sys.path[:0] = [str(ROOT / "tools" / "demo"), str(ROOT / "tests" / "e2e")]
from black_hole import BlackHole, HalfHole  # noqa: E402  (they lie beside the tests)
from local_cluster import ClusterError, LocalCluster, Process, free_ports, get_text, wait_until  # noqa: E402  (beside the demo)

WORKERS = 8
NEVER_KILLED, HALF_CUT_OFF, CUT_OFF, JOINS = 0, WORKERS - 3, WORKERS - 2, WORKERS - 1
AT_ONCE = 3
PATIENCE_S = 300.0     # A request that is not answered by then is an error.
EXPLAINED_S = 120.0    # A 503 is one, too, where no fault has begun for so long.
SETTLED_S = 90.0       # Within which all that was held for requests is given back.
DESCRIPTORS_SLACK = 16  # Connections that are on their way in or out.
ONE = ("--threads", "1")
# Two workers with layers beside the coordinator; all have experts, each of which is on two nodes.
SERVE = ("--split", "2,2,2", "--experts", "round_robin", "--expert-replicas", "1", "--replan-as", "balanced",
         "--replan-after", "2", "--rejoin-wait", "2", *ONE)
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
          "required": ["city", "size"], "additionalProperties": False}
KEYS = 3  # Of each request that has one: asked again and again.


# ------------------------------------------------------------------------------------------------------------ what is asked

@dataclass
class Question:
    """A request, and its answer where nothing fails: (text, reason to end, calls, log-probabilities) by choice."""
    name: str
    body: dict
    key: str = None
    expected: dict = field(default_factory=dict)


def user(text):
    return [{"role": "user", "content": text}]


STORY = "Tell me a story about a lonely robot."


def questions(model, stop):
    """The set. Each has an answer that depends on nothing but itself. stop: a piece of the greedy story."""
    long = " ".join(f"The robot saw stone {i}." for i in range(80))
    story = dict(messages=user(STORY), temperature=0, max_tokens=120, ignore_eos=True, stream=True)
    keyed = dict(messages=user("Tell me a story about the sea."), temperature=1, max_tokens=120, ignore_eos=True, stream=True)
    asked = [
        Question("greedy", story),
        Question("stop string", dict(story, stop=["never said", stop])),
        Question("long prompt", dict(messages=user(f"{long} {STORY}"), temperature=0, max_tokens=60, ignore_eos=True)),
        Question("long prompt, sampled", dict(messages=user(f"{long} What is 38 + 47?"), temperature=0.8, seed=3, max_tokens=60,
                                              ignore_eos=True, stream=True)),
        Question("penalties", dict(messages=user("Write a poem about the moon."), temperature=0.9, seed=7, max_tokens=150,
                                   ignore_eos=True, presence_penalty=0.8, frequency_penalty=0.5, stream=True)),
        Question("log-probabilities", dict(messages=user("Why is it called shoal?"), temperature=1.1, seed=8, max_tokens=60,
                                           top_p=0.9, top_k=40, repetition_penalty=1.1, ignore_eos=True, logprobs=True,
                                           top_logprobs=2)),
        Question("tool", dict(messages=user("Weather in Tokyo? Use the tool."), temperature=0, max_tokens=100, tools=[TOOL])),
        Question("grammar", dict(messages=user("Name a city and its size."), temperature=1.0, seed=4, max_tokens=80,
                                 response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})),
        Question("two choices", dict(messages=user(STORY), temperature=0.7, seed=11, n=2, max_tokens=60, ignore_eos=True)),
        *(Question("key", keyed, f"soak-{i}") for i in range(KEYS)),
        *(Question("key, whole", dict(keyed, stream=False, max_tokens=60), f"soak-whole-{i}") for i in range(KEYS)),
    ]
    for one in asked:
        one.body["model"] = model
    return asked


class Refused(RuntimeError):
    """The server says that the cluster is not there."""


class Lost(RuntimeError):
    """The connection did not come about, or broke; `seen` is what was read before."""

    def __init__(self, why, seen):
        super().__init__(why)
        self.seen = seen


def ask(port, question, leave_after=None):
    """What the client gets of a request, without ids and times: {index: (text, reason, calls, log-probabilities)}.

    It leaves after so many characters of a stream. Raises Refused, Lost, and RuntimeError with what else the server says.
    """
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": question.key} if question.key else {})}
    seen = {}
    try:
        link.request("POST", "/v1/chat/completions", json.dumps(question.body), headers)
        reply = link.getresponse()
        if reply.status != 200:
            raise (Refused if reply.status == 503 else RuntimeError)(f"{reply.status}: {reply.read(400).decode(errors='replace')}")
        if question.body.get("stream"):
            return read_stream(reply, seen, leave_after)
        for choice in json.load(reply)["choices"]:
            calls = [call["function"] for call in choice["message"].get("tool_calls") or []]
            seen[choice["index"]] = (choice["message"]["content"], choice["finish_reason"], calls, choice.get("logprobs"))
        return seen
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        raise Lost(str(error) or type(error).__name__, seen) from error
    finally:
        link.close()


def read_stream(reply, seen, leave_after):
    for line in reply:
        if line.startswith(b"data: [DONE]"):
            return seen
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise (Refused if event["error"].get("code") == "cluster_unavailable" else RuntimeError)(event["error"]["message"])
        for choice in event["choices"]:
            text, reason, *_ = seen.get(choice["index"], ("", None))
            seen[choice["index"]] = (text + (choice["delta"].get("content") or ""), choice["finish_reason"] or reason, [], None)
        if leave_after is not None and sum(len(one[0]) for one in seen.values()) >= leave_after:
            return seen
    raise Lost("the stream broke off", seen)


def begins(seen, expected):
    """Whether all that was seen is the begin of what is expected."""
    return all(index in expected and expected[index][0].startswith(one[0]) for index, one in seen.items())


def undisturbed(flags, logs):
    """The set with its answers, by one process alone."""
    with LocalCluster(flags.shoal, flags.model, logs / "alone", 0, serve_args=ONE) as alone:
        text = ask(alone.port, questions(flags.model.name, "never said")[0])[0][0]
        asked = questions(flags.model.name, text[len(text) // 2:][:12])
        for one in asked:
            one.expected = ask(alone.port, one)
    return asked


class Load:
    """Clients that ask until the end, each answer compared with the undisturbed one."""

    def __init__(self, port, asked, faults, flags):
        self.port, self.asked, self.faults = port, asked, faults
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.answered, self.longest = 0, 0.0
        self.told = Counter()        # Of each kind of question, and of what else clients did.
        self.again = Counter()       # Why they asked again.
        self.changed, self.errors = [], []
        self.threads = [threading.Thread(target=self.client, args=(random.Random(f"{flags.seed} {i}"),), daemon=True)
                        for i in range(flags.clients)]

    def client(self, chance):
        while not self.over.is_set():
            question = chance.choice(self.asked)
            leaves = question.body.get("stream") and chance.random() < 0.3
            if leaves:
                self.until_answered(question, chance.randrange(1, 1 + len(question.expected[0][0])))
            if not leaves or question.key:
                self.until_answered(question, None)

    def until_answered(self, question, leave_after):
        begin = time.monotonic()
        error = None
        while error is None:
            attempt = time.monotonic()
            try:
                seen = ask(self.port, question, leave_after)
                break
            except Lost as lost:
                self.compare(question, begins(lost.seen, question.expected), lost.seen)
                if not self.faults.coordinator_was_down(attempt):
                    error = f"the connection broke while the coordinator was up: {lost}"
                self.noted("connection broke")
            except Refused as refused:
                if not self.faults.any_since(time.monotonic() - EXPLAINED_S):
                    error = f"refused, with no fault for {EXPLAINED_S:.0f} s: {refused}"
                self.noted("refused: " + re.sub(r"\d+", "N", str(refused))[:200])
            except Exception as other:  # noqa: BLE001  (whatever a client gets that it does not expect is an error of the soak)
                error = f"{type(other).__name__}: {other}"
            if error is None and time.monotonic() - begin > PATIENCE_S:
                error = f"not answered within {PATIENCE_S:.0f} s"
            time.sleep(0.1)
        with self.lock:
            self.longest = max(self.longest, time.monotonic() - begin)
            if error is not None:
                self.errors.append(f"{question.name}: {error}")
                return
            self.answered += leave_after is None
            self.told["left" if leave_after is not None else question.name] += 1
        whole = seen == question.expected
        self.compare(question, whole if leave_after is None else begins(seen, question.expected), seen)

    def noted(self, why):
        with self.lock:
            self.again[why] += 1

    def compare(self, question, same, seen):
        if not same:
            with self.lock:
                self.changed.append({"question": question.name, "key": question.key, "seen": seen, "expected": question.expected})

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE_S)


# ------------------------------------------------------------------------------------------------------------ what goes wrong

@dataclass
class Fault:
    at_s: float
    kind: str
    worker: int  # None: the coordinator.
    share: float  # Of how long it may last.


def schedule(flags, with_hole):
    """The faults of a seed. One whose worker is still at its last one, or that comes while three are, is left out."""
    chance = random.Random(flags.seed)
    faults, now = [], 0.0
    while (now := now + chance.uniform(0, 2 * flags.pace)) < flags.seconds:
        worker = chance.randrange(WORKERS)
        kinds = ["stop shortly", "stop for long", "drain"]
        if worker != NEVER_KILLED:
            kinds += ["restart", "kill for a while", "end and start again"]
        if with_hole and worker == CUT_OFF:
            kinds += 3 * ["swallow"]
        if worker == HALF_CUT_OFF:
            kinds += 3 * ["swallow one way"]
        faults.append(Fault(now, chance.choice(kinds), worker, chance.random()))
    every = flags.coordinator_every
    faults += [Fault(every * (i + 0.5), "restart coordinator", None, chance.random()) for i in range(round(flags.seconds / every))]
    return sorted(faults, key=lambda fault: fault.at_s)


class Faults:
    def __init__(self, cluster, holes, flags):
        hole, self.half_hole = holes
        self.cluster, self.hole = cluster, hole
        self.planned = schedule(flags, hole is not None)
        self.lock = threading.Lock()
        self.busy = set()
        self.told = Counter()
        self.left_out, self.refused = 0, 0
        self.happened = []          # (at, kind, worker) since the begin.
        self.last = None            # When the last one began.
        self.down = []              # [from, to] of the coordinator; to: None while it is.
        self.broken = []            # What went wrong with the soak itself.
        # The system ends a process with the thread that started it (PR_SET_PDEATHSIG): this one lives as long as we do.
        self.starter = concurrent.futures.ThreadPoolExecutor(1)
        self.starting = threading.Lock()
        self.over = threading.Event()

    def run(self, begin):
        running = []
        for fault in self.planned:
            if self.over.wait(max(0.0, begin + fault.at_s - time.monotonic())):
                break
            with self.lock:
                if fault.worker in self.busy or (fault.worker is not None and len(self.busy - {None}) >= AT_ONCE):
                    self.left_out += 1
                    continue
                self.busy.add(fault.worker)
                self.told[fault.kind] += 1
                self.last = time.monotonic()
                self.happened.append((round(self.last - begin, 1), fault.kind, fault.worker))
            running.append(threading.Thread(target=self.one, args=(fault,), daemon=True))
            running[-1].start()
        for thread in running:
            thread.join(120)

    def one(self, fault):
        try:
            if fault.worker is None:
                self.restart_coordinator(fault.share)
            else:
                getattr(self, fault.kind.replace(" ", "_"))(fault.worker, fault.share)
        except Exception as error:  # noqa: BLE001  (a thread must not end in silence)
            self.broken.append(f"{fault.kind} of {fault.worker}: {type(error).__name__}: {error}")
        finally:
            with self.lock:
                self.busy.discard(fault.worker)

    def start(self, process):
        with self.starting:
            if not self.over.is_set():
                self.starter.submit(process.start).result()

    def end(self):
        """Nothing is started from now on: who calls it is about to end all processes."""
        with self.starting:
            self.over.set()

    def any_since(self, when):
        """Whether a fault has begun since, or is still there."""
        with self.lock:
            return bool(self.busy) or (self.last is not None and self.last >= when)

    def coordinator_was_down(self, since):
        with self.lock:
            return any(to is None or to >= since for _, to in self.down)

    def restart_coordinator(self, share):
        with self.lock:
            self.down.append([time.monotonic(), None])
        self.cluster.coordinator.kill()
        time.sleep(2 * share)
        self.start(self.cluster.coordinator)
        if not wait_until(self.listens, PATIENCE_S):
            raise RuntimeError("the coordinator does not listen")
        with self.lock:
            self.down[-1][1] = time.monotonic()

    def listens(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.cluster.port), 1):
            return True
        return False

    def restart(self, worker, _):
        self.cluster.workers[worker].kill()
        self.start(self.cluster.workers[worker])

    def kill_for_a_while(self, worker, share):
        self.cluster.workers[worker].kill()
        time.sleep(1 + 14 * share)
        self.start(self.cluster.workers[worker])

    def end_and_start_again(self, worker, share):
        self.cluster.workers[worker].stop()
        time.sleep(5 * share)
        self.start(self.cluster.workers[worker])

    def stop_shortly(self, worker, share):
        self.cluster.workers[worker].pause()
        time.sleep(2 * share)
        self.cluster.workers[worker].resume()

    def stop_for_long(self, worker, share):
        self.cluster.workers[worker].pause()
        time.sleep(5 + 10 * share)
        self.cluster.workers[worker].resume()

    def swallow(self, _, share):
        self.hole.swallow()
        time.sleep(1 + 14 * share)
        self.hole.release()

    def swallow_one_way(self, _, share):
        self.half_hole.swallow()
        time.sleep(1 + 14 * share)
        self.half_hole.release()

    def drain(self, worker, share):
        self.order("drain", worker)
        time.sleep(10 * share)
        self.order("undrain", worker)

    def order(self, what, worker):
        """Refused where the others can't do without it, or nobody is there to ask, which is an answer as good as any."""
        body = json.dumps({"node": self.cluster.workers[worker].name}).encode()
        request = urllib.request.Request(f"{self.cluster.url}/cluster/{what}", body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except (OSError, http.client.HTTPException):
            self.refused += 1


# ------------------------------------------------------------------------------------------------------------ what is held

def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


class Sizes:
    """Resident MiB and descriptors of every process over time."""

    def __init__(self, cluster, begin):
        self.cluster, self.begin = cluster, begin
        self.samples = []  # {"at_s", "nodes", and by process [pid, MiB, descriptors]}.

    def take(self):
        sample = {"at_s": round(time.monotonic() - self.begin, 1), "nodes": self.nodes()}
        for process in self.cluster.processes:
            with suppress(OSError, ClusterError):  # It may be killed meanwhile.
                if process.alive:
                    sample[process.name] = [process.pid, round(process.rss_bytes() / 2**20, 1), descriptors(process)]
        self.samples.append(sample)
        return sample

    def nodes(self):
        """How many nodes do something; None where nobody says."""
        with suppress(OSError, ClusterError, http.client.HTTPException, ValueError):
            return sum(node.get("layers") is not None or bool(node.get("experts")) for node in self.cluster.status()["nodes"])
        return None

    def lives(self, name):
        """[(pid, samples of it)] of a process, in the order of its starts."""
        lives = {}
        for sample in self.samples:
            if name in sample:
                lives.setdefault(sample[name][0], []).append((sample["at_s"], *sample[name][1:]))
        return list(lives.values())


def grown(life):
    """(MiB, descriptors) at the second and at the last quarter of a life, medians; None for one of less than ten minutes."""
    length = life[-1][0] - life[0][0]
    if length < 600:
        return None
    def quarter(i):
        part = [one for one in life if i * length / 4 <= one[0] - life[0][0] <= (i + 1) * length / 4]
        return [statistics.median(one[k] for one in part) for k in (1, 2)]
    return quarter(1), quarter(3)


def growth_problems(sizes, names):
    """Flat: in a process that lives for ten minutes or more, the last quarter is at most a tenth and 16 MiB above the second."""
    for name in names:
        for life in sizes.lives(name):
            found = grown(life)
            if found and found[1][0] > 1.1 * found[0][0] + 16:
                yield f"{name} grew from {found[0][0]:.0f} to {found[1][0]:.0f} MiB within {life[-1][0] - life[0][0]:.0f} s"
            if found and found[1][1] > found[0][1] + DESCRIPTORS_SLACK:
                yield f"{name} went from {found[0][1]:.0f} to {found[1][1]:.0f} descriptors"


# ------------------------------------------------------------------------------------------------------------ the soak

def make_cluster(flags, logs, hole):
    """A cluster whose last worker joins, the one before it is behind the hole, if there is one, and that before it behind the
    HalfHole that is returned, too."""
    insecure = ("--insecure",) if hole else ()
    host = hole.here if hole else "127.0.0.1"
    join = f"{host}:{free_ports(1, host)[0]}"
    serve = (*SERVE, "--join-listen", join, "--answers-dir", logs / "answers", *insecure)
    cluster = LocalCluster(flags.shoal, flags.model, logs, WORKERS - 1, serve_args=serve, worker_args=(*ONE, *insecure),
                           **(hole.around_last(WORKERS - 1) if hole else {}))
    name = f"worker-{WORKERS}"
    cluster.workers.append(Process(name, [flags.shoal, "worker", "--listen", f"{host}:0", "--name", name, "--join", join,
                                          "--model-root", flags.model.resolve().parent, *ONE, *insecure], logs / f"{name}.log"))
    half_hole = HalfHole(host, cluster.addresses[HALF_CUT_OFF])
    cluster.coordinator.argv = [word.replace(cluster.addresses[HALF_CUT_OFF], half_hole.address) for word in cluster.coordinator.argv]
    return cluster, half_hole


def held_at_the_end(cluster, before):
    """What is left once nothing is asked any more: (blocks, lines that say what is wrong)."""
    problems = []
    if not wait_until(cluster.healthy, SETTLED_S):
        reason = get_text(cluster.url + "/health")[1] if cluster.coordinator.alive else "its process has ended"
        return None, [f"it does not serve {SETTLED_S:.0f} s after the last fault: {reason[:300]}"]

    def blocks():
        stats = cluster.cache_stats()
        leaked = stats["blocks"]["total"] - stats["blocks"]["free"] - stats["blocks"]["cached"]
        return leaked, stats["requests"]["running"] + stats["requests"]["waiting"]

    if not wait_until(lambda: blocks() == (0, 0), SETTLED_S, 0.5):
        problems.append("{} blocks leaked, {} requests left".format(*blocks()))
    for process in cluster.processes:
        if not process.alive:
            problems.append(f"{process.name} ended with code {process.popen.returncode}:\n{process.log_tail()}")
        elif not wait_until(lambda: descriptors(process) <= before[process.name] + DESCRIPTORS_SLACK, SETTLED_S, 0.5):  # noqa: B023
            problems.append(f"{process.name} holds {descriptors(process)} descriptors, {before[process.name]} at the begin")
    return blocks()[0], problems


def checks_failed(cluster):
    """Lines of logs that say that a process found itself in the wrong."""
    for process in cluster.processes:
        for line in process.log().splitlines():
            if re.search(r"CHECK failed|Check failed|Sanitizer|terminate called|SIGSEGV|SIGABRT", line):
                yield f"{process.name}: {line[:300]}"


def row(sample, load, faults):
    def of(name):
        return "{1} | {2}".format(*sample[name]) if name in sample else "- | -"
    others = [sample[f"worker-{i + 1}"] for i in range(WORKERS) if i != NEVER_KILLED and f"worker-{i + 1}" in sample]
    most = " | ".join(str(max((one[k] for one in others), default="-")) for k in (1, 2))
    nodes = "-" if sample["nodes"] is None else sample["nodes"]
    return (f"| {sample['at_s']:.0f} | {load.answered} | {sum(faults.told.values())} | {nodes} | {of('coordinator')} | "
            f"{of(f'worker-{NEVER_KILLED + 1}')} | {most} |")


def soak(flags, logs, hole=None, out=None):
    """Runs it, with a table to `out` (None: where print() does). Returns what `--json` writes; its "problems" are what should not be."""
    logs.mkdir(parents=True, exist_ok=True)
    began_at = commit()  # The checkout may be another when it ends.
    print(f"seed {flags.seed}, {flags.seconds:.0f} s, {flags.clients} clients, commit {began_at}", file=out, flush=True)
    asked = undisturbed(flags, logs)
    cluster, half_hole = make_cluster(flags, logs, hole)
    with contextlib.closing(half_hole), cluster, contextlib.ExitStack() as running:
        if not wait_until(lambda: any(node["name"] == f"worker-{WORKERS}" for node in cluster.status()["nodes"]), 60):
            raise ClusterError(f"worker-{WORKERS} has not joined:\n{cluster.workers[JOINS].log_tail()}")
        faults = Faults(cluster, (hole, half_hole), flags)
        load = Load(cluster.port, asked, faults, flags)
        # Also where the soak itself fails: threads would start again what is being ended.
        running.callback(load.over.set)
        running.callback(faults.end)
        for question in asked:  # Undisturbed here, too, and all that is allocated once is.
            load.until_answered(question, None)
        before = {process.name: descriptors(process) for process in cluster.processes}
        sizes = Sizes(cluster, time.monotonic())
        load.start()
        thread = threading.Thread(target=faults.run, args=(sizes.begin,), daemon=True)
        thread.start()
        print("| s | answers | faults | nodes at work | coordinator, MiB | its descriptors | worker 1, MiB | its descriptors | "
              "largest other, MiB | most descriptors |\n|" + 10 * " ---: |", file=out)
        while thread.is_alive():
            thread.join(flags.every)
            print(row(sizes.take(), load, faults), file=out, flush=True)
        load.stop()
        leaked, problems = held_at_the_end(cluster, before)
        problems += [*checks_failed(cluster), *growth_problems(sizes, [process.name for process in cluster.processes])]
        problems += [f"the soak itself: {line}" for line in faults.broken]
        problems += [f"changed: {json.dumps(one)[:600]}" for one in load.changed[:5]]
        problems += [f"error: {line[:600]}" for line in load.errors[:20]]
        sessions = cluster.status()["generation"] if cluster.healthy() else None
    return {"machine": machine(), "commit": began_at, "model": flags.model.name, "seed": flags.seed, "seconds": flags.seconds,
            "clients": flags.clients, "pace_s": flags.pace, "answers": load.answered, "of_each": dict(load.told),
            "longest_s": round(load.longest, 1), "changed": len(load.changed), "errors": len(load.errors),
            "asked_again": dict(load.again), "faults": dict(faults.told), "faults_left_out": faults.left_out,
            "orders_refused": faults.refused, "blocks_leaked": leaked, "sessions_of_last_coordinator": sessions,
            "problems": problems, "happened": faults.happened, "sizes": sizes.samples,
            "lives": {process.name: [[*life[0], *life[-1]] for life in sizes.lives(process.name)] for process in cluster.processes}}


def print_summary(report, out=None):
    again = sum(report["asked_again"].values())
    print(f"\n{report['answers']} answers, {report['changed']} changed, {report['errors']} errors, {report['blocks_leaked']} blocks "
          f"leaked; {report['of_each'].get('left', 0)} were left in the middle; {again} asked again; the longest took "
          f"{report['longest_s']} s", file=out)
    print(f"{sum(report['faults'].values())} faults: " + ", ".join(f"{count} {name}" for name, count in sorted(report["faults"].items())) +
          f"; {report['orders_refused']} orders refused", file=out)
    for name, count in sorted(report["asked_again"].items(), key=lambda one: -one[1]):
        print(f"  {count} asked again: {name}", file=out)
    print("\n| process | lived, s | MiB at its begin | at its end | descriptors at its begin | at its end |", file=out)
    print("| --- | ---: | ---: | ---: | ---: | ---: |", file=out)
    for name, lives in report["lives"].items():
        for from_s, rss, count, to_s, last_rss, last_count in lives:
            if to_s - from_s >= min(300, report["seconds"] / 4):
                print(f"| {name} | {to_s - from_s:.0f} | {rss} | {last_rss} | {count} | {last_count} |", file=out)
    for line in report["problems"]:
        print(f"  {line}", file=sys.stderr)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", default=ROOT / "build" / "release" / "bin" / "shoal", type=Path)
    parser.add_argument("--model", default=ROOT / "models" / "shoal-demo-4bit", type=Path)
    parser.add_argument("--seconds", default=180.0, type=float)
    parser.add_argument("--clients", default=6, type=int)
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--pace", default=3.0, type=float, help="seconds between two faults of workers, in the mean")
    parser.add_argument("--coordinator-every", type=float,
                        help="seconds between two restarts of the coordinator (default: a third of the time, at most 900)")
    parser.add_argument("--every", type=float, help="seconds between two lines of the table (default: a sixtieth of the time, at least 5)")
    parser.add_argument("--json", type=Path, help="write all of it to this file")
    parser.add_argument("--logs", type=Path, help="keep the logs of all processes in this folder")
    flags = parser.parse_args(arguments)
    flags.coordinator_every = flags.coordinator_every or min(900.0, flags.seconds / 3)
    flags.every = flags.every or max(5.0, flags.seconds / 60)
    return flags


def main():
    flags = parse()
    print(f"{flags.model.name}; {machine()}, a thread a process")
    logs = flags.logs or Path(tempfile.mkdtemp())
    with contextlib.ExitStack() as stack:
        hole = None
        if os.geteuid() == 0:
            hole = BlackHole(10 + os.getpid() % 40).open()
            stack.callback(hole.close)
        report = soak(flags, logs, hole)
    print_summary(report)
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps(report, indent=1) + "\n")
    if report["problems"] or flags.logs:
        print(f"logs: {logs}", file=sys.stderr)
    else:
        shutil.rmtree(logs)
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
