#!/usr/bin/env python3
"""What others notice of a flood: seconds of a short answer while nothing else happens, and under each flood, in turns.

Floods come from this machine, at a pace, in a process of their own: clients that send a byte a second each (slowloris), idle
connections, bodies of 100 MB, requests whose clients leave at once, and bodies that decompress to 1 GiB. The server computes on
one thread; so the rest of the machine is the floods'. They take CPU from it all the same, where it has few.

    bench/floods.py [--rounds 3] [--answers 30]
"""
import argparse
import contextlib
import gzip
import json
import multiprocessing
import resource
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from report import ROOT, commit, machine, spread

sys.path.insert(0, str(ROOT / "tools/demo"))
from local_cluster import LocalCluster  # noqa: E402

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = {"messages": [{"role": "user", "content": "Tell me a story"}], "temperature": 0, "max_tokens": 16, "ignore_eos": True}


def dial(port):
    return socket.create_connection(("127.0.0.1", port), 20)


def slowloris(port):
    crowd = [dial(port) for _ in range(1000)]
    while True:
        for i, one in enumerate(crowd):
            try:
                one.sendall(b"P")
            except OSError:  # The server gave it up.
                one.close()
                crowd[i] = dial(port)
            time.sleep(0.001)


def idle(port):
    crowd = [dial(port) for _ in range(10000)]
    while crowd:
        time.sleep(1)


def large_bodies(port):
    piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    while True:
        with contextlib.suppress(OSError), dial(port) as one:
            one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(100):
                one.sendall(piece)
        time.sleep(0.2)


def cancels(port):
    body = json.dumps({**BODY, "stream": True, "max_tokens": 400}).encode()
    request = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    while True:
        with contextlib.suppress(OSError), dial(port) as one:
            one.sendall(request)
        time.sleep(0.05)


def bombs(port):
    packed = gzip.compress(bytes(1 << 30), 9)
    request = HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode() + packed
    while True:
        with contextlib.suppress(OSError), dial(port) as one:
            one.sendall(request)
            one.recv(100)
        time.sleep(0.1)


FLOODS = {"1000 clients of a byte a second": slowloris, "10,000 idle connections": idle, "bodies of 100 MB": large_bodies,
          "20 requests a second that are left": cancels, "10 bodies a second that decompress to 1 GiB": bombs}


def seconds_of(url, answers):
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(BODY).encode(), {"Content-Type": "application/json"})
    taken = []
    for _ in range(answers):
        begin = time.monotonic()
        with urllib.request.urlopen(request, timeout=60) as reply:
            reply.read()
        taken.append(time.monotonic() - begin)
    return statistics.median(taken), statistics.quantiles(taken, n=10)[-1]


@contextlib.contextmanager
def flooded(flood, port):
    process = multiprocessing.Process(target=flood, args=(port,), daemon=True)
    process.start()
    time.sleep(3)
    try:
        yield
    finally:
        process.kill()
        process.join()
        time.sleep(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", type=Path, default=ROOT / "build/release/bin/shoal")
    parser.add_argument("--model", type=Path, default=ROOT / "models/shoal-demo-4bit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=30)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = {name: [] for name in FLOODS}
    most = {}
    with tempfile.TemporaryDirectory() as folder, LocalCluster(
            options.shoal, options.model, Path(folder), 0, serve_args=("--threads", "1", "--speculate", "off")) as cluster:
        seconds_of(cluster.url, options.answers)  # Warms up.
        for _ in range(options.rounds):
            for name, flood in FLOODS.items():
                quiet = seconds_of(cluster.url, options.answers)
                with flooded(flood, cluster.port):
                    rows[name].append((quiet, seconds_of(cluster.url, options.answers)))
                    most[name] = max(most.get(name, 0), cluster.coordinator.rss_bytes() >> 20)
    print(f"{machine()}; commit {commit()}; {options.rounds} rounds of {options.answers} answers of 16 tokens, "
          "median (minimum-maximum) of the rounds\n")
    print("| flood | quiet, ms | flooded, ms | ratio | ratio of p90 | RSS, MiB |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, rounds in rows.items():
        quiet, under = ([1e3 * one[i][0] for one in rounds] for i in (0, 1))
        ratio = statistics.median(one[1][0] / one[0][0] for one in rounds)
        tail = statistics.median(one[1][1] / one[0][1] for one in rounds)
        print(f"| {name} | {spread(quiet)} | {spread(under)} | {ratio:.2f} | {tail:.2f} | {most[name]} |")


if __name__ == "__main__":
    main()
