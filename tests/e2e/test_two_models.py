"""One worker serves two models, at the same time or in turn, each for a coordinator of its own."""
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import LONG_TIMEOUT
from dialogue import QUESTIONS, ask, client_of
from fine_tune import tuned

SHARED = ("--split", "3,3", "--experts", "round_robin:2") + LONG_TIMEOUT


@pytest.fixture
def two_models(demo_model, tmp_path):
    """The demo model, and one with other rotary frequencies, which therefore says something else."""
    root = tmp_path / "models"
    folders = [root / "first", root / "second"]
    for folder in folders:
        shutil.copytree(demo_model, folder)
    config = folders[1] / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "rope_theta": values["rope_theta"] / 2}))
    return folders


def answers_of(cluster):
    client = client_of(cluster)
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda question: ask(client, question), QUESTIONS[:6]))


def test_a_worker_serves_two_models_at_the_same_time(make_cluster, two_models):
    alone = []
    for model in two_models:
        cluster = make_cluster(0, model=model)
        alone.append(answers_of(cluster))
        cluster.stop()
    assert alone[0] != alone[1]

    first = make_cluster(1, model=two_models[0], serve_args=SHARED)
    worker = first.addresses[0]
    second = make_cluster(0, model=two_models[1], serve_args=("--workers", worker, *SHARED))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(answers_of, (first, second))) == alone
    assert first.node("worker-1")["expert_calls_served"] > 0

    second.stop()
    assert answers_of(first) == alone[0]


def test_a_worker_that_holds_one_fine_tune_loads_the_other(make_cluster, demo_model, tmp_path):
    """Their hashes are the same, and so are the shards: only the weights tell them apart."""
    root = tmp_path / "models"
    folders = [shutil.copytree(demo_model, root / "base"), tuned(demo_model, root / "tuned")]

    def answer_of(cluster):
        return ask(client_of(cluster), QUESTIONS[2], max_tokens=16)

    alone = []
    for model in folders:
        cluster = make_cluster(0, model=model)
        alone.append(answer_of(cluster))
        cluster.stop()
    assert alone[0] != alone[1]

    first = make_cluster(1, model=folders[0], serve_args=SHARED)
    assert answer_of(first) == alone[0]
    first.coordinator.stop()
    second = make_cluster(0, model=folders[1], serve_args=("--workers", first.addresses[0], *SHARED))
    assert answer_of(second) == alone[1]
    assert second.node("worker-1")["expert_calls_served"] > 0
