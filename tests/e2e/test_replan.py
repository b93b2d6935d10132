"""A worker that stays away: the others do its part, with the bytes of an undisturbed run, and it is taken in again when it is back."""
import concurrent.futures
import json
import threading
import time

import openai
import pytest

from black_hole import BlackHole
from dialogue import NEVER_END, QUESTIONS, ask, client_of, model_of, user
from local_cluster import get_text, wait_until
from test_resume import REQUESTS as LONG_REQUESTS, Stream, all_answers, with_stop_string

REQUESTS = [dict(request, max_tokens=150) for request in LONG_REQUESTS]
# Layers and experts on all three; any of them may be lost.
SPREAD = ("--strategy", "uniform", "--experts", "round_robin:3")
SOON = ("--replan-after", "1", "--rejoin-wait", "2")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
          "required": ["city", "size"], "additionalProperties": False}


def further_answers(cluster):
    """Answers with log-probabilities, and of a schema: greedy and sampled."""
    client = client_of(cluster, timeout_s=90)
    options = dict(messages=user(QUESTIONS[2]), model=model_of(client))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ranked = pool.submit(client.chat.completions.create, logprobs=True, top_logprobs=3, max_tokens=100,
                             temperature=0.7, seed=3, logit_bias=NEVER_END, **options)
        shaped = [pool.submit(client.chat.completions.create, max_tokens=80, temperature=heat, seed=4,
                              response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
                              **options) for heat in (0, 1.0)]
        texts = [answer.result().choices[0] for answer in (ranked, *shaped)]
    return [(choice.message.content, choice.finish_reason, choice.logprobs and choice.logprobs.model_dump())
            for choice in texts]


