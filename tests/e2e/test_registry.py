"""Workers that find their coordinator by a registry; etcd is Debian's, started here."""
import shutil
import subprocess

import pytest

from dialogue import ask, client_of
from local_cluster import Process, free_ports, wait_until
from test_join import ONE, SPREAD, Home

QUESTION = "What is the capital of Portugal?"


@pytest.fixture
def etcd(tmp_path):
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed: ./dev setup")
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    process = Process("etcd", ["etcd", "--data-dir", tmp_path / "etcd", "--listen-client-urls", client,
                               "--advertise-client-urls", client, "--listen-peer-urls", peer,
                               "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
                      tmp_path / "etcd.log").start()
    yield client.replace("http", "etcd") + "/home"
    process.kill()


def test_a_worker_finds_its_coordinator_by_etcd_and_again_after_that_moved(make_cluster, shoal, demo_model, tmp_path, etcd):
    house = Home(make_cluster, shoal, demo_model, tmp_path, serve_args=("--registry", etcd, *SPREAD))
    try:
        worker = house.worker("w1", join=etcd)  # Before there is a coordinator.
        assert wait_until(lambda: "not joined yet" in worker.log(), 20)
        house.cluster.start()
        assert house.serves_with("w1"), worker.log_tail()
        before = ask(client_of(house.cluster), QUESTION)
        house.cluster.coordinator.stop()
        old, (new,) = f"127.0.0.1:{house.join_port}", free_ports(1)
        argv = house.cluster.coordinator.argv
        argv[argv.index(old)] = f"127.0.0.1:{new}"
        house.cluster.coordinator.start()
        assert house.serves_with("w1"), worker.log_tail()
        assert ask(client_of(house.cluster), QUESTION) == before
    finally:
        for one in house.workers:
            one.stop()


def test_of_several_coordinators_a_worker_takes_none_and_names_them_all(make_cluster, shoal, demo_model, tmp_path, etcd):
    houses = [Home(make_cluster, shoal, demo_model, tmp_path, serve_args=("--registry", etcd, *SPREAD)) for _ in "ab"]
    for house in houses:
        house.cluster.start()
        assert wait_until(lambda log=house.cluster.coordinator.log: "workers find" in log(), 20)
    worker = houses[0].worker("w1", join=etcd)
    try:
        assert wait_until(lambda: "2 coordinators" in worker.log(), 20), worker.log_tail()
        assert all(f"127.0.0.1:{house.join_port}" in worker.log() for house in houses)
    finally:
        worker.stop()


def test_a_cluster_file_names_the_coordinator_to_workers_that_join(make_cluster, shoal, demo_model, tmp_path):
    house = Home(make_cluster, shoal, demo_model, tmp_path)
    path = tmp_path / "home.yaml"
    path.write_text("devices:\n  - {device_id: mini1, role: coordinator, hostname: 127.0.0.1, "
                    f"port: {house.join_port}}}\n")
    try:
        house.cluster.start()
        worker = house.worker("w1", join=path)
        assert house.serves_with("w1"), worker.log_tail()
    finally:
        for one in house.workers:
            one.stop()


def test_without_an_address_the_local_network_is_asked_and_what_lacks_is_said(shoal, demo_model, tmp_path):
    key = tmp_path / "key"
    key.write_text("a key of more than sixteen bytes\n")
    key.chmod(0o600)
    worker = Process("lan", ["env", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere", shoal, "worker", "--model-root",
                             demo_model.parent, "--key-file", key, "--join", *ONE], tmp_path / "lan.log").start()
    try:
        assert wait_until(lambda: "avahi-daemon" in worker.log(), 20), worker.log_tail()
    finally:
        worker.stop()
    done = subprocess.run([shoal, "serve", "--model", demo_model, "--port", "0", "--registry", "dns-sd"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2 and "--join-listen" in done.stderr
