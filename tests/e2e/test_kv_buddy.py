"""A worker with layers is lost, and its buddy has copies of what it cached: streams go on with the same bytes, and their long
prompts are not computed again."""
import re

from dialogue import client_of, model_of, user
from local_cluster import wait_until
from test_kept_blocks import session_of
from test_replan import no_blocks_are_lost, out_of
from test_resume import REQUESTS, Stream, read_all, with_stop_string

BLOCK = 32
# Layers on the coordinator and on worker-1; worker-2 has experts only, and is the buddy.
ARGS = ("--split", "3,3", "--experts", "round_robin", "--replan-as", "balanced", "--speculate", "off", "--threads", "1",
        "--kv-positions", "16384")
SOON = ("--replan-after", "1", "--rejoin-wait", "2")
ONE = ("--threads", "1")
WORDS = " ".join(f"Item {i} of the list is worth {i * i % 97} coins." for i in range(100))
TOKENS = 160
OPTIONS = [dict(request, max_tokens=TOKENS) for request in REQUESTS]


def question(index):
    return f"{index + 1}. {WORDS} What is item {index} worth?"


def answers(cluster, options=OPTIONS, disturb=None):
    """Of streams with long prompts that have nothing in common; `disturb` is called when all of them have begun."""
    reading = [Stream(cluster, question(i % len(OPTIONS)), one) for i, one in enumerate(options)]
    return read_all(reading, disturb, begun_s=60)


def prompt_tokens(cluster):
    client = client_of(cluster, timeout_s=90)
    usages = [client.chat.completions.create(messages=user(question(i)), model=model_of(client), max_tokens=1).usage
              for i in range(len(OPTIONS))]
    return [usage.prompt_tokens for usage in usages]


def copies(cluster):
    return cluster.metrics()["shoal_kv_copies"]


def restored(cluster):
    return cluster.metrics()["shoal_kv_copies_restored_total"]


def copied(cluster, tokens):
    """Each full block of the prompts is on the buddy."""
    blocks = sum(one // BLOCK for one in tokens)
    assert wait_until(lambda: copies(cluster) >= blocks, 60), (blocks, cluster.status())


def rows(cluster):
    return cluster.cache_stats()["rows"]


def test_a_worker_with_layers_is_lost_for_good_without_a_prefill(make_cluster):
    cluster = make_cluster(2, serve_args=(*ARGS, *SOON, "--kv-buddy", "auto"), worker_args=ONE)
    node = cluster.node("worker-1")
    assert node["kv_buddy"]["name"] == "worker-2" and node["kv_buddy"]["bytes_max"] > 0
    assert "kv_buddy" not in cluster.node("worker-2") and "kv_buddy" not in cluster.status()["nodes"][0]
    tokens = prompt_tokens(cluster)
    assert all(one >= 1500 for one in tokens), tokens
    options = with_stop_string(OPTIONS, answers(cluster))
    undisturbed = answers(cluster, options)
    before = rows(cluster)
    assert answers(cluster, options) == undisturbed
    whole = rows(cluster) - before  # The prompts are cached.

    def kill():
        copied(cluster, tokens)
        cluster.workers[0].kill()

    generation = session_of(cluster)
    before = rows(cluster)
    assert answers(cluster, options, kill) == undisturbed
    again = rows(cluster) - before - whole
    assert session_of(cluster) == generation + 1 and out_of(cluster) == ["worker-1"]
    assert restored(cluster) >= sum(one // BLOCK for one in tokens)
    # Of each stream at most what it had generated, and the block of the prompt that was not full: mostly less than 64.
    came, of = map(int, re.search(r"(\d+) of (\d+) blocks and states .* come from its buddy worker-2",
                                  cluster.coordinator.log()).groups())
    assert again <= (of - came) * BLOCK + len(options) * (BLOCK + 3), (again, came, of)
    assert again <= len(options) * (TOKENS + BLOCK), again
    no_blocks_are_lost(cluster)

    # It comes back, and the coordinator has copies for it to keep of nobody: the layers move as by any plan.
    cluster.workers[0].start()
    assert wait_until(lambda: out_of(cluster) == [], 60), cluster.status()
    assert answers(cluster, options) == undisturbed
    no_blocks_are_lost(cluster)


def test_a_worker_that_is_back_in_time_has_its_blocks_from_its_buddy(make_cluster):
    cluster = make_cluster(2, serve_args=(*ARGS, "--replan-after", "60", "--kv-buddy", "auto"), worker_args=ONE)
    tokens = prompt_tokens(cluster)
    undisturbed = answers(cluster)
    before = rows(cluster)
    assert answers(cluster) == undisturbed
    whole = rows(cluster) - before

    def restart():
        copied(cluster, tokens)
        cluster.workers[0].kill()
        cluster.workers[0].start()

    before = rows(cluster)
    assert answers(cluster, disturb=restart) == undisturbed
    assert out_of(cluster) == [] and restored(cluster) >= sum(one // BLOCK for one in tokens)
    assert rows(cluster) - before - whole <= len(OPTIONS) * (TOKENS + BLOCK)
    no_blocks_are_lost(cluster)


def test_where_the_buddy_is_lost_too_all_is_computed_again(make_cluster):
    cluster = make_cluster(2, serve_args=(*ARGS, *SOON, "--kv-buddy", "auto"), worker_args=ONE)
    tokens = prompt_tokens(cluster)
    undisturbed = answers(cluster)
    before = rows(cluster)

    def kill():
        copied(cluster, tokens)
        for worker in cluster.workers:
            worker.kill()

    assert answers(cluster, disturb=kill) == undisturbed
    assert rows(cluster) - before >= sum(tokens)
    assert restored(cluster) == 0
    no_blocks_are_lost(cluster)


def test_what_a_buddy_may_keep_is_a_size_and_needs_a_prefix_cache(run, demo_model):
    done = run("serve", "--model", demo_model, "--port", "0", "--kv-buddy", "much")
    assert done.returncode != 0 and "--kv-buddy" in done.stderr
    done = run("serve", "--model", demo_model, "--port", "0", "--kv-buddy", "auto", "--prefix-cache", "off")
    assert done.returncode != 0 and "--kv-buddy" in done.stderr
