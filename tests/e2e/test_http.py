"""HTTP as browsers, proxies and careless clients speak it."""
import gzip
import json
import re
import socket
import threading
import zlib

import httpx
import openai
import pytest

from dialogue import ENDLESS, QUESTIONS, SLOW, ask, client_of, model_of, user
from local_cluster import wait_until

PAGE = "https://chat.example"
CHAT = {"messages": user("hi"), "temperature": 0, "max_tokens": 8}


def session(cluster, **options):
    return httpx.Client(base_url=cluster.url, trust_env=False, timeout=60, **options)


@pytest.fixture(scope="module")
def api(single):
    with session(single) as client:
        yield client


def text_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


# ---- Spellings ----

@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/", "/chat/completions",
                                  "/v1/v1/chat/completions", "//v1/chat/completions", "/v1//chat/completions"])
def test_a_base_address_may_be_spelt_as_clients_do(api, path):
    assert text_of(api.post(path, json=CHAT))


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "/v1/v1"])
def test_the_official_client_works_with_any_base(single, base):
    client = openai.OpenAI(base_url=single.url + base, api_key="unused", max_retries=0,
                           http_client=httpx.Client(trust_env=False))
    assert "Lisbon" in ask(client, QUESTIONS[0])


def test_a_proxy_may_send_the_whole_address(single):
    with socket.create_connection(("127.0.0.1", single.port), timeout=10) as connection:
        connection.sendall(b"GET http://shoal.example/health HTTP/1.1\r\nHost: shoal.example\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/cluster/status", "/cluster/experts", "/cache/stats"])
def test_head_has_the_headers_of_get(api, path):
    got, head = api.get(path), api.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert api.post(path).headers["allow"] == "GET, HEAD, OPTIONS"
    assert api.options(path).headers["allow"] == "GET, HEAD, OPTIONS"


