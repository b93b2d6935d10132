"""A node's memory is its shard of the model and little else."""
import json
import os
import subprocess

import pytest

from dialogue import QUESTIONS, ask, client_of


def kv_bytes(status, node, config):
    """Bytes of the keys and values of the node's layers, for all positions of the cache, in f16."""
    assert status["cache"]["dtype"] == "f16"
    begin, end = node["layers"] or (0, 0)
    positions = status["cache"]["blocks"] * status["cache"]["positions_per_block"]
    return (end - begin) * positions * 2 * config["num_key_value_heads"] * config["head_dim"] * 2


@pytest.mark.parametrize("which", ["single", "trio"])
def test_peak_memory_is_weights_and_cache_and_a_bounded_rest(request, demo_model, which):
    cluster = request.getfixturevalue(which)
    config = json.loads((demo_model / "config.json").read_text())
    ask(client_of(cluster), QUESTIONS[2], max_tokens=200)
    status = cluster.status()
    for process, node in zip(cluster.processes, status["nodes"], strict=True):
        assert node["weight_bytes"] > 0
        bound = 1.1 * node["weight_bytes"] + kv_bytes(status, node, config) + 200e6
        assert process.rss_bytes(peak=True) <= bound, node


def test_three_nodes_share_the_weights_of_one(single, trio):
    def weights(cluster):
        return [node["weight_bytes"] for node in cluster.status()["nodes"]]
    whole, shards = sum(weights(single)), weights(trio)
    assert all(0 < shard < 0.7 * whole for shard in shards), (shards, whole)
    # Only the embedding is held twice: by the first stage, and by the last one as its tied head.
    assert sum(shards) < 1.3 * whole


@pytest.fixture(scope="session")
def wide_model(synthesize):
    """Two layers of Qwen3-1.7B and its embedding: 230 MB packed."""
    return synthesize("A", 2, cacheable=True)


def test_peak_memory_of_both_starts_is_the_packed_weights_and_a_bounded_rest(shoal, wide_model, tmp_path):
    for start in ("first", "second"):
        run = subprocess.Popen([shoal, "run", "--model", wide_model, "--prompt", "a", "--max-tokens", "1", "--json",
                                "--packed-cache", tmp_path / "packed"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out = run.stdout.read()
        _, code, usage = os.wait4(run.pid, 0)
        assert code == 0
        load = json.loads(out)["load"]
        assert load["from_packed_cache"] == (start == "second")
        assert load["packed_bytes"] > 220e6
        # One block of the cache, 32 positions of two layers, is 0.26 MB.
        assert usage.ru_maxrss * 1024 <= 1.1 * load["packed_bytes"] + 200e6, start
