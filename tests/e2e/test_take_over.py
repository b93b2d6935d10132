"""Two coordinators and one worker: it serves the first, until that is gone or the second is told to take over."""
import json

import pytest

from dialogue import QUESTIONS, ask, client_of
from local_cluster import LocalCluster, get_text, wait_until


@pytest.fixture
def first(make_cluster):
    return make_cluster(1, serve_args=("--split", "3,3"))


@pytest.fixture
def second(shoal, demo_model, tmp_path, first, request):
    """Makes another coordinator of the same worker; it is stopped with the test."""
    made = []

    def make(*serve_args):
        other = LocalCluster(shoal, demo_model, tmp_path / f"second-{len(made)}", 0,
                             serve_args=("--workers", first.addresses[0], "--split", "3,3", *serve_args))
        made.append(other)
        other.coordinator.start()
        return other

    yield make
    for other in made:
        other.stop()


def reason(cluster):
    try:
        return json.loads(get_text(cluster.url + "/health", 2.0)[1]).get("reason", "")
    except OSError:
        return ""


def test_a_second_coordinator_is_refused_by_the_firsts_name_and_hurts_nobody(first, second):
    before = ask(client_of(first), QUESTIONS[2])
    losses = first.cache_stats()["engine_losses"]
    other = second()
    assert wait_until(lambda: "serves the coordinator 'coordinator' at 127.0.0.1:" in reason(other), 20), reason(other)
    assert "--take-over" in reason(other) and " UTC" in reason(other)
    for _ in range(3):
        assert ask(client_of(first), QUESTIONS[2]) == before
    assert first.cache_stats()["engine_losses"] == losses and not other.healthy()

    # Its lease ends with it.
    first.coordinator.kill()
    other.wait_ready(40)
    assert ask(client_of(other), QUESTIONS[2]) == before
    first.coordinator.start()
    assert wait_until(lambda: "serves the coordinator" in reason(first), 20), reason(first)
    assert other.healthy() and ask(client_of(other), QUESTIONS[2]) == before


def test_take_over_takes_the_worker_and_the_first_says_who_has_it(first, second):
    before = ask(client_of(first), QUESTIONS[2])
    other = second("--take-over")
    other.wait_ready(40)
    assert wait_until(lambda: "serves the coordinator" in reason(first), 20), reason(first)
    losses = other.cache_stats()["engine_losses"]
    assert ask(client_of(other), QUESTIONS[2]) == before
    assert other.cache_stats()["engine_losses"] == losses


def test_a_coordinator_that_crashed_gets_its_worker_back_without_a_flag(first):
    before = ask(client_of(first), QUESTIONS[2])
    for _ in range(3):
        first.coordinator.kill()
        first.coordinator.start()
        first.wait_ready(20)
        assert ask(client_of(first), QUESTIONS[2]) == before
