"""A worker dies, hangs or is cut off in the middle of a stream, where a loss fails what runs. test_resume.py: where not."""
import concurrent.futures
import os
import re
import time

import openai
import pytest

from black_hole import BlackHole
from dialogue import ENDLESS, QUESTIONS, SLOW, ask, client_of, model_of, user
from local_cluster import wait_until

LOSS_NOTICED_S = 10.0
QUESTION = QUESTIONS[2]
FAIL = ("--split", "2,2,2", "--experts", "round_robin:3", "--on-loss", "fail", *SLOW)


@pytest.fixture
def black_hole():
    hole = BlackHole(0).open()
    yield hole
    hole.close()


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def endless_stream(cluster):
    """A stream that would run long beyond the loss of the worker."""
    client = client_of(cluster)
    return client.chat.completions.create(model=model_of(client), messages=user(QUESTION), stream=True, **ENDLESS)


def endless_request(cluster):
    return ask(client_of(cluster), QUESTION, **ENDLESS)


def drain(stream):
    for _ in stream:
        pass


def error_of(call, *arguments):
    """The error that ended the call, and the time of its end."""
    with pytest.raises(openai.APIError) as caught:
        call(*arguments)
    return caught.value, time.monotonic()


def lose_and_return(cluster, worker, lose, bring_back):
    """Loses a worker in the middle of requests, checks their errors, brings it back. worker: its index."""
    name = cluster.workers[worker].name
    before = ask(client_of(cluster), QUESTION)

    stream = endless_stream(cluster)
    for _ in zip(range(5), stream):
        pass
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(error_of, endless_request, cluster)
        assert wait_until(lambda: cluster.cache_stats()["requests"]["running"] == 2, 10)
        lost_at = time.monotonic()
        lose()
        stream_error, stream_ended_at = error_of(drain, stream)
        request_error, request_ended_at = request.result()

    for error, ended_at in ((stream_error, stream_ended_at), (request_error, request_ended_at)):
        assert ended_at - lost_at < LOSS_NOTICED_S, f"it took {ended_at - lost_at:.1f} s: {error}"
        # The node that is lost comes first, not the one that waited for it.
        assert re.search(r"node '([^']+)'", error.message)[1] == name, error.message
        assert re.search(r"layer \d", error.message) and re.search(r"step \d", error.message), error.message
    assert request_error.status_code == 503
    assert wait_until(lambda: cluster.node(name)["state"] != "up", 5), cluster.status()
    assert not cluster.healthy()

    bring_back()
    cluster.wait_ready(30)  # also checks that the coordinator has not ended
    assert cluster.node(name)["state"] == "up"
    assert ask(client_of(cluster), QUESTION) == before
    assert cluster.cache_stats()["blocks"]["used"] == 0


@pytest.mark.parametrize("worker", [0, 1], ids=["middle_stage", "last_stage"])
def test_a_killed_worker_ends_requests_by_name_and_may_return(make_cluster, worker):
    cluster = make_cluster(2, serve_args=FAIL)
    process = cluster.workers[worker]
    lose_and_return(cluster, worker, process.kill, process.start)


def test_a_stopped_worker_ends_requests_by_name_and_may_return(make_cluster):
    cluster = make_cluster(2, serve_args=FAIL)
    process = cluster.workers[1]
    lose_and_return(cluster, 1, process.pause, process.resume)


def test_a_worker_behind_a_silent_network_ends_requests_by_name_and_may_return(make_cluster, black_hole):
    cluster = make_cluster(2, serve_args=(*FAIL, "--insecure"), worker_args=("--insecure",), **black_hole.around_last(2))
    before = [descriptors(worker) for worker in cluster.workers]
    lose_and_return(cluster, 1, black_hole.swallow, black_hole.release)
    # Each side closed what the other could not hear of.
    assert wait_until(lambda: all(map(int.__le__, map(descriptors, cluster.workers), before)), 15), before


def test_the_loss_of_a_worker_with_experts_only_is_noticed_as_well(make_cluster):
    cluster = make_cluster(2, serve_args=("--split", "3,3", "--experts", "round_robin:3", "--on-loss", "fail", *SLOW))
    process = cluster.workers[1]
    lose_and_return(cluster, 1, process.kill, process.start)


def test_a_request_waits_for_a_lost_worker_but_not_for_ever(make_cluster):
    cluster = make_cluster(2)
    process = cluster.workers[0]
    before = ask(client_of(cluster), QUESTION)
    process.kill()
    assert wait_until(lambda: not cluster.healthy(), LOSS_NOTICED_S)
    refused, _ = error_of(ask, client_of(cluster), QUESTION)
    assert refused.status_code == 503 and process.name in refused.message
    with concurrent.futures.ThreadPoolExecutor() as pool:
        patient = pool.submit(ask, client_of(cluster), QUESTION)
        time.sleep(0.5)
        process.start()
        assert patient.result() == before