def everything(cluster, requests, disturb=None):
    """all_answers() and further_answers() at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        further = pool.submit(further_answers, cluster)
        answers = all_answers(cluster, requests, disturb)
        return answers, further.result()


@pytest.fixture
def black_hole():
    hole = BlackHole(0).open()
    yield hole
    hole.close()


def start(make_cluster, serve_args=SPREAD + SOON, **options):
    """Each process has one thread: on a crowded machine, two that wait for each other are slow."""
    one = ("--threads", "1")
    return make_cluster(2, serve_args=(*serve_args, *one), worker_args=one, **options)


def out_of(cluster):
    """The nodes that the plan does without; None while no session is up."""
    try:
        status, body = get_text(cluster.url + "/health")
    except OSError:
        return None  # Not started yet.
    return json.loads(body).get("nodes_out", []) if status == 200 else None


def parts(cluster):
    """Layers and experts by node, of those that have any."""
    return {node["name"]: (node["layers"], node["experts"]) for node in cluster.status()["nodes"] if node["layers"]}


def no_blocks_are_lost(cluster):
    def counted():
        blocks = cluster.cache_stats()["blocks"]
        return blocks["used"] == 0 and blocks["free"] + blocks["cached"] == blocks["total"]
    assert wait_until(counted, 10), cluster.cache_stats()


def is_whole(cluster):
    return out_of(cluster) == [] and set(parts(cluster)) == {"coordinator", "worker-1", "worker-2"}


@pytest.mark.parametrize("lost", [[0], [1], [0, 1]], ids=["middle", "last", "both"])
def test_streams_go_on_without_workers_that_stay_away(make_cluster, lost):
    cluster = start(make_cluster)
    requests = with_stop_string(REQUESTS, all_answers(cluster, REQUESTS))
    undisturbed = everything(cluster, requests)
    assert undisturbed[0][-1][1] == "stop"
    whole = parts(cluster)
    names = [cluster.workers[i].name for i in lost]

    def lose():
        for i in lost:
            cluster.workers[i].kill()

    assert everything(cluster, requests, lose) == undisturbed
    assert out_of(cluster) == names
    status = cluster.status()
    assert status["status"] == "up" and status["degraded"]
    for name in names:
        node = cluster.node(name)
        assert node["layers"] is None and node["experts"] == 0 and node["state"] == "lost"
        assert node["out"]["since"] > time.time() - 120 and "connect" in node["out"]["why"].lower()
    assert any(note.startswith("without '") for note in status["plan"]), status["plan"]
    assert cluster.metrics()["shoal_nodes_out"] == len(lost)
    no_blocks_are_lost(cluster)
    assert all_answers(cluster, REQUESTS) == undisturbed[0][:len(REQUESTS)]

    for i in lost:
        cluster.workers[i].start()
    assert wait_until(lambda: is_whole(cluster), 60), cluster.status()
    assert parts(cluster) == whole and not cluster.status()["degraded"]
    assert cluster.metrics()["shoal_nodes_out"] == 0
    assert everything(cluster, requests) == undisturbed
    no_blocks_are_lost(cluster)
    log = cluster.coordinator.log()
    for name in names:
        assert log.count(f"node '{name}' is left out of the plan") == 1
        assert log.count(f"node '{name}' takes part again") == 1


def test_a_worker_is_taken_in_again_while_streams_run_which_keep_their_bytes(make_cluster):
    cluster = start(make_cluster, serve_args=SPREAD + ("--replan-after", "0", "--rejoin-wait", "0"))
    undisturbed = all_answers(cluster, REQUESTS)

    def keep_asking(i, whole):
        answers = []
        while not whole.is_set():
            answers.append(Stream(cluster, QUESTIONS[i], REQUESTS[i]).read())
        return answers

    restarts = cluster.cache_stats()["restarts"]
    for _ in range(3):  # The change may fall between two streams.
        cluster.workers[1].kill()
        assert wait_until(lambda: out_of(cluster) == ["worker-2"], 60)
        whole = threading.Event()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asking = [pool.submit(keep_asking, i, whole) for i in range(len(REQUESTS))]
            cluster.workers[1].start()
            taken_in = wait_until(lambda: is_whole(cluster), 60)
            whole.set()
            answers = [one.result() for one in asking]
        assert taken_in, cluster.status()
        for i, texts in enumerate(answers):
            assert texts == [undisturbed[i]] * len(texts)
        no_blocks_are_lost(cluster)
        if cluster.cache_stats()["restarts"] > restarts:
            return
    raise AssertionError("no change met a stream")


def test_a_worker_that_restarts_at_once_or_hangs_for_a_while_is_not_left_out(make_cluster):
    cluster = start(make_cluster, serve_args=SPREAD)
    whole = parts(cluster)
    undisturbed = all_answers(cluster, REQUESTS)

    def hang():
        cluster.workers[1].pause()
        time.sleep(2)
        cluster.workers[1].resume()

    losses = cluster.cache_stats()["engine_losses"]
    assert all_answers(cluster, REQUESTS, hang) == undisturbed
    assert cluster.cache_stats()["engine_losses"] == losses and parts(cluster) == whole

    def restart():
        cluster.workers[0].kill()
        cluster.workers[0].start()

    assert all_answers(cluster, REQUESTS, restart) == undisturbed
    assert parts(cluster) == whole and "left out" not in cluster.coordinator.log()


def test_a_flapping_worker_is_kept_out_and_the_others_serve(make_cluster):
    cluster = start(make_cluster)
    before = ask(client_of(cluster), QUESTIONS[2])
    worker = cluster.workers[1]
    for _ in range(3):
        assert wait_until(lambda: out_of(cluster) == [], 60), cluster.status()
        generation = cluster.status()["generation"]
        worker.kill()
        worker.start()
        assert wait_until(lambda generation=generation: cluster.status()["generation"] > generation, 20)
        assert ask(client_of(cluster), QUESTIONS[2]) == before
    assert wait_until(lambda: out_of(cluster) == ["worker-2"], 60), cluster.status()
    # It answers, but has gone away too often to count.
    assert wait_until(lambda: cluster.node("worker-2")["state"] in ("idle", "ready"), 20)
    assert "went away 3 times" in cluster.node("worker-2")["out"]["why"]
    generation = cluster.status()["generation"]
    for _ in range(3):
        worker.kill()
        worker.start()
        assert ask(client_of(cluster), QUESTIONS[2]) == before
    assert cluster.status()["generation"] == generation and out_of(cluster) == ["worker-2"]
    no_blocks_are_lost(cluster)


def reason(cluster):
    return json.loads(get_text(cluster.url + "/health")[1]).get("reason", "")


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "split"])
def test_where_the_others_cannot_do_without_a_worker_it_is_said_and_its_return_heals(make_cluster, memory):
    placement = ("--split", "2,2,2") if not memory else SPREAD + ("--memory", "5632KiB", "--kv-positions", "2048")
    cluster = start(make_cluster, serve_args=placement + SOON)
    before = ask(client_of(cluster), QUESTIONS[2])
    for worker in cluster.workers:
        worker.kill()
    said = "lacks" if memory else "the split 2,2,2 gives node 'worker-1' 2 layers"
    assert wait_until(lambda: said in reason(cluster), 40), reason(cluster)
    assert "can't do without 'worker-1' and 'worker-2'" in reason(cluster)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client_of(cluster), QUESTIONS[2])
    assert caught.value.status_code == 503 and said in caught.value.message and "worker-1" in caught.value.message
    for worker in cluster.workers:
        worker.start()
    cluster.wait_ready(40)
    assert is_whole(cluster) and ask(client_of(cluster), QUESTIONS[2]) == before


def test_a_split_is_given_up_where_the_flag_says_so(make_cluster):
    cluster = start(make_cluster, serve_args=("--split", "2,2,2", "--replan-as", "balanced", *SOON))
    before = ask(client_of(cluster), QUESTIONS[2])
    cluster.workers[0].kill()
    assert wait_until(lambda: out_of(cluster) == ["worker-1"], 40), cluster.status()
    assert ask(client_of(cluster), QUESTIONS[2]) == before
    cluster.workers[0].start()
    assert wait_until(lambda: is_whole(cluster), 40), cluster.status()
    assert {layers[1] - layers[0] for layers, _ in parts(cluster).values()} == {2}
    assert ask(client_of(cluster), QUESTIONS[2]) == before


def test_never_waits_for_the_worker(make_cluster):
    cluster = start(make_cluster, serve_args=SPREAD + ("--replan-after", "never"))
    cluster.workers[0].kill()
    assert wait_until(lambda: not cluster.healthy(), 20)
    time.sleep(4)  # Longer than in the tests above.
    assert not cluster.healthy() and "left out" not in cluster.coordinator.log()
    cluster.workers[0].start()
    cluster.wait_ready(40)
    assert is_whole(cluster)


def test_a_cluster_starts_without_a_worker_that_is_away_and_takes_it_in(make_cluster):
    cluster = start(make_cluster, start=False)
    cluster.workers[0].start()
    cluster.coordinator.start()
    assert wait_until(lambda: out_of(cluster) == [cluster.addresses[1]], 40)
    before = ask(client_of(cluster), QUESTIONS[2])
    cluster.workers[1].start()
    assert wait_until(lambda: is_whole(cluster), 40), cluster.status()
    assert ask(client_of(cluster), QUESTIONS[2]) == before


def test_a_coordinator_that_started_alone_is_reached_by_a_worker_on_another_machine(make_cluster, black_hole):
    cluster = make_cluster(1, start=False, serve_args=(*SOON, "--strategy", "uniform", "--insecure"),
                           worker_args=("--insecure",), **black_hole.around_last(1))
    cluster.coordinator.start()
    assert wait_until(lambda: out_of(cluster) == cluster.addresses, 40)
    before = ask(client_of(cluster), QUESTIONS[2])
    cluster.workers[0].start()
    assert wait_until(lambda: out_of(cluster) == [] and set(parts(cluster)) == {"coordinator", "worker-1"}, 40)
    assert ask(client_of(cluster), QUESTIONS[2]) == before
    black_hole.swallow()
    assert ask(client_of(cluster), QUESTIONS[2]) == before
    assert wait_until(lambda: out_of(cluster) == ["worker-1"], 40)
    black_hole.release()
    assert wait_until(lambda: out_of(cluster) == [], 40)
    assert ask(client_of(cluster), QUESTIONS[2]) == before


def test_what_replan_after_may_not_be_is_refused(run, demo_model):
    done = run("serve", "--model", demo_model, "--port", 0, "--replan-after", "soon")
    assert done.returncode != 0 and "--replan-after 'soon'" in done.stderr
