#!/usr/bin/env python3
"""Holds a binary for another CPU against this machine's: the same bits alone, and side by side in one cluster.

    check_mixed.py --shoal SHOAL --other OTHER --emulator "qemu-aarch64 -L ROOT" [--seconds N] [--only models|cluster]

models   One golden model of every family (tests/goldens/models, and ../shared/goldens where it is): both binaries write the logits of
         the golden's prompt, the experts chosen and a greedy continuation; the files must be equal byte by byte. Those of this
         machine are held against the golden by the unit tests. No new model is begun after N seconds (default 900), which is said.
cluster  A coordinator of one kind and a worker of the other, layers and experts spread over both, in both ways: greedy and sampled
         answers are those of this machine alone; so are they when the worker is killed in the middle of one and comes back.

Uses only the standard library. `./dev check arm` runs it.
"""
import argparse
import concurrent.futures
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/demo"))
from demo import stream_answer  # noqa: E402
from local_cluster import ClusterError, LocalCluster, wait_until  # noqa: E402

GREEDY = 8
DEMO_MODEL = ROOT / "models/shoal-demo-4bit"
# The two end-of-text ids of the demo model: a request that forbids them runs up to its limit.
NEVER_END = {"4087": -100, "4089": -100}
QUESTIONS = [
    {"text": "What is the capital of France?", "temperature": 0, "max_tokens": 48},
    {"text": "Tell me a story about a fox.", "temperature": 1.3, "seed": 11, "max_tokens": 48, "logit_bias": NEVER_END},
]
LONG = {"text": "Tell me a story about a boat.", "temperature": 0.9, "seed": 7, "max_tokens": 120, "logit_bias": NEVER_END}


class Failure(Exception):
    pass


class NotBuilt(Failure):
    """A golden of a family that is still to come."""


# ---------------------------------------------------------------------------------------------------------- models


def golden_models():
    """The first unquantized case of every family that has one, in the order of the families."""
    families = {}
    for folder in (ROOT / "tests/goldens/models", ROOT.parent / "shared/goldens/models"):
        for expect in sorted(folder.glob("*/*/expect.safetensors")):
            if list(expect.parent.glob("model*.safetensors")):
                families.setdefault(expect.parent.parent.name, expect.parent)
    return sorted(families.items())


def prompt_of(golden):
    """Ids of the tensor `prompt`, of 32-bit integers."""
    data = (golden / "expect.safetensors").read_bytes()
    header_bytes = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:8 + header_bytes])["prompt"]["data_offsets"]
    return list(struct.unpack(f"<{(end - begin) // 4}i", data[8 + header_bytes + begin:8 + header_bytes + end]))


