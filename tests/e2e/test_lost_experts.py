"""A worker that holds nothing but experts is lost: those that hold them, too, go on, and no step is repeated."""
import pytest

from local_cluster import wait_until
from test_replan import no_blocks_are_lost, out_of
from test_resume import REQUESTS, all_answers

# Two stages, and two workers with experts only. Each expert is on two nodes: the losses of worker-2 and of worker-3 are
# survived, but not of both.
ARGS = ("--split", "3,3", "--experts", "round_robin", "--expert-replicas", "1", "--replan-after", "1",
        "--rejoin-wait", "2", "--threads", "1")
SHORT = [dict(request, max_tokens=150) for request in REQUESTS]
EIGHT = [dict(SHORT[i % 3], seed=100 + i) for i in range(8)]


@pytest.fixture
def cluster(make_cluster):
    return make_cluster(3, serve_args=ARGS, worker_args=("--threads", "1"))


def story(cluster):
    """What a loss that ends a session changes."""
    stats = cluster.cache_stats()
    return cluster.status()["generation"], stats["engine_losses"], stats["restarts"]


def is_whole(cluster):
    return out_of(cluster) == [] and cluster.node("worker-2")["state"] == cluster.node("worker-3")["state"] == "up"


def test_streams_do_not_notice_that_a_worker_with_experts_is_killed(cluster):
    undisturbed = all_answers(cluster, EIGHT)
    before = story(cluster)
    assert all_answers(cluster, EIGHT, cluster.workers[2].kill) == undisturbed
    assert story(cluster) == before
    assert wait_until(lambda: out_of(cluster) == ["worker-3"], 20)
    node = cluster.node("worker-3")
    assert node["state"] == "lost" and "the others have all that it held" in node["out"]["why"]
    status = cluster.status()
    assert status["status"] == "up" and status["degraded"] and cluster.metrics()["shoal_nodes_out"] == 1
    no_blocks_are_lost(cluster)

    cluster.workers[2].start()
    assert wait_until(lambda: is_whole(cluster), 60), cluster.status()
    assert cluster.status()["generation"] == before[0] + 1 and not cluster.status()["degraded"]
    assert all_answers(cluster, EIGHT) == undisturbed
    assert cluster.node("worker-3")["expert_calls_served"] > 0


def test_streams_wait_for_a_worker_that_hangs_no_longer_than_the_timeout(cluster):
    undisturbed = all_answers(cluster, SHORT)
    before = story(cluster)
    assert all_answers(cluster, SHORT, cluster.workers[1].pause) == undisturbed
    assert story(cluster) == before and cluster.healthy()
    assert wait_until(lambda: out_of(cluster) == ["worker-2"], 20)
    cluster.workers[1].resume()
    assert wait_until(lambda: is_whole(cluster), 60), cluster.status()
    assert all_answers(cluster, SHORT) == undisturbed


def test_where_all_that_hold_an_expert_are_lost_it_is_planned_anew(cluster):
    undisturbed = all_answers(cluster, SHORT)
    generation = cluster.status()["generation"]

    def lose_both():
        cluster.workers[1].kill()
        cluster.workers[2].kill()

    assert all_answers(cluster, SHORT, lose_both) == undisturbed
    assert cluster.status()["generation"] > generation
    assert sorted(out_of(cluster)) == ["worker-2", "worker-3"]
    no_blocks_are_lost(cluster)
