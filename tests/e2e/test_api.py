"""The HTTP API: every field is honoured or refused by name, and every bad request gets a clear answer."""
import json
import socket
import struct
import time

import httpx
import openai
import pytest

from dialogue import ENDLESS, QUESTIONS, ask, client_of, model_of, user
from local_cluster import wait_until


@pytest.fixture(scope="module")
def api(single):
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as client:
        yield client


def chat(api, **more):
    return api.post("/v1/chat/completions", json={"messages": user("hi"), "temperature": 0, "max_tokens": 8, **more})


def cache(api):
    return api.get("/cache/stats").json()


def address(single):
    url = httpx.URL(single.url)
    return url.host, url.port


def exchange(single, raw):
    """Sends raw bytes and reads until the server closes the connection."""
    with socket.create_connection(address(single), timeout=40) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# ---- Fields ----

NO_OPS = {"n": 1, "logprobs": False, "top_logprobs": None, "user": "someone", "store": False, "parallel_tool_calls": True,
          "response_format": {"type": "text"}, "service_tier": "auto", "metadata": None, "surprise": None, "audio": None, "seed": None,
          "logit_bias": None, "stop": None, "tools": None, "tool_choice": None, "reasoning_effort": None, "model": None}


def test_null_and_no_op_values_change_nothing(api):
    plain = chat(api)
    assert plain.status_code == 200, plain.text
    for name, value in NO_OPS.items():
        answer = chat(api, **{name: value})
        assert answer.status_code == 200, f"{name}: {answer.text}"
        assert answer.json()["choices"] == plain.json()["choices"], name


@pytest.mark.parametrize("field, value", [
    ("response_format", {"type": "xml"}), ("tool_choice", "required"), ("functions", [{"name": "f"}]),
    ("modalities", ["audio"]), ("web_search_options", {}), ("temprature", 0.5), ("surprise", 1), ("best_of", 2),
    ("n", 0), ("n", 129), ("top_logprobs", 3), ("min_tokens", -1), ("stop_token_ids", [99999999]),
    ("temperature", 2.5), ("temperature", "hot"), ("top_p", -1), ("min_p", -0.1), ("top_k", 1.5),
    ("presence_penalty", 2.5), ("frequency_penalty", -2.5), ("repetition_penalty", 0), ("max_tokens", 0),
    ("max_tokens", "many"), ("stop", ["a"] * 17), ("stop", 1), ("seed", "x"), ("stream", 1),
    ("logit_bias", {"99999999": 1}), ("logit_bias", {"1": 1000}),
    ("messages", []), ("messages", "hi"), ("messages", [{"role": "robot", "content": "hi"}]),
    ("messages", [{"role": "user"}]), ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
], ids=lambda value: str(value)[:30])
def test_a_field_that_cannot_be_honoured_is_refused_by_name(api, field, value):
    answer = chat(api, **{field: value})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(field)
    assert field in error["message"]


def test_another_model_is_not_found(single):
    with pytest.raises(openai.NotFoundError) as caught:
        client_of(single).chat.completions.create(model="gpt-9", messages=user("hi"))
    assert caught.value.code == "model_not_found"


def test_content_may_be_text_parts(api):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert chat(api, messages=parts).json()["choices"] == chat(api).json()["choices"]


def test_the_seed_decides_the_text(single):
    client = client_of(single)
    once, again, other = (ask(client, QUESTIONS[2], temperature=1.0, seed=seed) for seed in (3, 3, 4))
    assert once == again != other


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_ends_before_a_stop_string_wherever_tokens_end(single, stream):
    client = client_of(single)
    story = ask(client, QUESTIONS[2], max_tokens=48)
    for begin, length in ((9, 1), (17, 3), (23, 7), (30, 11)):
        stop = story[begin:begin + length]
        answer = client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[2]), temperature=0,
                                                max_tokens=48, stop=[stop, "never said"], stream=stream)
        if stream:
            chunks = [chunk.choices[0] for chunk in answer]
            text, reason = "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason
        else:
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (text, reason) == (story[:story.index(stop)], "stop")


