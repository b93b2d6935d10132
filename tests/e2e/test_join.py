"""Workers that join a running coordinator, and leave it: the same text throughout."""
import concurrent.futures
import json
import signal
import subprocess
import threading

import pytest

from dialogue import QUESTIONS, ask, client_of
from local_cluster import Process, free_ports, get_text, wait_until
from test_replan import no_blocks_are_lost, parts
from test_resume import REQUESTS as LONG_REQUESTS, Stream, all_answers
from test_start import reason

REQUESTS = [dict(request, max_tokens=150) for request in LONG_REQUESTS]
ONE = ("--threads", "1")
SPREAD = ("--strategy", "uniform", "--experts", "round_robin", "--rejoin-wait", "0", *ONE)


class Home:
    """A coordinator at which workers join, and those workers."""

    def __init__(self, make_cluster, shoal, model, logs, serve_args=SPREAD, **options):
        self.shoal, self.model, self.logs = shoal, model, logs
        self.join_port, = free_ports(1)
        self.cluster = make_cluster(0, start=False, serve_args=(
            "--join-listen", f"127.0.0.1:{self.join_port}", *serve_args), **options)
        self.workers = []

    def worker(self, name, *more, port=0, join=None, prefix=()):
        argv = [self.shoal, "worker", "--listen", f"127.0.0.1:{port}", "--name", name, "--model-root",
                self.model.parent, "--join", join or f"127.0.0.1:{self.join_port}", *ONE, *more]
        process = Process(name, argv, self.logs / f"{name}-{len(self.workers)}.log", prefix)
        self.workers.append(process)
        return process.start()

    def names(self):
        return set(parts(self.cluster))

    def serves_with(self, *names, timeout_s=40):
        def now():
            return self.cluster.healthy() and self.names() == {"coordinator", *names}
        return wait_until(now, timeout_s)


@pytest.fixture
def home(make_cluster, shoal, demo_model, tmp_path):
    homes = []

    def make(**options):
        homes.append(Home(make_cluster, shoal, demo_model, tmp_path, **options))
        return homes[-1]

    yield make
    for one in homes:
        for worker in one.workers:
            worker.stop()


def test_a_token_brings_a_worker_its_certificate_which_is_renewed_while_it_serves(home, succeed, tmp_path):
    certs, shared, own = tmp_path / "certs", tmp_path / "shared", tmp_path / "own"
    succeed("cert", "init", certs)
    key_file(shared, "a key of more than sixteen bytes")
    here = home(serve_args=(*SPREAD, "--key-file", shared, "--tls-dir", certs))
    here.cluster.start()
    token = succeed("token", "create", "--key-file", shared, "--tls-dir", certs, "--address", f"127.0.0.1:{here.join_port}").strip()
    (tmp_path / "token").write_text(token)
    join = f"@{tmp_path / 'token'}"
    worker = here.worker("w1", "--tls-dir", own, join=join)
    assert here.serves_with("w1"), worker.log_tail()
    answer = ask(client_of(here.cluster), QUESTIONS[0])
    first = (own / "cert.pem").read_text()
    assert {path.name: path.stat().st_mode & 0o777 for path in own.iterdir()} == dict.fromkeys(("ca.pem", "cert.pem", "key.pem"), 0o600)
    # Nobody becomes a node that is there, nor the coordinator, by the token alone.
    for name in ("w1", "coordinator"):
        other = here.worker(name, "--tls-dir", tmp_path / f"other-{name}", join=join)
        assert wait_until(lambda: "already" in other.log(), 20), other.log_tail()
        other.stop()
    worker._signal(signal.SIGHUP)
    assert wait_until(lambda: "got another certificate" in worker.log(), 20), worker.log_tail()
    assert (own / "cert.pem").read_text() != first
    here.cluster.coordinator._signal(signal.SIGHUP)
    assert wait_until(lambda: "the certificate of this node is read again" in here.cluster.coordinator.log(), 20)
    assert ask(client_of(here.cluster), QUESTIONS[0]) == answer
    # A session of its own connections: all of them show what is good now.
    worker.kill()
    worker.start()
    assert wait_until(lambda: here.cluster.status()["generation"] > 1 and here.cluster.healthy(), 40), worker.log_tail()
    assert here.serves_with("w1") and ask(client_of(here.cluster), QUESTIONS[0]) == answer
    assert all(token not in process.log() for process in (worker, here.cluster.coordinator))


def key_file(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_workers_join_leave_and_move_while_streams_run_which_keep_their_bytes(home):
    house = home()
    cluster = house.cluster.start()
    undisturbed = all_answers(cluster, REQUESTS)
    done = threading.Event()

    def keep_asking(i):
        answers = []
        while not done.is_set():
            answers.append(Stream(cluster, QUESTIONS[i], REQUESTS[i]).read())
        return answers

    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(keep_asking, i) for i in range(len(REQUESTS))]
        try:
            first = house.worker("w1")
            assert house.serves_with("w1"), first.log_tail()
            house.worker("w2")
            assert house.serves_with("w1", "w2"), cluster.coordinator.log_tail()
            assert cluster.node("w1")["joined"] and "joined" not in cluster.node("coordinator")
            assert first.stop() == 0  # It says goodbye: nobody waits for it.
            assert house.serves_with("w2", timeout_s=10), cluster.coordinator.log_tail()
            address = house.workers[1].log()
            house.workers[1].kill()  # And comes back elsewhere.
            house.worker("w2")
            assert house.serves_with("w2"), cluster.coordinator.log_tail()
            assert cluster.node("w2")["address"] not in address
        finally:
            done.set()
        answers = [one.result() for one in asking]
    for i, texts in enumerate(answers):
        assert texts == [undisturbed[i]] * len(texts)
    no_blocks_are_lost(cluster)
    log = cluster.coordinator.log()
    assert "worker 'w1' joined" in log and "worker 'w1' says goodbye" in log and "without 'w1', which left" in log
    assert "left out of the plan" not in log
    assert [node["name"] for node in cluster.status()["nodes"]] == ["coordinator", "w2"]