def test_answers_are_dated_and_carry_the_id_of_their_request(api):
    mine = api.post("/v1/chat/completions", json=CHAT, headers={"X-Request-Id": "mine-1"})
    assert mine.headers["x-request-id"] == "mine-1"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", mine.headers["date"])
    made = {api.get("/nowhere").headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2


def test_localhost_is_ipv4_and_ipv6(single):
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://127.0.0.1:{single.port}/health").status_code == 200
        try:
            socket.create_connection(("::1", single.port), timeout=5).close()
        except OSError:
            pytest.skip("no IPv6 here")
        assert client.get(f"http://[::1]:{single.port}/health").status_code == 200


# ---- Bodies ----

@pytest.mark.parametrize("encoding, pack", [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed(api, encoding, pack):
    plain = json.dumps(CHAT).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    packed = api.post("/v1/chat/completions", content=pack(plain), headers=headers)
    assert text_of(packed) == text_of(api.post("/v1/chat/completions", content=plain))
    assert api.post("/v1/chat/completions", content=plain, headers=headers).status_code == 400


def test_compression_cannot_fill_the_memory_and_other_encodings_are_refused(single, api):
    before = single.coordinator.rss_bytes(peak=True)
    bomb = gzip.compress(bytes(16 << 20)) * 32  # Several members are one text, of half a gigabyte.
    assert api.post("/v1/chat/completions", content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
    assert single.coordinator.rss_bytes(peak=True) - before < 64 << 20
    refused = api.post("/v1/chat/completions", content=b"x", headers={"Content-Encoding": "br"})
    assert refused.status_code == 415 and refused.headers["accept-encoding"] == "gzip, deflate"


def test_types_other_than_json_are_refused_but_not_those_of_a_bare_curl(api):
    def status(kind, **more):
        return api.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"Content-Type": kind, **more}).status_code
    assert status("application/json; charset=utf-8") == 200
    assert status("application/x-www-form-urlencoded") == 200
    assert status("text/plain") == 415
    assert status("multipart/form-data; boundary=x") == 415
    assert status("text/plain", Origin=PAGE) == 403


# ---- Web pages ----

def test_without_cors_no_page_may_post(api):
    for origin in (PAGE, "null", "http://127.0.0.1:1"):
        refused = api.post("/v1/chat/completions", json=CHAT, headers={"Origin": origin})
        assert refused.status_code == 403 and "--cors-origins" in refused.json()["error"]["message"]
    preflight = api.options("/v1/chat/completions", headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in api.get("/v1/models", headers={"Origin": PAGE}).headers


def test_with_cors_the_pages_named_may_post_and_read_everything(make_cluster):
    cluster = make_cluster(0, serve_args=("--cors-origins", f"{PAGE},http://localhost:*"))
    with session(cluster) as api:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        for origin in (PAGE, "http://localhost:5173"):
            page = {"Origin": origin}
            granted = api.options("/v1/chat/completions", headers={**page, **asks})
            assert granted.status_code == 204
            assert granted.headers["access-control-allow-headers"] == "authorization,content-type"
            assert "POST" in granted.headers["access-control-allow-methods"]
            stream = api.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=page)
            error = api.post("/v1/chat/completions", json={"messages": 1}, headers=page)
            assert (stream.status_code, error.status_code) == (200, 400)
            for answer in (granted, stream, error, api.get("/nowhere", headers=page)):
                assert answer.headers["access-control-allow-origin"] == origin
        assert api.post("/v1/chat/completions", json=CHAT, headers={"Origin": "https://evil.example"}).status_code == 403


# ---- Keys ----

def test_keys_and_their_limits(make_cluster, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nkey-of-ann name=ann concurrent=1\nkey-of-bob name=bob per-minute=2\n")
    cluster = make_cluster(0, serve_args=("--api-key-file", keys, "--open-metrics", *SLOW))
    with session(cluster) as api:
        assert api.get("/health").status_code == api.get("/metrics").status_code == 200
        assert wait_until(lambda: api.get("/health").json()["status"] == "ok", 20)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": "key-of-an"}):
            refused = api.get("/v1/models", headers=headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert {"message", "type", "param", "code"} == set(refused.json()["error"])
        with pytest.raises(openai.AuthenticationError):
            client_of(cluster).models.list()
        bob = {"x-api-key": "key-of-bob"}
        posts = [api.post("/v1/chat/completions", json=CHAT, headers=bob) for _ in range(3)]
        assert [p.status_code for p in posts] == [200, 200, 429]
        assert 1 <= int(posts[2].headers["retry-after"]) <= 30

        ann = openai.OpenAI(base_url=cluster.url + "/v1", api_key="key-of-ann", max_retries=0,
                            http_client=httpx.Client(trust_env=False))
        model = model_of(ann)
        long = {"model": model, "messages": user("hi"), "stream": True, **ENDLESS}
        running = ann.chat.completions.create(**long)
        next(iter(running))
        with pytest.raises(openai.RateLimitError):
            ann.chat.completions.create(**{**long, "max_tokens": 1, "stream": False})
        running.close()

        def free():
            try:
                return ann.chat.completions.create(model=model, messages=user("hi"), max_tokens=1)
            except openai.RateLimitError:
                return None
        assert wait_until(free, 10)
    log = cluster.coordinator.log()
    assert "key-of-ann" not in log and "key-of-bob" not in log


def test_a_key_file_that_is_wrong_ends_the_start_with_its_line(shoal, demo_model, run, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("good\nsecret-key nonsense\n")
    done = run("serve", "--model", demo_model, "--port", "0", "--api-key-file", keys)
    assert done.returncode == 2 and "line 2" in done.stderr and "secret-key" not in done.stderr


# ---- Load ----

def test_load_measures_a_server_and_counts_its_errors(single, run):
    done = run("load", "--url", single.url + "/v1", "--concurrency", "4", "--requests", "12", "--prompt-words", "8-16",
               "--output-tokens", "4:1,9:1", "--prefix-words", "20", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == {"sent": 12, "succeeded": 12, "failed": 0, "in_flight_max": 4}
    assert report["errors"] == {} and report["ttft_ms"]["count"] == 12
    assert 12 * 1 <= report["tokens"]["output"] <= 12 * 9
    assert report["tokens"]["prompt"] > 12 * 28
    open_loop = run("load", "--url", single.url, "--rate", "50", "--requests", "20", "--prompt-words", "8",
                    "--output-tokens", "2", "--extra", '{"max_tokens": "many"}')
    assert open_loop.returncode == 1
    assert "20 failed" in open_loop.stdout and "http 400" in open_loop.stdout


def test_400_streams_at_once(single, run):
    ended = []
    load = threading.Thread(target=lambda: ended.append(run(
        "load", "--url", single.url, "--concurrency", "400", "--requests", "400", "--prompt-words", "1-4",
        "--output-tokens", "1-4", "--json", timeout_s=110)))
    load.start()
    with session(single) as api:
        while load.is_alive():
            assert api.get("/health").status_code == 200
            load.join(0.2)
    report = json.loads(ended[0].stdout)
    assert report["requests"]["succeeded"] == 400, report["errors"]
    assert report["requests"]["in_flight_max"] == 400
