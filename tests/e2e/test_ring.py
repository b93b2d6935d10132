"""shoal ring: the same command everywhere, with RANK, WORLD_SIZE and MASTER_ADDR."""
import json
import os
import subprocess
import urllib.request

import pytest

from local_cluster import Process, free_ports, get_json, get_text, wait_until

QUESTION = "What is the capital of Portugal?"


class Ring:
    """Processes by rank, started with the same words in folders with the same .env; only RANK differs."""

    def __init__(self, shoal, model, folder, size):
        self.shoal, self.folder = shoal, folder
        self.port, master = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {**os.environ, "RANK": "", "WORLD_SIZE": ""}
        (folder / ".env").write_text(f"# A ring\nWORLD_SIZE={size}\nexport MASTER_ADDR='127.0.0.1'\n"
                                     f"MASTER_PORT={master}  # of rank 0\nAPI_PORT={self.port}\n")
        self.words = ["ring", "--model", str(model), "--", "--threads", "1"]
        self.processes = []

    def start(self, rank):
        argv = ["env", f"--chdir={self.folder}", f"RANK={rank}", self.shoal, *self.words]
        number = len(self.processes)
        self.processes.append(Process(f"rank {rank}", argv, self.folder / f"log-{number}").start())
        return self.processes[-1]

    def run(self, **variables):
        return subprocess.run([self.shoal, *self.words], cwd=self.folder, env={**self.env, **variables}, timeout=60,
                              capture_output=True, text=True, check=False)

    def health(self):
        try:
            status, body = get_text(self.url + "/health", 2)
        except OSError:
            return 0, ""
        return status, json.loads(body).get("reason", "")

    def nodes(self):
        return [(node["name"], node["state"]) for node in get_json(self.url + "/cluster/status")["nodes"]]

    def ask(self):
        body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 40}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["choices"][0]["message"]["content"]


@pytest.fixture
def ring(shoal, demo_model, tmp_path):
    made = Ring(shoal, demo_model, tmp_path, 3)
    yield made
    for process in made.processes:
        process.stop(5)


def test_ranks_come_in_any_order_and_one_that_restarts_is_taken_back(ring):
    ring.start(2)
    ring.start(0)
    assert wait_until(lambda: "rank 1" in ring.health()[1] and "2" not in ring.health()[1].split("of")[0], 30), ring.health()
    first = ring.start(1)
    assert wait_until(lambda: ring.health()[0] == 200, 60), ring.health()
    assert ring.nodes() == [("coordinator", "up"), ("rank-1", "up"), ("rank-2", "up")]
    answer = ring.ask()
    assert "Lisbon" in answer

    second = ring.start(1)
    assert wait_until(lambda: "rank-1" in second.log() and "already" in second.log(), 30), second.log()
    second.stop()
    assert ring.health()[0] == 200

    first.kill()
    assert wait_until(lambda: ring.health()[0] != 200, 30)
    ring.start(1)  # At another port: the system picks one.
    assert wait_until(lambda: ring.health()[0] == 200, 60), ring.health()
    assert ring.nodes() == [("coordinator", "up"), ("rank-1", "up"), ("rank-2", "up")]
    assert ring.ask() == answer


@pytest.mark.parametrize(("variables", "words"), [
    ({"RANK": "3"}, ["RANK='3'", "WORLD_SIZE=3"]), ({"RANK": "one"}, ["RANK='one'", "whole number"]),
    ({}, ["RANK is not set"]), ({"RANK": "1", "WORLD_SIZE": "x"}, ["WORLD_SIZE='x', from the environment"]),
    ({"RANK": "1", "MASTER_ADDR": "mini1.local"}, ["MASTER_ADDR='mini1.local'", "--key-file"])])
def test_bad_values_are_refused_before_anything_starts(ring, variables, words):
    done = ring.run(**variables)
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr


def test_a_line_of_the_env_file_that_is_none_is_named(ring):
    with (ring.folder / ".env").open("a") as file:
        file.write("nonsense\n")
    done = ring.run(RANK="0")
    assert done.returncode == 2 and ".env: line 6" in done.stderr, done.stderr
