"""Experts that exceed a node's memory stay on its disk, are read when a token wants them, and change no byte."""
import json
import shutil

import pytest

from conftest import LONG_TIMEOUT, SPREAD
from dialogue import QUESTIONS, ask, client_of

pytestmark = pytest.mark.timeout(400)


def expert_bytes(succeed, model):
    """Packed bytes of all routed experts."""
    return json.loads(succeed("plan", "--model", model, "--json"))["nodes"][0]["expert_bytes"]


def texts(cluster):
    client = client_of(cluster, timeout_s=200)
    return [ask(client, question, max_tokens=24, temperature=0.7, seed=3) for question in QUESTIONS[:3]]


@pytest.fixture(scope="module")
def expected(single):
    return texts(single)


def tier_of(cluster, name="coordinator"):
    return cluster.node(name)["expert_tier"]


@pytest.mark.parametrize("packed", ["packed", "off"])
@pytest.mark.parametrize("workers", [0, 2], ids=["one_process", "three_processes"])
def test_a_third_of_the_experts_in_memory_gives_the_same_texts(make_cluster, succeed, demo_model, tmp_path, expected,
                                                               workers, packed):
    limit = expert_bytes(succeed, demo_model) // 3 // (workers + 1)
    def flags(name):
        return ("--expert-memory", limit, "--packed-cache", tmp_path / name if packed == "packed" else "off")
    spread = (*SPREAD, *LONG_TIMEOUT) if workers else ()
    cluster = make_cluster(workers, serve_args=(*spread, *flags("serve")),
                           worker_args=lambda i: flags(f"worker-{i}"))
    assert texts(cluster) == expected
    for process, node in zip(cluster.processes, cluster.status()["nodes"], strict=True):
        tier = node["expert_tier"]
        assert 0 < tier["resident_bytes"] <= limit < tier["total_bytes"]
        assert tier["hits"] > 0 and tier["misses"] > 0
        assert tier["bytes_read"] > tier["resident_bytes"]
        # Where there are files, nothing is packed twice.
        assert (tier["packed_again"] > 0) == (packed == "off")
        assert "experts: " in process.log() and "resident, the rest is read from" in process.log()


def test_files_that_go_while_it_serves_cost_time_alone(make_cluster, succeed, demo_model, tmp_path, expected):
    limit = expert_bytes(succeed, demo_model) // 3
    packed = tmp_path / "packed"
    cluster = make_cluster(0, serve_args=("--expert-memory", limit, "--packed-cache", packed))
    assert texts(cluster)[0] == expected[0]
    assert tier_of(cluster)["packed_again"] == 0
    shutil.rmtree(packed)
    assert texts(cluster) == expected
    assert tier_of(cluster)["packed_again"] > 0
    assert "from the checkpoint from now on" in cluster.coordinator.log()


def test_a_plan_says_what_is_read_and_what_would_fit(run, succeed, demo_model):
    total = expert_bytes(succeed, demo_model)
    node = json.loads(succeed("plan", "--model", demo_model, "--json", "--expert-memory", total // 3))["nodes"][0]
    assert node["expert_bytes"] == total // 3
    assert node["expert_disk_bytes"] == total - total // 3
    text = succeed("plan", "--model", demo_model, "--expert-memory", total // 3)
    assert "at a hit rate of 33 %" in text


@pytest.fixture(scope="module")
def big_model(synthesize):
    """Two layers of Qwen3-30B-A3B: 680 MB of experts, 175 MB of embedding, and little else."""
    return synthesize("B", 2, cacheable=True)


def test_a_model_half_again_as_large_as_the_memory_runs(shoal, run, succeed, big_model, tmp_path, make_cluster):
    node = json.loads(succeed("plan", "--model", big_model, "--json", "--kv-positions", "1024"))["nodes"][0]
    memory = int(node["weight_bytes"] / 1.5)
    refused = run("serve", "--model", big_model, "--memory", memory, "--port", "0", timeout_s=100)
    assert refused.returncode != 0
    assert "--expert-memory" in refused.stderr
    limit = node["expert_bytes"] // 3
    cluster = make_cluster(0, model=big_model, serve_args=(
        "--memory", memory, "--expert-memory", limit, "--packed-cache", tmp_path / "packed", "--kv-positions", "1024",
        *LONG_TIMEOUT), start=False)
    cluster.start(timeout_s=300)
    client = client_of(cluster, timeout_s=200)
    answer = client.completions.create(model=client.models.list().data[0].id, prompt="a b c", max_tokens=8, seed=1)
    assert answer.usage.completion_tokens > 0
    tier = tier_of(cluster)
    assert tier["misses"] > 0
    status = cluster.status()["nodes"][0]
    assert status["weight_bytes"] <= memory
    # What is in memory is what was allowed, and little else.
    assert cluster.coordinator.rss_bytes(peak=True) < 1.1 * status["weight_bytes"] + 200e6