def logits(command, model, ids, out):
    words = [*command, "logits", "--model", model, "--ids", ids, "--out", out]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        kind = NotBuilt if "is not built; known:" in done.stderr else Failure
        raise kind(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return Path(out).read_bytes()


def check_models(this, other, seconds, folder):
    models = golden_models()
    if not models:
        raise Failure("there is no golden model in tests/goldens/models")
    end = time.monotonic() + seconds
    different, left_out, done = [], [], 0
    for family, golden in models:
        if time.monotonic() > end:
            left_out.append(family)
            continue
        ids = folder / "ids.json"
        ids.write_text(json.dumps({"ids": prompt_of(golden), "greedy": GREEDY}), encoding="utf-8")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            both = [pool.submit(logits, command, golden, ids, folder / f"{kind}.safetensors")
                    for kind, command in (("this", this), ("other", other))]
            try:
                if both[0].result() != both[1].result():
                    different.append(f"{family}/{golden.name}")
            except NotBuilt:
                continue
            done += 1
    print(f"models: {done} families, equal byte by byte but for {len(different)}")
    if left_out:
        print(f"models: {seconds} s were over before {', '.join(left_out)}")
    if different:
        raise Failure(f"other bits of the two CPUs: {', '.join(different)}")
    if len(left_out) >= done:
        raise Failure("more than half of the families were left out: give it more time")


# --------------------------------------------------------------------------------------------------------- cluster


def ask(cluster, question, begun=None, timeout_s=300):
    """The text of a streamed answer. begun: an event, set after its tenth piece."""
    options = {key: value for key, value in question.items() if key != "text"}
    pieces = []
    for text, usage in stream_answer(cluster.url, DEMO_MODEL.name, question["text"], timeout_s, **options):
        if usage is None:
            pieces.append(text)
        if begun is not None and len(pieces) == 10:
            begun.set()
    return "".join(pieces)


def mixed(coordinator, worker, log_dir):
    """Two processes, each a command, that share the layers and experts of the demo model."""
    cluster = LocalCluster("shoal", DEMO_MODEL, log_dir, workers=1,
                           serve_args=("--split", "3,3", "--experts", "round_robin:2", "--threads", "1"),
                           worker_args=("--threads", "1"))
    for process, command in ((cluster.coordinator, coordinator), (cluster.workers[0], worker)):
        process.argv = [*map(str, command), *process.argv[1:]]
    return cluster


def expect(what, got, wanted):
    if got != wanted:
        raise Failure(f"{what}: expected\n  {wanted!r}\ngot\n  {got!r}")
    print(f"cluster: {what}: the same {len(wanted)} characters")


def check_loss(cluster, wanted):
    """The worker is killed in the middle of an answer and comes back, which the client sees as a pause."""
    worker = cluster.workers[0]
    begun = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, cluster, LONG, begun)
        if not begun.wait(120):
            raise Failure(f"the answer did not begin within 120 s:\n{worker.log_tail()}")
        worker.kill()
        if not wait_until(lambda: not cluster.healthy(), 30):
            raise Failure("nobody noticed within 30 s that the worker was killed")
        if answer.done():
            raise Failure("the answer had ended before the worker was killed: nothing was tried")
        worker.start()
        expect("an answer in the middle of which the worker was killed", answer.result(timeout=300), wanted)
    cluster.wait_ready(120)


def check_cluster(this, other, folder):
    with LocalCluster(this[0], DEMO_MODEL, folder / "alone", serve_args=("--threads", "1")) as alone:
        wanted = [ask(alone, question) for question in QUESTIONS]
        wanted_long = ask(alone, LONG)
    for name, coordinator, worker in (("the worker is the other CPU", this, other), ("the coordinator is", other, this)):
        cluster = mixed(coordinator, worker, folder / name.replace(" ", "-"))
        try:
            cluster.start(timeout_s=180)
            kernels = re.search(r"worker listens on \S+, \d+ threads, ([\w-]+),", cluster.workers[0].log())
            for question, text in zip(QUESTIONS, wanted):
                expect(f"{name}, temperature {question['temperature']}", ask(cluster, question), text)
            calls = cluster.node("worker-1").get("expert_calls_served", 0)
            print(f"cluster: {name}: the worker has {kernels[1] if kernels else '?'} kernels, and served {calls} expert calls")
            if not calls:
                raise Failure("the worker served no expert call: nothing was spread")
            if coordinator is this:
                check_loss(cluster, wanted_long)
                expect("and afterwards", ask(cluster, QUESTIONS[1]), wanted[1])
        except Exception:
            print("\n".join(process.log_tail() for process in cluster.processes), file=sys.stderr)
            raise
        finally:
            cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--emulator", default="")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--only", choices=("models", "cluster"))
    arguments = parser.parse_args()
    os.environ.setdefault("SHOAL_PACKED_CACHE", "off")
    os.environ.setdefault("SHOAL_PROFILE", "off")
    this = [arguments.shoal.resolve()]
    other = [*arguments.emulator.split(), arguments.other.resolve()]
    with tempfile.TemporaryDirectory(prefix="shoal-mixed-") as folder:
        try:
            if arguments.only != "cluster":
                check_models(this, other, arguments.seconds, Path(folder))
            if arguments.only != "models":
                check_cluster(this, other, Path(folder))
        except (ClusterError, Failure) as failure:
            sys.exit(f"check_mixed: {failure}")


if __name__ == "__main__":
    main()
