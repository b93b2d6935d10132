"""Connections that strangers leave open: they are bounded, closed first, and never shut anybody else out."""
import contextlib
import os
import resource
import socket

import pytest

from dialogue import ask, client_of
from local_cluster import get_text, wait_until

QUESTION = "What is the capital of Portugal?"
FEW_DESCRIPTORS = ["prlimit", "--nofile=256:256"]


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


@contextlib.contextmanager
def idle_connections(port, count, says=b""):
    """So many connections to a port of this machine, each of which says only this much."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)]
        for one in sockets:
            with contextlib.suppress(OSError):  # Closed already, to make room for others.
                one.sendall(says)
        yield sockets


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def test_a_worker_with_few_descriptors_serves_beside_and_after_400_idle_connections(make_cluster):
    cluster = make_cluster(1, start=False, prefixes={0: FEW_DESCRIPTORS})
    worker = cluster.workers[0].start()
    port = port_of(cluster.addresses[0])
    assert wait_until(lambda: "listens" in worker.log(), 20), worker.log_tail()
    before = descriptors(worker)
    with idle_connections(port, 400):
        cluster.coordinator.start()
        cluster.wait_ready(30)
        assert ask(client_of(cluster), QUESTION)
        assert descriptors(worker) < 200, worker.log_tail()
    cluster.coordinator.stop()
    assert wait_until(lambda: descriptors(worker) <= before + 4, 15), f"{descriptors(worker)}, before {before}"
    cluster.coordinator.start()
    cluster.wait_ready(30)
    assert ask(client_of(cluster), QUESTION)


def test_silent_connections_to_a_worker_end_by_themselves(make_cluster):
    cluster = make_cluster(1, start=False)
    worker = cluster.workers[0].start()
    assert wait_until(lambda: "listens" in worker.log(), 20), worker.log_tail()
    before = descriptors(worker)
    with idle_connections(port_of(cluster.addresses[0]), 100) as silent:
        assert wait_until(lambda: descriptors(worker) >= before + 90, 5)
        assert wait_until(lambda: descriptors(worker) <= before, 15), descriptors(worker)
        assert silent[0].recv(1) == b""


@pytest.mark.parametrize("says", [b"", b"GET /health HTTP/1.1\r\n"], ids=["silent", "unfinished"])
def test_a_stranger_with_1100_connections_shuts_nobody_out(make_cluster, says):
    cluster = make_cluster(0)
    with idle_connections(cluster.port, 1100, says):
        for _ in range(5):
            assert get_text(cluster.url + "/health", 5.0)[0] == 200
        # What has not finished its request goes after a second.
        assert wait_until(lambda: get_text(cluster.url + "/metrics", 5.0)[0] == 200, 5)
        assert ask(client_of(cluster), QUESTION)
    assert wait_until(lambda: descriptors(cluster.coordinator) < 100, 10)


def test_a_coordinator_with_few_descriptors_serves_beside_idle_connections(make_cluster):
    cluster = make_cluster(0, start=False)
    cluster.coordinator.argv = FEW_DESCRIPTORS + cluster.coordinator.argv
    cluster.start()
    with idle_connections(cluster.port, 400):
        assert get_text(cluster.url + "/health", 5.0)[0] == 200
        assert ask(client_of(cluster), QUESTION)
        assert descriptors(cluster.coordinator) < 200