def test_generate_gives_plain_text(api):
    answer = api.post("/generate", json={"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0})
    assert answer.status_code == 200, answer.text
    assert "Paris" in answer.json()["text"]


def test_token_ids_are_a_prompt(api):
    body = {"prompt": [100, 200, 300], "max_tokens": 4, "temperature": 0}
    answer = api.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] == 3


def test_metrics_and_health(api):
    chat(api)
    metrics = api.get("/metrics").text
    for name in ("shoal_time_to_first_token_seconds", "shoal_inter_token_latency_seconds", "shoal_generated_tokens_total",
                 "shoal_queue_requests", "shoal_kv_blocks", "shoal_stage_busy_seconds"):
        assert f"# TYPE {name} " in metrics
    assert api.get("/health").json()["status"] == "ok"
    blocks = cache(api)["blocks"]
    assert blocks["free"] + blocks["used"] + blocks["cached"] == blocks["total"]


# ---- Malformed requests ----

def posted(body, path="/v1/chat/completions", length=None, extra=""):
    body = body if isinstance(body, bytes) else body.encode()
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{extra}\r\n".encode() + body


MALFORMED = {
    "empty body": (posted(""), 400),
    "half a json": (posted('{"messages": ['), 400),
    "trailing comma": (posted('{"messages": [],}'), 400),
    "two values": (posted("{} {}"), 400),
    "an array": (posted("[]"), 400),
    "a number": (posted("7"), 400),
    "nan": (posted('{"temperature": NaN}'), 400),
    "huge number": (posted('{"temperature": 1e999}'), 400),
    "single quotes": (posted("{'messages': []}"), 400),
    "not utf-8": (posted(b'{"messages": [{"role": "user", "content": "\xff"}]}'), 400),
    "lone surrogate": (posted('{"messages": [{"role": "user", "content": "\\ud800"}]}'), 400),
    "nul bytes": (posted(b"\0\0\0\0"), 400),
    "deep arrays": (posted("[" * 20000 + "]" * 20000), 400),
    "deep objects": (posted('{"a":' * 20000 + "1" + "}" * 20000), 400),
    "many keys": (posted("{" + ",".join(f'"{i}":1' for i in range(50000)) + "}"), 400),
    "body shorter than said": (posted("{}", length=100), 400),
    "no such path": (posted("{}", path="/v2/chat/completions"), 404),
    "wrong method": (b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "delete": (b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "not http": (b"hello\r\n\r\n", 400),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "no version": (b"GET /health\r\n\r\n", 400),
    "header without colon": (b"GET /health HTTP/1.1\r\nnonsense\r\n\r\n", 400),
    "length is a word": (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
    "negative length": (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
    "bad chunk": (b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "enormous length": (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n", 413),
    "enormous headers": (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100000 + b"\r\n\r\n", 431),
    "no host": (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "bad escape": (b"GET /v1/models/%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
    "unknown model in path": (b"GET /v1/models/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "prompt is an object": (posted('{"prompt": {}}', path="/v1/completions"), 400),
    "token beyond the vocabulary": (posted('{"prompt": [999999999]}', path="/v1/completions"), 400),
    "negative token": (posted('{"prompt": [-1]}', path="/v1/completions"), 400),
    "longer than the context": (posted(json.dumps({"prompt": "fish " * 5000}), path="/v1/completions"), 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_gets_a_clear_answer(single, name):
    raw, status = MALFORMED[name]
    answer = exchange(single, raw)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    error = json.loads(body)["error"]
    assert error["message"] and error["type"] == "invalid_request_error"
    numbers = {"n_prompt_tokens", "n_ctx"} if error["code"] == "context_length_exceeded" else set()
    assert {"message", "type", "param", "code"} | numbers == set(error)


def test_the_server_still_serves_after_all_malformed_requests(single, api):
    for raw, _ in MALFORMED.values():
        exchange(single, raw)
    assert chat(api).status_code == 200
    assert wait_until(lambda: cache(api)["blocks"]["used"] == 0, 10)


def test_slow_clients_do_not_hold_up_others(single, api):
    slow = [socket.create_connection(address(single), timeout=5) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
        begin = time.monotonic()
        assert chat(api, max_tokens=1).status_code == 200
        assert time.monotonic() - begin < 10
    finally:
        for connection in slow:
            connection.close()


# ---- Clients that leave ----

@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_frees_its_blocks(single, api, stream, how):
    body = json.dumps({"messages": user("hi"), "stream": stream, **ENDLESS})
    connection = socket.create_connection(address(single), timeout=20)
    connection.sendall(posted(body))
    assert wait_until(lambda: cache(api)["blocks"]["used"] > 0, 20)
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert wait_until(lambda: cache(api)["blocks"]["used"] == 0, 10), cache(api)
    assert cache(api)["requests"] == {"running": 0, "waiting": 0}


def test_a_kept_connection_serves_request_after_request(api):
    texts = [chat(api).json()["choices"][0]["message"]["content"] for _ in range(5)]
    assert len(set(texts)) == 1
