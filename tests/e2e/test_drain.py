"""A node is drained while streams run, which keep their bytes; then its process may end, and it may take part again."""
import json
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest

from local_cluster import wait_until
from test_replan import SPREAD, is_whole, no_blocks_are_lost, out_of, parts, start
from test_resume import REQUESTS, all_answers

ONE = ("--threads", "1")
SHORT = [dict(request, max_tokens=200) for request in REQUESTS]
# They outlast what the coordinator needs to notice an order, and to follow it.
LONG = [dict(request, max_tokens=900) for request in REQUESTS]


def drain(shoal, cluster, *words):
    return subprocess.run([shoal, "drain", "--url", cluster.url, "--timeout", "60", *words], capture_output=True, text=True,
                          timeout=90, check=False)


def post(cluster, path, body):
    request = urllib.request.Request(cluster.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


def test_a_node_is_drained_while_streams_run_and_taken_in_again(make_cluster, shoal):
    cluster = start(make_cluster, serve_args=SPREAD)
    whole = parts(cluster)
    expected, undisturbed = all_answers(cluster, LONG), all_answers(cluster, SHORT)
    losses = cluster.cache_stats()["engine_losses"]

    def drained():
        done = drain(shoal, cluster, "worker-1")
        assert done.returncode == 0 and "may be stopped" in done.stdout, done

    def undrained():
        done = drain(shoal, cluster, "worker-1", "--undo")
        assert done.returncode == 0 and "takes part again" in done.stdout, done

    assert all_answers(cluster, LONG, drained) == expected
    assert cluster.cache_stats()["engine_losses"] == losses + 1  # Streams did run.
    node = cluster.node("worker-1")
    assert node["layers"] is None and node["experts"] == 0 and node["out"]["drained"]
    assert out_of(cluster) == ["worker-1"] and cluster.status()["generation"] == 2
    assert "beside the session" in cluster.workers[1].log()  # It loaded while it served.

    assert all_answers(cluster, LONG, undrained) == expected
    assert is_whole(cluster) and parts(cluster) == whole
    assert cluster.cache_stats()["engine_losses"] == losses + 2

    # It gets no more calls: its end is noticed by nobody.
    drained()
    cluster.workers[0].kill()
    assert all_answers(cluster, SHORT) == undisturbed
    assert cluster.status()["generation"] == 4 and cluster.cache_stats()["engine_losses"] == losses + 2
    no_blocks_are_lost(cluster)

    cluster.workers[0].start()
    assert wait_until(lambda: cluster.node("worker-1")["state"] == "idle", 20)
    assert out_of(cluster) == ["worker-1"]
    undrained()
    assert wait_until(lambda: is_whole(cluster), 20) and parts(cluster) == whole
    assert all_answers(cluster, SHORT) == undisturbed


def test_nodes_without_files_fetch_what_they_lack_while_the_session_serves(make_cluster, shoal, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cluster = make_cluster(2, serve_args=(*SPREAD, *ONE), model_root=empty,
                           worker_args=lambda i: ("--weights-cache", tmp_path / f"weights-{i + 1}", *ONE))
    undisturbed = all_answers(cluster, LONG)
    before = cluster.node("coordinator")["weights_sent_bytes"]

    def drained():
        done = drain(shoal, cluster, "worker-1")
        assert done.returncode == 0, done

    assert all_answers(cluster, LONG, drained) == undisturbed
    assert cluster.status()["generation"] == 2 and out_of(cluster) == ["worker-1"]
    assert cluster.node("coordinator")["weights_sent_bytes"] + cluster.node("worker-1")["weights_sent_bytes"] > before
    log = cluster.workers[1].log()
    assert log.rindex("of weights (") < log.index("beside the session"), log  # Fetched for it, then loaded.
    assert log.count("are fetched from the coordinator") == 2


@pytest.fixture
def pair(make_cluster):
    return make_cluster(1, serve_args=("--split", "3,3"))


def test_what_can_not_be_drained_is_refused_with_the_reason(pair, shoal):
    status, body = post(pair, "/cluster/drain", {"node": "nobody"})
    assert status == 404 and "there are coordinator, worker-1" in body["error"]["message"]
    status, body = post(pair, "/cluster/drain", {"node": "coordinator"})
    assert status == 400 and "is the coordinator" in body["error"]["message"]
    status, body = post(pair, "/cluster/drain", {"node": "worker-1"})
    assert status == 409 and "the split 3,3 gives node 'worker-1' 3 layers" in body["error"]["message"]
    status, body = post(pair, "/cluster/drain", {"node": "worker-1", "nodes": 1})
    assert status == 400 and "nodes" in body["error"]["message"]
    done = drain(shoal, pair, "worker-1")
    assert done.returncode == 1 and "the split 3,3" in done.stderr
    assert pair.status()["generation"] == 1


@pytest.fixture
def fake_server():
    """Answers an order with success, and /cluster/status with the next of `answers`, the last of which it repeats."""
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, b"{}")

        def do_GET(self):
            fake.paths.append(self.path)
            self.answer(*(fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0]))

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    fake = SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", paths=[], answers=[])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()


def test_a_reply_of_other_types_is_asked_again(fake_server, shoal):
    done = {"status": "up", "nodes": [3, {"name": 4}, {"name": "w", "layers": None, "experts": 0}], "move": None}
    odd = [b"", b"[1]", b'"up"', b'{"nodes": 7, "status": 3, "move": {"error": 5}}', b'{"nodes": [{"name": "w", "experts": "x"}]}',
           json.dumps({**done, "status": ["up"]}).encode()]
    fake_server.answers = [(200, body) for body in odd] + [(503, b"not JSON"), (200, json.dumps(done).encode())]
    result = drain(shoal, fake_server, "w", "--model", "a b/c&d=e")
    assert result.returncode == 0 and "is drained" in result.stdout, result
    assert set(fake_server.paths) == {"/cluster/status?model=a%20b%2Fc%26d%3De"} and len(fake_server.paths) == 8


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_question_ends_at_once(fake_server, shoal, status):
    fake_server.answers = [(status, b'{"error": {"message": "no such thing"}}')]
    result = drain(shoal, fake_server, "w")
    assert result.returncode == 1 and f"answered {status}: no such thing" in result.stderr, result
    assert len(fake_server.paths) == 1