def test_a_model_too_large_for_the_coordinator_waits_for_workers_and_serves_when_they_have_joined(home, single):
    expected = ask(client_of(single), QUESTIONS[2])
    # Of six layers and the embedding the coordinator has room for a few.
    house = home(serve_args=("--memory", "3MiB", "--kv-positions", "512", "--strategy", "uniform", *ONE))
    cluster = house.cluster
    cluster.coordinator.start()
    assert wait_until(lambda: "waits for workers to join" in reason(cluster) and "lacks" in reason(cluster), 20)
    assert get_text(cluster.url + "/health")[0] == 503
    house.worker("w2", "--memory", "3MiB")
    house.worker("w1", "--memory", "3MiB")
    assert house.serves_with("w1", "w2"), reason(cluster)
    assert ask(client_of(cluster), QUESTIONS[2]) == expected
    assert [node["name"] for node in cluster.status()["nodes"]] == ["coordinator", "w1", "w2"]


def test_a_coordinator_that_a_cluster_file_names_has_that_name_for_workers_that_join(home, tmp_path):
    cluster_file = tmp_path / "cluster.json"
    cluster_file.write_text(json.dumps({"devices": [{"device_id": "first", "role": "coordinator"}]}))
    house = home(serve_args=("--cluster", cluster_file, *SPREAD))
    house.cluster.start()
    worker = house.worker("w1")
    assert wait_until(lambda: house.names() == {"first", "w1"}, 40), worker.log_tail()
    assert "joined the coordinator 'first' as 'w1'" in worker.log()
    other = house.worker("first")
    assert wait_until(lambda: "'first' is the name of the coordinator already" in other.log(), 20), other.log_tail()


def test_the_second_of_one_name_is_refused_by_the_address_of_the_first(home):
    house = home()
    house.cluster.start()
    house.worker("w1")
    assert house.serves_with("w1")
    address = house.cluster.node("w1")["address"]
    second = house.worker("w1")
    assert wait_until(lambda: "not joined yet" in second.log(), 10)
    assert address in second.log() and "--name" in second.log()
    assert house.cluster.node("w1")["address"] == address
    coordinators = house.worker("coordinator")
    assert wait_until(lambda: "name of the coordinator" in coordinators.log(), 10)


def test_only_a_worker_with_the_key_joins_and_again_after_the_coordinator_was_restarted(home, tmp_path):
    ours = key_file(tmp_path / "ours", "a key of more than sixteen bytes\n")
    other = key_file(tmp_path / "other", "some other key of the same sort\n")
    house = home(serve_args=("--key-file", ours, *SPREAD))
    cluster = house.cluster.start()
    strangers = [house.worker("other", "--key-file", other), house.worker("none")]
    assert wait_until(lambda: all("not joined yet" in one.log() for one in strangers), 10)
    assert all("key" in one.log() for one in strangers)
    house.worker("w1", "--key-file", ours)
    assert house.serves_with("w1")
    before = ask(client_of(cluster), QUESTIONS[2])
    cluster.coordinator.kill()
    cluster.coordinator.start()
    assert house.serves_with("w1"), cluster.coordinator.log_tail()
    assert ask(client_of(cluster), QUESTIONS[2]) == before
    assert "sixteen" not in cluster.coordinator.log()


def test_a_token_is_all_that_a_new_worker_needs(home, succeed, run, tmp_path):
    key = tmp_path / "key"
    house = home(serve_args=("--key-file", key, *SPREAD))
    made = subprocess.run([house.shoal, "token", "create", "--key-file", key, "--address",
                           f"127.0.0.1:{house.join_port}"], capture_output=True, text=True, timeout=20, check=True)
    token = made.stdout.strip()
    assert key.stat().st_mode & 0o777 == 0o600 and key.read_text().strip() not in made.stderr
    assert "has the cluster's key" in made.stderr
    house.cluster.start()
    secret = tmp_path / "token"
    secret.write_text(token + "\n")
    worker = house.worker("w1", join=f"@{secret}")
    assert house.serves_with("w1"), worker.log_tail()
    done = run("worker", "--model-root", tmp_path, "--join", token[:-5])
    assert done.returncode == 2 and "token is not whole" in done.stderr and token[10:30] not in done.stderr


def test_what_cannot_join_is_said_at_once(run, demo_model):
    done = run("serve", "--model", demo_model, "--port", 0, "--join-listen", "0.0.0.0:0")
    assert done.returncode != 0 and "--join-listen" in done.stderr and "--key-file" in done.stderr
    done = run("worker", "--model-root", demo_model.parent, "--join", "192.0.2.1:50050")
    assert done.returncode != 0 and "shoal token create" in done.stderr
    done = run("worker", "--model-root", demo_model.parent, "--join", "nowhere")
    assert done.returncode == 2 and "HOST:PORT" in done.stderr
