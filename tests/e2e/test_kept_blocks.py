"""A cluster that is rebuilt keeps the KV blocks of layers that stay, and moves those of layers that move: streams go on with
the same bytes, and hardly anything is computed again."""
from local_cluster import wait_until
from test_drain import LONG, drain
from test_replan import SOON, SPREAD, no_blocks_are_lost, out_of, parts
from test_resume import REQUESTS, all_answers, with_stop_string

# Layers on the coordinator and on worker-1; worker-2 has experts only, and nobody else has those.
ARGS = ("--split", "3,3", "--experts", "round_robin", "--speculate", "off", "--threads", "1", *SOON)
SHORT = [dict(request, max_tokens=200) for request in REQUESTS]
BLOCK = 32


def computed(cluster, requests, disturb=None):
    """The answers, and how many rows they took beyond what was found in the cache."""
    before = cluster.cache_stats()
    answers = all_answers(cluster, requests, disturb)
    return answers, cluster.cache_stats()["rows"] - before["rows"]


def session_of(cluster):
    return cluster.status()["generation"]


def test_the_loss_of_an_owner_of_experts_costs_no_prefill(make_cluster):
    cluster = make_cluster(2, serve_args=ARGS, worker_args=("--threads", "1"))
    requests = with_stop_string(SHORT, all_answers(cluster, SHORT))
    undisturbed = all_answers(cluster, requests)
    whole, rows = computed(cluster, requests)  # From here on the prompts are cached.
    assert whole == undisturbed
    generation = session_of(cluster)

    # Of each stream the block that was not full is computed again, and what was in the step that failed.
    most = rows + len(requests) * (BLOCK + 2)
    answers, lost = computed(cluster, requests, cluster.workers[1].kill)
    assert answers == undisturbed
    assert session_of(cluster) == generation + 1 and out_of(cluster) == ["worker-2"]
    assert cluster.cache_stats()["restarts"] >= 1
    kept = cluster.cache_stats()["prefix_cache"]["kept"]
    assert kept >= len(requests) and cluster.metrics()["shoal_kv_blocks_kept_total"] == kept
    assert lost <= most, (lost, rows)
    no_blocks_are_lost(cluster)

    # And so does its return, while streams run or after.
    cluster.workers[1].start()
    assert wait_until(lambda: out_of(cluster) == [], 60), cluster.status()
    answers, again = computed(cluster, requests)
    assert answers == undisturbed
    assert again <= rows + len(requests)  # The prompts are still there.
    assert cluster.cache_stats()["prefix_cache"]["kept"] > kept
    no_blocks_are_lost(cluster)


def test_blocks_move_with_the_layers_of_a_node_that_is_drained_and_back(make_cluster, shoal):
    quiet = ("--speculate", "off", "--threads", "1", *SOON)
    cluster = make_cluster(2, serve_args=(*SPREAD, *quiet), worker_args=("--threads", "1"))
    all_answers(cluster, LONG)
    whole = parts(cluster)
    undisturbed, rows = computed(cluster, LONG)  # The prompts are cached.
    most = rows + len(LONG) * (BLOCK + 3)

    answers, moved = computed(cluster, LONG, lambda: drain(shoal, cluster, "worker-1"))
    assert answers == undisturbed and out_of(cluster) == ["worker-1"]
    assert cluster.cache_stats()["restarts"] >= 1
    assert moved <= most, (moved, rows, cluster.workers[1].log(), cluster.coordinator.log())
    assert cluster.cache_stats()["prefix_cache"]["kept"] > 0

    answers, moved = computed(cluster, LONG, lambda: drain(shoal, cluster, "worker-1", "--undo"))
    assert answers == undisturbed and parts(cluster) == whole
    assert moved <= most, (moved, rows, cluster.workers[0].log(), cluster.coordinator.log())
    no_blocks_are_lost(cluster)


def test_a_stage_that_has_lost_its_blocks_has_all_computed_again(make_cluster):
    cluster = make_cluster(2, serve_args=ARGS, worker_args=("--threads", "1"))
    undisturbed = all_answers(cluster, SHORT)

    def restart():
        cluster.workers[0].kill()
        cluster.workers[0].start()

    assert all_answers(cluster, SHORT, restart) == undisturbed
    assert cluster.cache_stats()["prefix_cache"]["kept"] == 0
    no_blocks_are_lost(cluster)
