"""Clusters from a cluster file, whose keys are described in docs/operations.md."""
import json

import pytest

from dialogue import ask, client_of
from local_cluster import ClusterError


def devices(cluster, **capabilities):
    coordinator = {"device_id": "first", "role": "coordinator", "capabilities": {"memory_gb": 16, "gpu_cores": 10}}
    workers = []
    for process, address in zip(cluster.workers, cluster.addresses):
        host, port = address.rsplit(":", 1)
        workers.append({"device_id": process.name, "hostname": host, "port": int(port), "role": "worker",
                        "capabilities": {"memory_gb": 8, "gpu_cores": 8, **capabilities}})
    return [coordinator, *workers]


def as_yaml(value, indent=0):
    """YAML: block style for maps and lists, and JSON, which is also YAML, for the rest."""
    pad = " " * indent
    if isinstance(value, dict):
        return "".join(f"{pad}{key}:\n{as_yaml(item, indent + 2)}" if isinstance(item, dict | list)
                       else f"{pad}{key}: {json.dumps(item)}\n" for key, item in value.items())
    return "".join(f"{pad}-\n{as_yaml(item, indent + 2)}" if isinstance(item, dict | list)
                   else f"{pad}- {json.dumps(item)}\n" for item in value)


@pytest.fixture
def from_file(make_cluster, demo_model, tmp_path):
    """from_file(name, sharding, ...) -> an unstarted cluster of three, whose coordinator reads the file `name`."""
    def make(name, sharding, **capabilities):
        cluster = make_cluster(2, start=False)
        described = {"devices": devices(cluster, **capabilities), "model": {"name": demo_model.name}, "sharding": sharding}
        path = tmp_path / name
        path.write_text(json.dumps(described) if name.endswith(".json") else as_yaml(described))
        shoal = cluster.coordinator.argv[0]
        cluster.coordinator.argv = [shoal, "serve", "--cluster", str(path), "--model-root", str(demo_model.parent),
                                    "--port", str(cluster.port)]
        return cluster
    return make


@pytest.mark.parametrize("name", ["cluster.json", "cluster.yaml"])
def test_a_cluster_file_places_layers_and_experts(from_file, name):
    cluster = from_file(name, {"strategy": "custom", "custom_proportions": [0.5, 0.17, 0.33]}).start()
    nodes = cluster.status()["nodes"]
    assert [(node["name"], node["layers"]) for node in nodes] == [("first", [0, 3]), ("worker-1", [3, 4]), ("worker-2", [4, 6])]
    assert "Lisbon" in ask(client_of(cluster), "What is the capital of Portugal?")


def test_an_unknown_key_is_refused_with_the_nearest_known_one(from_file):
    cluster = from_file("cluster.json", {"strategy": "uniform"}, memory_bg=8)
    with pytest.raises(ClusterError) as caught:
        cluster.start()
    assert "cluster.json" in str(caught.value) and "memory_bg" in str(caught.value) and "memory_gb" in str(caught.value)


def test_proportions_that_do_not_sum_to_one_are_refused(from_file):
    cluster = from_file("cluster.json", {"strategy": "custom", "custom_proportions": [0.5, 0.2, 0.2]})
    with pytest.raises(ClusterError, match="0.9"):
        cluster.start()
