"""Floods from one machine: bounded, and other clients are served meanwhile. None asks how fast."""
import contextlib
import json
import resource
import socket
import threading

import httpx
import pytest

from dialogue import ENDLESS, ask, client_of, user
from local_cluster import wait_until
from test_connections import idle_connections

QUESTION = "What is the capital of Portugal?"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def dial(port):
    return socket.create_connection(("127.0.0.1", port), 20)


def test_10000_idle_connections_keep_nobody_out(make_cluster):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < 11000:
        pytest.skip(f"the system grants {most} descriptors")
    cluster = make_cluster(0)
    with idle_connections(cluster.port, 10000):
        assert "Lisbon" in ask(client_of(cluster), QUESTION)
        assert cluster.healthy()
        assert cluster.coordinator.rss_bytes() < 1 << 30
    assert "Lisbon" in ask(client_of(cluster), QUESTION)


def test_clients_that_send_a_byte_at_a_time_keep_nobody_waiting(make_cluster):
    cluster = make_cluster(0)
    slow = [dial(cluster.port) for _ in range(300)]
    stop = threading.Event()

    def trickle():
        for byte in (HEAD * 10).decode():
            for one in slow:
                try:
                    one.sendall(byte.encode())
                except OSError:
                    pass  # The server gave it up.
            if stop.wait(0.02):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        for _ in range(3):
            assert "Lisbon" in ask(client_of(cluster), QUESTION)
    finally:
        stop.set()
        thread.join()
        for one in slow:
            one.close()


def test_a_body_of_100_mb_is_refused_by_its_length_and_fills_no_memory(make_cluster):
    cluster = make_cluster(0)
    before = cluster.coordinator.rss_bytes()
    with dial(cluster.port) as declared:
        declared.sendall(HEAD + b"Content-Length: 104857600\r\n\r\n")
        assert b" 413 " in declared.recv(100)
    with dial(cluster.port) as chunked:
        chunked.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        with contextlib.suppress(OSError):  # What comes after the refusal is thrown away for a while; then it hangs up.
            for _ in range(100):
                chunked.sendall(piece)
            assert b" 413 " in chunked.recv(100)
    assert cluster.coordinator.rss_bytes() - before < 64 << 20
    assert "Lisbon" in ask(client_of(cluster), QUESTION)


def test_a_flood_of_requests_whose_clients_leave_holds_nothing(make_cluster):
    cluster = make_cluster(0)
    body = json.dumps({"messages": user("Tell me a story"), "stream": True, **ENDLESS}).encode()
    request = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(4):
        crowd = [dial(cluster.port) for _ in range(100)]
        for one in crowd:
            one.sendall(request)
        crowd[0].recv(1)  # The first of them is being answered.
        for one in crowd:
            one.close()
    assert "Lisbon" in ask(client_of(cluster), QUESTION)
    with httpx.Client(base_url=cluster.url, trust_env=False) as api:
        assert wait_until(lambda: api.get("/cache/stats").json()["blocks"]["used"] == 0, 20), api.get("/cache/stats").text
