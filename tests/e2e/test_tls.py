"""Certificates between nodes, HTTPS for clients, keys that no file or log holds, and who did what."""
import contextlib
import gzip
import json
import re
import shutil
import signal
import socket
import ssl
import stat
import urllib.error

import httpx
import openai
import pytest

from conftest import SPREAD
from dialogue import ask, client_of
from local_cluster import ClusterError, Process, free_ports, get_text, wait_until
from receiver import Receiver

QUESTION = "What is the capital of Portugal?"


@pytest.fixture
def certs(succeed, tmp_path):
    """A folder of `shoal cert init`."""
    folder = tmp_path / "certs"
    said = succeed("cert", "init", folder, "--node", "worker-1", "--node", "worker-2", "--address", "127.0.0.1")
    assert "keep it off" in said
    return folder


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def findings(done):
    return {(one["node"], one["check"]): one for one in json.loads(done.stdout)["findings"]}


# ---- Between nodes ----

def test_a_cluster_over_tls_gives_the_same_answer(make_cluster, trio, run, certs):
    for path in files_below(certs):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    cluster = make_cluster(2, serve_args=(*SPREAD, "--tls-dir", certs), worker_args=("--tls-dir", certs))
    assert ask(client_of(cluster), QUESTION) == ask(client_of(trio), QUESTION)
    # A port of the cluster takes TLS with a certificate of the cluster, and nothing else.
    host, port = cluster.addresses[0].split(":")
    with socket.create_connection((host, int(port)), 10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        plain.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(1) == b""
    workers = ",".join(cluster.addresses)
    own = certs / "coordinator"
    done = run("doctor", "--workers", workers, "--tls-dir", own, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert findings(done)["worker-1", "certificate"]["verdict"] == "ok"
    blind = run("doctor", "--workers", workers, "--json")
    assert blind.returncode == 1
    assert "refused a node without TLS: start it with --tls-dir" in cluster.workers[0].log()


def test_what_is_wrong_with_a_certificate_is_said_with_what_to_type(make_cluster, run, succeed, certs, tmp_path):
    succeed("cert", "init", tmp_path / "others", "--node", "worker-1", "--node", "worker-2")

    def complaint(**options):
        cluster = make_cluster(2, start=False, **options)
        with pytest.raises(ClusterError):
            cluster.start(timeout_s=4)
        return cluster.coordinator.log()

    other = complaint(serve_args=(*SPREAD, "--tls-dir", certs), worker_args=("--tls-dir", tmp_path / "others"))
    assert "give all nodes files of one `shoal cert init`" in other
    none = complaint(serve_args=(*SPREAD, "--tls-dir", certs))
    assert "does not speak TLS: start it with --tls-dir" in none
    wrong = run("worker", "--listen", "127.0.0.1:0", "--model-root", tmp_path, "--tls-dir", tmp_path / "nowhere")
    assert wrong.returncode != 0 and "shoal cert init" in wrong.stderr
    shutil.copy(tmp_path / "others" / "worker-1" / "key.pem", certs / "worker-1" / "key.pem")
    mixed = run("worker", "--listen", "127.0.0.1:0", "--name", "worker-1", "--model-root", tmp_path, "--tls-dir", certs)
    assert mixed.returncode != 0 and "is not the key of" in mixed.stderr


def test_beyond_loopback_a_worker_wants_a_certificate_or_a_key(run, certs, tmp_path, shoal):
    refused = run("worker", "--listen", "0.0.0.0:0", "--model-root", tmp_path)
    assert refused.returncode != 0 and "--tls-dir" in refused.stderr and "--key-file" in refused.stderr
    worker = Process("worker-1", [shoal, "worker", "--listen", "0.0.0.0:0", "--model-root", tmp_path, "--tls-dir",
                                  certs / "worker-1"], tmp_path / "log").start()
    try:
        assert wait_until(lambda: "worker listens on" in worker.log(), 10), worker.log_tail()
        assert "[worker-1" in worker.log(), "the certificate says how a worker is called"
    finally:
        worker.stop()


def test_a_certificate_that_ends_soon_is_told_by_doctor_and_in_the_log(run, succeed, certs, shoal, tmp_path):
    succeed("cert", "node", "worker-1", "--dir", certs, "--days", "10")
    assert "soon" in succeed("cert", "show", certs / "worker-1")
    worker = Process("worker-1", [shoal, "worker", "--listen", "127.0.0.1:0", "--model-root", tmp_path, "--tls-dir",
                                  certs / "worker-1"], tmp_path / "log").start()
    try:
        assert wait_until(lambda: "worker listens on" in worker.log(), 10), worker.log_tail()
        assert re.search(r"ends in (9|10) days.*shoal cert node worker-1", worker.log()), worker.log_tail()
        address = worker.log().split("worker listens on ")[1].split(",")[0]
        done = run("doctor", "--workers", address, "--tls-dir", certs / "coordinator", "--json")
        found = findings(done)["worker-1", "certificate"]
        assert found["verdict"] == "advice" and "shoal cert node worker-1" in found["remedy"]
    finally:
        worker.stop()


# ---- HTTPS ----

@pytest.fixture
def serve(shoal, demo_model, tmp_path):
    """serve(flags...) -> a server of the demo model that is not asked whether it is ready, and its port."""
    started = []

    def make(*flags):
        port = free_ports(1)[0]
        process = Process("serve", [shoal, "serve", "--model", demo_model, "--port", port, *flags],
                          tmp_path / f"serve-{len(started)}.log").start()
        started.append(process)
        assert wait_until(lambda: " is open" in process.log() or not process.alive, 20), process.log_tail()
        return process, port

    yield make
    for process in started:
        process.stop()


def trusting(folder):
    return ssl.create_default_context(cafile=folder / "ca.pem")


def test_the_api_over_https(serve, certs, run, monkeypatch):
    own = certs / "coordinator"
    process, port = serve("--tls-cert", own / "cert.pem", "--tls-key", own / "key.pem")
    url = f"https://127.0.0.1:{port}"
    assert wait_until(lambda: get_text(url + "/health", 10, trusting(certs))[0] == 200, 30), process.log_tail()
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0,
                           http_client=httpx.Client(verify=trusting(certs), trust_env=False))
    model = client.models.list().data[0].id
    whole = client.chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0)
    pieces = client.chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0,
                                            stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
    assert "Lisbon" in text and text == whole.choices[0].message.content
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get_text(url + "/health", 10)
    # A browser, or curl, that forgot the s.
    status, said = get_text(f"http://127.0.0.1:{port}/health", 10)
    assert status == 400 and "https://" in said
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port), 10) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    # Our own commands believe the system's authorities, and those of SSL_CERT_FILE.
    assert "certificate" in findings(run("doctor", "--url", url, "--json"))["coordinator", "http"]["text"]
    monkeypatch.setenv("SSL_CERT_FILE", str(certs / "ca.pem"))
    assert findings(run("doctor", "--url", url, "--json"))["coordinator", "http"]["verdict"] == "ok"


