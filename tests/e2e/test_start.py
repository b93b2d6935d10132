"""Nothing that a worker does, or does not do yet, ends `shoal serve`; what a person must mend does."""
import json
import time
import urllib.error
import urllib.request

import pytest

from dialogue import ask, client_of
from local_cluster import ClusterError, get_text, wait_until

QUESTION = "What is the capital of Portugal?"


def health(cluster):
    """(status, body) of /health; None while the port is closed."""
    try:
        status, body = get_text(cluster.url + "/health", 2.0)
    except OSError:
        return None
    return status, json.loads(body)


def reason(cluster):
    """Why the cluster is not up now; "" where it is, or nobody says."""
    told = health(cluster)
    return told[1].get("reason", "") if told else ""


def post_chat(cluster):
    """(status, body) of a request that asks for no number of tokens: without a cluster it can't be queued."""
    request = urllib.request.Request(cluster.url + "/v1/chat/completions",
                                     json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_port_is_open_before_a_late_worker_is_there(make_cluster):
    cluster = make_cluster(2, start=False)
    cluster.workers[0].start()
    cluster.coordinator.start()
    assert wait_until(lambda: health(cluster) is not None, 10), cluster.coordinator.log_tail()
    assert wait_until(lambda: cluster.addresses[1] in reason(cluster), 10), health(cluster)
    status, body = health(cluster)
    assert status == 503 and body["status"] == "unavailable"
    nodes = cluster.status()["nodes"]
    assert [node["state"] for node in nodes][2] == "lost" and cluster.addresses[1] in nodes[2]["error"]
    assert nodes[1].get("error") is None
    refused, answer = post_chat(cluster)
    assert refused == 503 and cluster.addresses[1] in answer

    time.sleep(3)
    cluster.workers[1].start()
    cluster.wait_ready(30)
    assert "Lisbon" in ask(client_of(cluster), QUESTION)
    assert [node["state"] for node in cluster.status()["nodes"]] == ["up", "up", "up"]


@pytest.fixture(scope="module")
def slow_model(synthesize):
    """Some layers of Qwen3-1.7B: they take one thread long enough to be caught at it."""
    return synthesize("A", 4)


def test_a_worker_that_dies_while_it_loads_may_come_back(make_cluster, slow_model):
    cluster = make_cluster(1, start=False, model=slow_model, serve_args=("--split", "1,3"), worker_args=("--threads", "1"))
    worker = cluster.workers[0]
    worker.start()
    cluster.coordinator.start()
    assert wait_until(lambda: "loading" in worker.log(), 20, pause_s=0.005), worker.log_tail()
    worker.kill()
    assert "loaded" not in worker.log(), "it was not caught while it loaded"
    assert wait_until(lambda: worker.name in reason(cluster) or cluster.addresses[0] in reason(cluster), 20), health(cluster)
    assert cluster.coordinator.alive
    worker.start()
    cluster.wait_ready(60)


def test_a_worker_without_room_is_named_and_more_room_is_enough(make_cluster, tmp_path, demo_model):
    """The cluster file promises more than the worker allows."""
    cluster = make_cluster(1, start=False, worker_args=("--memory", "1MiB"))
    host, port = cluster.addresses[0].rsplit(":", 1)
    described = {"devices": [{"device_id": "first", "role": "coordinator", "capabilities": {"memory_gb": 16}},
                             {"device_id": "second", "hostname": host, "port": int(port), "role": "worker",
                              "capabilities": {"memory_gb": 8}}],
                 "sharding": {"layers": [3, 3]}}
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(described))
    shoal = cluster.coordinator.argv[0]
    cluster.coordinator.argv = [shoal, "serve", "--cluster", str(file), "--model", str(demo_model), "--port", str(cluster.port)]
    worker = cluster.workers[0]
    worker.start()
    cluster.coordinator.start()
    assert wait_until(lambda: "it may use 1.0 MiB" in reason(cluster), 20), (health(cluster), cluster.coordinator.log_tail())
    assert cluster.node("second")["state"] != "up" and "--memory" in cluster.node("second")["error"]
    worker.stop()
    worker.argv[worker.argv.index("1MiB")] = "1GiB"
    worker.start()
    cluster.wait_ready(30)
    assert "Lisbon" in ask(client_of(cluster), QUESTION)


@pytest.mark.parametrize("words, said", [
    (("--split", "2,2"), "does not sum"),
    (("--memory", "lots"), "lots"),
    (("--model", "/nowhere"), "/nowhere"),
    (("--plan", "/nowhere/plan.json"), "/nowhere/plan.json"),
])
def test_what_a_person_must_mend_ends_the_start(make_cluster, words, said):
    cluster = make_cluster(1, start=False, serve_args=words)
    if "--model" in words:
        at = cluster.coordinator.argv.index("--model")
        del cluster.coordinator.argv[at:at + 2]
    with pytest.raises(ClusterError):
        cluster.start(timeout_s=20)
    assert cluster.coordinator.popen.wait(5) in (1, 2)  # 2 where the words themselves are wrong
    assert said in cluster.coordinator.log() and "is open" not in cluster.coordinator.log()


def test_a_worker_told_to_end_does_so_while_it_loads(make_cluster, slow_model):
    cluster = make_cluster(1, start=False, model=slow_model, serve_args=("--split", "1,3"), worker_args=("--threads", "1"))
    worker = cluster.workers[0]
    worker.start()
    cluster.coordinator.start()
    assert wait_until(lambda: "loading" in worker.log(), 20, pause_s=0.005), worker.log_tail()
    told_at = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - told_at < 2
    log = worker.log()
    assert "loaded" not in log or log.index("stopping") < log.index("loaded"), "it was told when all was loaded"


@pytest.mark.parametrize("words", [("--listen", "0.0.0.0:0"), ("--rest-port", "0", "--rest-host", "0.0.0.0")])
def test_a_worker_does_not_listen_to_strangers_unasked(run, demo_model, words):
    done = run("worker", "--model-root", demo_model.parent, *words)
    assert done.returncode == 1
    assert "0.0.0.0" in done.stderr and "--key-file" in done.stderr and "--insecure" in done.stderr
