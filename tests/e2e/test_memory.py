"""A node holds its own part of the model and little else."""
import pytest

from dialogue import QUESTIONS, ask, client_of


@pytest.mark.parametrize("which", ["single", "trio"])
def test_peak_memory_is_weights_and_cache_and_a_bounded_rest(request, which):
    cluster = request.getfixturevalue(which)
    ask(client_of(cluster), QUESTIONS[2], max_tokens=200)
    for process in cluster.processes:
        node = cluster.node(process.name)
        bound = 1.1 * node["memory"]["weights_bytes"] + node["memory"]["kv_bytes"] + 200e6
        assert process.rss_bytes(peak=True) <= bound, (process.name, node["memory"])


def test_three_nodes_share_the_weights_of_one(single, trio):
    def weights(cluster):
        return [cluster.node(p.name)["memory"]["weights_bytes"] for p in cluster.processes]
    whole, parts = sum(weights(single)), weights(trio)
    assert all(0 < part < 0.7 * whole for part in parts), (parts, whole)
