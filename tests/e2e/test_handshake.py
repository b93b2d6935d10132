"""Which workers may join a cluster: those with the right key, the same model, and an address that answers."""
import json
import shutil

import pytest

from dialogue import ask, client_of
from local_cluster import ClusterError, wait_until


def key_file(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def refused(make_cluster, **options):
    """Starts a cluster that must not become ready."""
    cluster = make_cluster(2, start=False, **options)
    with pytest.raises(ClusterError):
        cluster.start(timeout_s=6)
    return cluster


def test_nodes_with_one_key_work_together(make_cluster, tmp_path):
    key = key_file(tmp_path / "key", "a key of more than sixteen bytes\n")
    cluster = make_cluster(2, serve_args=("--split", "2,2,2", "--experts", "round_robin:3", "--key-file", key),
                           worker_args=("--key-file", key))
    assert ask(client_of(cluster), "What is the capital of Portugal?")


def test_a_worker_with_another_key_is_refused(make_cluster, tmp_path):
    ours = key_file(tmp_path / "ours", "a key of more than sixteen bytes\n")
    other = key_file(tmp_path / "other", "some other key of the same sort\n")
    cluster = refused(make_cluster, serve_args=("--split", "2,2,2", "--key-file", ours),
                      worker_args=lambda i: ("--key-file", ours if i == 0 else other))
    assert cluster.addresses[1] in cluster.coordinator.log() and "key" in cluster.coordinator.log()
    assert all("sixteen" not in process.log() for process in cluster.processes), "a key must never be printed"


def test_a_worker_with_a_key_refuses_a_coordinator_without_one(make_cluster, tmp_path):
    key = key_file(tmp_path / "key", "a key of more than sixteen bytes\n")
    assert "key" in refused(make_cluster, worker_args=("--key-file", key)).coordinator.log()


def test_another_model_under_the_same_name_is_refused(make_cluster, demo_model, tmp_path):
    """A folder of the same name and sizes, with one other number in its config."""
    other = tmp_path / "root" / demo_model.name
    shutil.copytree(demo_model, other)
    config = json.loads((other / "config.json").read_text())
    config["rope_theta"] = 20000.0
    (other / "config.json").write_text(json.dumps(config))
    log = refused(make_cluster, model_root=other.parent).coordinator.log()
    assert "shoal-demo-4bit" in log and "hash" in log


def test_another_fine_tune_of_the_same_model_is_refused(make_cluster, demo_model, tmp_path):
    """The same config and tensors with other numbers in them: only the weights distinguish the two."""
    other = tmp_path / "root" / demo_model.name
    shutil.copytree(demo_model, other)
    file = other / "model.safetensors"
    weights = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(weights[:8], "little")
    weights[header::64] = bytes(byte ^ 1 for byte in weights[header::64])
    file.write_bytes(weights)
    log = refused(make_cluster, model_root=other.parent).coordinator.log()
    assert str(other) in log and "holds other numbers" in log and "another fine-tune" in log


def test_a_worker_that_lacks_the_model_says_where_it_looked(make_cluster, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused(make_cluster, model_root=empty).coordinator.log()


def test_a_cluster_becomes_ready_when_its_last_worker_appears(make_cluster):
    cluster = make_cluster(2, start=False)
    cluster.workers[0].start()
    cluster.coordinator.start()
    assert not wait_until(cluster.healthy, 2)
    assert cluster.coordinator.alive, cluster.coordinator.log_tail()
    cluster.workers[1].start()
    cluster.wait_ready(30)
    assert "Lisbon" in ask(client_of(cluster), "What is the capital of Portugal?")


def test_two_coordinators_do_not_share_a_port(make_cluster, single):
    cluster = make_cluster(0, start=False, port=single.port)
    cluster.coordinator.start()
    assert cluster.coordinator.popen.wait(20) != 0
    assert str(single.port) in cluster.coordinator.log()
