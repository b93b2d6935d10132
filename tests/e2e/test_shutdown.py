"""SIGTERM: new requests are refused, running ones may end, and what is left ends with an error that its client can read."""
import concurrent.futures
import json
import os
import signal
import time
import urllib.error
import urllib.request

import openai
import pytest

from dialogue import ENDLESS, QUESTIONS, SLOW, client_of, model_of, user
from local_cluster import get_text, wait_until


def endless(client, **options):
    return client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[2]),
                                          **{**ENDLESS, **options})


def terminate(process):
    os.kill(process.pid, signal.SIGTERM)


def post_chat(cluster):
    """(status, headers, body) of a request."""
    body = json.dumps({"messages": user("hi"), "max_tokens": 1}).encode()
    request = urllib.request.Request(cluster.url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def ended(process, timeout_s):
    """The exit code, and how long the end took."""
    begin = time.monotonic()
    return process.popen.wait(timeout_s), time.monotonic() - begin


def test_running_requests_end_as_usual_and_new_ones_are_refused(make_cluster):
    cluster = make_cluster(0, serve_args=("--drain-timeout", "60", *SLOW))
    stream = endless(client_of(cluster), stream=True, max_tokens=120)
    chunks = [next(stream) for _ in range(3)]
    terminate(cluster.coordinator)
    assert wait_until(lambda: get_text(cluster.url + "/health")[0] == 503, 5)
    assert json.loads(get_text(cluster.url + "/health")[1])["status"] == "draining"
    status, headers, body = post_chat(cluster)
    assert status == 503 and headers["Retry-After"] and b"shutting down" in body
    chunks += list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert ended(cluster.coordinator, 10)[0] == 0


def test_what_has_not_ended_in_time_ends_with_an_error(make_cluster):
    cluster = make_cluster(0, serve_args=("--drain-timeout", "0.5", *SLOW))
    stream = endless(client_of(cluster), stream=True)
    next(stream)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        whole = pool.submit(endless, client_of(cluster))
        assert wait_until(lambda: cluster.cache_stats()["requests"]["running"] == 2, 10)
        terminate(cluster.coordinator)
        with pytest.raises(openai.APIError, match="shutting down"):
            for _ in stream:
                pass
        with pytest.raises(openai.APIStatusError, match="shutting down") as caught:
            whole.result()
    assert caught.value.status_code == 503
    code, seconds = ended(cluster.coordinator, 10)
    assert code == 0 and seconds < 5


def test_a_second_signal_ends_the_wait(make_cluster):
    cluster = make_cluster(0, serve_args=("--drain-timeout", "60", *SLOW))
    stream = endless(client_of(cluster), stream=True)
    next(stream)
    terminate(cluster.coordinator)
    assert wait_until(lambda: get_text(cluster.url + "/health")[0] == 503, 5)
    terminate(cluster.coordinator)
    with pytest.raises(openai.APIError, match="shutting down"):
        for _ in stream:
            pass
    code, seconds = ended(cluster.coordinator, 10)
    assert code == 0 and seconds < 5


def test_an_idle_server_ends_at_once(make_cluster):
    cluster = make_cluster(0)
    terminate(cluster.coordinator)
    code, seconds = ended(cluster.coordinator, 10)
    assert code == 0 and seconds < 2


def test_a_worker_in_a_session_ends_promptly(make_cluster):
    cluster = make_cluster(1)
    terminate(cluster.workers[0])
    code, seconds = ended(cluster.workers[0], 10)
    assert code == 0 and seconds < 3