def test_sighup_renews_the_certificate_and_a_wrong_one_changes_nothing(serve, succeed, certs):
    own = certs / "coordinator"
    process, port = serve("--tls-cert", own / "cert.pem", "--tls-key", own / "key.pem")

    def shown():
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    first = shown()
    key = (own / "key.pem").read_bytes()
    (own / "key.pem").write_bytes(b"no key")
    process._signal(signal.SIGHUP)
    assert wait_until(lambda: "stays as it was" in process.log(), 10), process.log_tail()
    assert shown() == first
    (own / "key.pem").write_bytes(key)
    succeed("cert", "node", "coordinator", "--dir", certs, "--address", "127.0.0.1")
    process._signal(signal.SIGHUP)
    assert wait_until(lambda: shown() != first, 10), process.log_tail()
    assert process.alive


# ---- Keys and what is kept of them ----

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def check_what_others_are_told(receiver, hook, cluster):
    """A request's trace has come; alerts of a lost worker come, to a path that is a secret."""
    assert wait_until(lambda: any(span["kind"] == 2 for span in receiver.spans()), 20), receiver.posts
    spans = receiver.spans()
    assert {span["traceId"] for span in spans} == {TRACE}, "only the request whose client wanted it"
    assert {span["name"] for span in spans} >= {"POST /v1/chat/completions", "queue", "prefill", "step", "stage", "experts", "hops"}
    nodes = {entry["value"]["stringValue"] for span in spans for entry in span["attributes"] if entry["key"] == "shoal.node"}
    assert nodes == {"coordinator", "worker-1", "worker-2"}
    cluster.workers[1].kill()
    kinds = lambda: {alert["kind"] for alert in receiver.bodies(hook)}
    assert wait_until(lambda: {"session", "lost", "down"} <= kinds(), 20), kinds()
    lost = next(alert for alert in receiver.bodies(hook) if alert["kind"] == "lost")
    assert lost["node"] == "worker-2" and lost["severity"] == "warning" and lost["text"].startswith("worker-2: is lost")
    assert lost["server"] == "coordinator" and lost["model"] and lost["time"].endswith("Z") and lost["id"] > 0
    assert [alert["severity"] for alert in receiver.bodies(hook) if alert["kind"] == "down"] == ["critical"]


