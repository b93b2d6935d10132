"""A node holds its own part of the model and little else."""
import json

import pytest

from dialogue import QUESTIONS, ask, client_of


def kv_bytes(status, node, config):
    """Keys and values of the node's layers, for all positions of the cache, in two bytes each (f16)."""
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
    whole, parts = sum(weights(single)), weights(trio)
    assert all(0 < part < 0.7 * whole for part in parts), (parts, whole)
    # Only the embedding is held twice: the first stage looks up, the last one is tied to it.
    assert sum(parts) < 1.3 * whole
