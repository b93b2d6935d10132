#!/usr/bin/env python3
"""Runs a model on three processes: its layers and experts are spread over a coordinator and two workers.

Asks three questions over HTTP, like any OpenAI client. Uses only the standard library: it runs on a fresh machine.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

from local_cluster import ClusterError, LocalCluster, get_text

QUESTIONS = [
    "What is the capital of Portugal?",
    "Will the answer change if I use more machines?",
    "Tell me a story about a lonely robot.",
]
# Two layers on each of the three processes, and the 16 experts of every layer spread over all of them.
PLACEMENT = ["--split", "2,2,2", "--experts", "round_robin:3"]

PLAIN = not sys.stdout.isatty() or "CI" in os.environ or "NO_COLOR" in os.environ
WIDTH = min(100, shutil.get_terminal_size().columns)


def styled(code, text):
    return text if PLAIN else f"\x1b[{code}m{text}\x1b[0m"


def bold(text):
    return styled("1", text)


def dim(text):
    return styled("2", text)


def green(text):
    return styled("32", text)


def stream_answer(url, model, question, timeout_s=60.0, **options):
    """Yields (text, usage) as they arrive: pieces of the answer with usage None, then "" with the usage. options: further fields of
    the request, or others than these."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 300,
            "stream": True, "stream_options": {"include_usage": True}, **options}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            for line in response:
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[len(b"data: "):])
                if "error" in event:
                    raise ClusterError(f"the stream ended: {event['error']['message']}")
                for choice in event["choices"]:
                    yield choice["delta"].get("content") or "", None
                if event.get("usage"):
                    yield "", event["usage"]
    except urllib.error.HTTPError as error:
        raise ClusterError(f"expected an answer, got {error.code}: {error.read().decode()[:500]}") from error


class Wrapped:
    """Prints text that arrives in pieces, wrapped and indented. Prints a word as soon as it is complete."""

    def __init__(self, indent):
        self.indent, self.column = indent, len(indent)
        self.gap, self.word = "", ""

    def put(self, text):
        for letter in text:
            if letter in " \n":
                self.flush()
                self.gap = self.gap.strip(" ") + "\n" if letter == "\n" else self.gap or " "
            else:
                self.word += letter
        sys.stdout.flush()

    def flush(self):
        if not self.word:
            return
        if self.gap == " " and self.column + 1 + len(self.word) > WIDTH:
            self.gap = "\n"
        if "\n" in self.gap:
            self.gap += self.indent
            self.column = len(self.indent)
        else:
            self.column += len(self.gap)
        sys.stdout.write(self.gap + self.word)
        self.column += len(self.word)
        self.gap = self.word = ""


def ask(url, model, question):
    print(f"\n{bold('you  ')}{question}\n{green('shoal')} ", end="")
    started = time.monotonic()
    first = None
    printer = Wrapped(" " * 6)
    usage = {}
    for text, told in stream_answer(url, model, question):
        first = first or time.monotonic()
        printer.put(text)
        usage = told or usage
    printer.flush()
    ended = time.monotonic()
    # Over the whole request, including the prompt: the rate that a waiting person sees.
    print("\n" + dim(f"      {usage['completion_tokens']} tokens in {ended - started:.2f} s, "
                     f"{usage['completion_tokens'] / (ended - started):.0f} tokens/s, "
                     f"the first after {1000 * (first - started):.0f} ms"))


def table(rows):
    """Prints rows as a table; the first row is the header."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        line = "  " + "   ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip()
        print(dim(line) if number == 0 else line)


def mib(count):
    return f"{count / 2**20:.1f} MiB"


def who_computed(cluster):
    """One row per node, from /cluster/status and /metrics of the coordinator."""
    metrics = cluster.metrics()

    def mean_ms(name, node):
        labels = f'{{node="{node}"}}'
        count = metrics.get(f"{name}_count{labels}", 0)
        return f"{1000 * metrics[f'{name}_sum{labels}'] / count:.2f} ms" if count else "-"

    rows = [("node", "layers", "experts", "weights", "resident", "steps", "busy per step", "waits for experts",
             "expert calls served")]
    nodes = cluster.status()["nodes"]
    experts = sum(node["experts"] for node in nodes)  # of all layers; there are no replicas here
    for node in nodes:
        name, layers = node["name"], node["layers"]
        rows.append((name, f"{layers[0]} to {layers[1] - 1}" if layers else "none", f"{node['experts']} of {experts}",
                     mib(node["weight_bytes"]), mib(node["resident_bytes"]), node.get("steps", "-"),
                     mean_ms("shoal_stage_busy_seconds", name), mean_ms("shoal_stage_expert_wait_seconds", name),
                     node.get("expert_calls_served", "-")))
    return rows


def run(options, cluster):
    print(f"{bold('shoal demo')}  {options.model.name} on three processes, with logs in {cluster.log_dir}")
    cluster.start()
    model = json.loads(get_text(cluster.url + "/v1/models")[1])["data"][0]["id"]
    for question in QUESTIONS:
        ask(cluster.url, model, question)
    print(f"\n{bold('who computed what')}")
    table(who_computed(cluster))
    if options.keep:
        keep(cluster, model)


def keep(cluster, model):
    print(f"\n{bold('still running')} at {cluster.url}; Ctrl-C ends it. Ask from another terminal:\n")
    print(textwrap.indent(textwrap.dedent(f"""\
        curl {cluster.url}/v1/chat/completions -H 'Content-Type: application/json' \\
          -d '{{"messages": [{{"role": "user", "content": "Hello!"}}]}}'

        # pip install openai
        from openai import OpenAI
        client = OpenAI(base_url="{cluster.url}/v1", api_key="unused")
        answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello!"}}])
        print(answer.choices[0].message.content)
        """), "  "))
    sys.stdout.flush()
    while cluster.coordinator.alive:
        time.sleep(0.2)
    raise ClusterError(f"the coordinator ended with code {cluster.coordinator.popen.returncode}:\n"
                       f"{cluster.coordinator.log_tail()}")


def parse(arguments):
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", type=Path, required=True, help="the binary")
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--keep", action="store_true", help="stay up after the questions")
    parser.add_argument("--port", type=int, help="the coordinator's HTTP port (default: a free one; 8000 with --keep)")
    return parser.parse_args(arguments)


def interrupt(*_):
    raise KeyboardInterrupt


def main(arguments):
    options = parse(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    log_dir = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    cluster = LocalCluster(options.shoal, options.model, log_dir, workers=2, serve_args=PLACEMENT,
                           port=options.port or (8000 if options.keep else None))
    try:
        run(options, cluster)
        return 0
    except KeyboardInterrupt:
        print("\nending")
        return 0 if options.keep else 130
    except (ClusterError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        for process in cluster.processes:
            if process.popen is not None and not process.alive and process.log_tail() not in str(error):
                print(f"demo: {process.name} has ended (code {process.popen.returncode}):\n{process.log_tail()}",
                      file=sys.stderr)
        return 1
    finally:
        codes = cluster.stop()
        bad = {name: code for name, code in codes.items() if code not in (0, None)}
        if bad:
            print(f"demo: ended with codes {bad}; logs in {log_dir}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