def check_lines(log):
    """Each line is an object; the first is the command, which our own tool wrote."""
    lines = [json.loads(line) for line in log.splitlines()[1:]]
    assert lines and all({"time", "level", "node", "message"} <= set(line) for line in lines)
    return lines


def test_no_file_and_no_log_holds_a_key_and_admin_calls_are_recorded(make_cluster, succeed, certs, tmp_path, monkeypatch):
    with Receiver() as receiver:
        monkeypatch.setenv("SHOAL_WEBHOOK", receiver.url + "/hook/that-nobody-else-knows")
        check_keys_and_records(make_cluster, succeed, certs, tmp_path, receiver)


def check_keys_and_records(make_cluster, succeed, certs, tmp_path, receiver):
    keys, audit, shared = tmp_path / "keys", tmp_path / "audit.log", tmp_path / "shared"
    secret = succeed("token", "api-key", "--name", "ann", "--file", keys).strip()
    assert re.fullmatch(r"sha256:[0-9a-f]{64} name=ann\n", keys.read_text()) and stat.S_IMODE(keys.stat().st_mode) == 0o600
    shared.write_text("a key of the cluster that is never printed\n")
    shared.chmod(0o600)
    token = succeed("token", "create", "--key-file", shared, "--address", "127.0.0.1").strip()
    trust = ("--key-file", shared, "--tls-dir", certs)
    talks = ("--log-level", "debug", "--log-format", "json")
    cluster = make_cluster(2, worker_args=(*trust, *talks),
                           serve_args=(*SPREAD, *trust, "--api-key-file", keys, "--audit-log", audit, *talks,
                                       "--otlp-endpoint", receiver.url, "--trace-sample", "0"))
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=20) as api:
        headers = {"Authorization": f"Bearer {secret}"}
        wrong = "sk-shoal-that-is-nobodys"
        chat = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
        assert api.post("/v1/chat/completions", json=chat, headers=headers).status_code == 200
        traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "request-7"}
        assert api.post("/v1/chat/completions", json=chat, headers=headers | traced).status_code == 200
        assert api.post("/v1/chat/completions", json=chat).status_code == 401
        body = {"node": "nobody"}
        answers = [api.post("/cluster/drain", json=body, headers=headers),
                   api.post("/cluster/drain?x=1", json=body, headers={"x-api-key": wrong})]
        # Neither length nor compression hides whom a call is about; a question is no change.
        typed = {**headers, "Content-Type": "application/json"}
        api.post("/cluster/drain", content=b" " * 5000 + json.dumps(body).encode(), headers=typed)
        api.post("/cluster/drain", content=gzip.compress(json.dumps(body).encode()), headers={**typed, "Content-Encoding": "gzip"})
        api.post("/cluster/plan", json={"layers": {"worker-1": 6}}, headers=headers)
        api.post("/cluster/plan", json={"layers": {"nobody": 6}, "apply": True}, headers=headers)
    check_what_others_are_told(receiver, "/hook/that-nobody-else-knows", cluster)
    assert any(line.get("request") == "request-7" for line in check_lines(cluster.coordinator.log()))
    assert {line["node"] for line in check_lines(cluster.workers[0].log())} == {"worker-1"}
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    status = answers[0].status_code
    assert [(line["call"], line["key"], line["status"], line.get("target")) for line in lines] == [
        ("POST /cluster/drain", "ann", status, "nobody"), ("POST /cluster/drain", "", 401, None),
        ("POST /cluster/drain", "ann", status, "nobody"), ("POST /cluster/drain", "ann", status, "nobody"),
        ("POST /cluster/plan", "ann", 422, "nobody=6")]
    assert all(line["address"] == "127.0.0.1" and line["request"] and line["time"].endswith("Z") for line in lines)
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    secrets = {"the API key": secret, "its digest": keys.read_text()[7:71], "a wrong API key": wrong,
               "a webhook's path": "that-nobody-else-knows", "the cluster's key": shared.read_text().strip(), "the join token": token}
    for path in files_below(certs):
        if "key" in path.name:
            secrets[str(path)] = path.read_text().splitlines()[1]
    texts = {process.name: process.log() for process in cluster.processes} | {"the audit log": audit.read_text()}
    assert all("session open" in texts[f"worker-{i}"] for i in (1, 2)), "the logs are those of a run"
    for what, value in secrets.items():
        for where, text in texts.items():
            assert value not in text, f"{what} is in {where}"
