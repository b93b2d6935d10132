"""`shoal doctor` says what is wrong with a cluster and what to type; serve says before it loads which two nodes can't talk."""
import json
import shutil
import subprocess
import time

import pytest

from black_hole import BlackHole
from dialogue import ask, client_of
from local_cluster import Process, free_ports, wait_until
from test_start import reason


def findings(done):
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return {(one["node"], one["check"]): one for one in report["findings"]}


def key_file(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def make_worker(shoal, demo_model, tmp_path):
    started = []

    def make(name, *more, root=demo_model.parent, port=0):
        argv = [shoal, "worker", "--listen", f"127.0.0.1:{port}", "--name", name, "--model-root", root, "--threads", 1]
        process = Process(name, [*argv, *more], tmp_path / f"{name}.log").start()
        started.append(process)
        assert wait_until(lambda: "worker listens on" in process.log(), 10), process.log_tail()
        return process.log().split("worker listens on ")[1].split(",")[0]

    yield make
    for process in started:
        process.stop()


def test_a_healthy_cluster_is_found_so_with_all_its_links(run, make_worker, demo_model):
    workers = ",".join(make_worker(name) for name in ("w1", "w2"))
    done = run("doctor", "--workers", workers, "--model", demo_model, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(done)
    for worker in ("w1", "w2"):
        for check in ("port", "version", "clock", "cpu", "memory", "limits", "huge pages", "descriptors", "model"):
            assert found[worker, check]["verdict"] != "wrong"
    for link in (("coordinator", "w1"), ("coordinator", "w2"), ("w1", "w2"), ("w2", "w1")):
        assert "us" in found[link[0], f"link to {link[1]}"]["text"] and "MB/s" in found[link[0], f"link to {link[1]}"]["text"]
    lines = run("doctor", "--workers", workers).stdout
    assert "ok" in lines and "link to w2" in lines


def test_each_fault_comes_with_what_to_type(run, make_worker, demo_model, tmp_path):
    ours = key_file(tmp_path / "ours", "a key of more than sixteen bytes\n")
    other = key_file(tmp_path / "other", "some other key of the same sort\n")
    model = tmp_path / "root" / demo_model.name
    shutil.copytree(demo_model, model)
    config = json.loads((model / "config.json").read_text())
    config["rope_theta"] = 20000.0
    (model / "config.json").write_text(json.dumps(config))
    empty = tmp_path / "empty"
    empty.mkdir()
    good = make_worker("good", "--key-file", ours)
    stranger = make_worker("stranger", "--key-file", other)
    changed = make_worker("changed", "--key-file", ours, root=model.parent)
    without = make_worker("without", "--key-file", ours, root=empty)
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    done = run("doctor", "--workers", ",".join((good, stranger, changed, without, nobody)), "--key-file", ours,
               "--model", demo_model, "--json")
    assert done.returncode == 1
    found = findings(done)
    assert "--key-file" in found[stranger, "key"]["remedy"]
    assert "another model" in found["changed", "model"]["text"] and "copy" in found["changed", "model"]["remedy"]
    assert str(empty) in found["without", "model"]["text"]
    assert "shoal worker --listen" in found[nobody, "port"]["remedy"]
    wrong = {place for place, one in found.items() if one["verdict"] == "wrong"}
    assert wrong == {(stranger, "key"), ("changed", "model"), ("without", "model"), (nobody, "port")}
    assert "sixteen" not in done.stdout

    ours.chmod(0o644)
    done = run("doctor", "--workers", good, "--key-file", ours, "--json")
    assert done.returncode == 1 and "chmod 600" in findings(done)["coordinator", "key"]["text"]


def test_health_says_whether_a_coordinator_or_a_worker_is_there(run, trio):
    assert run("health", "--url", trio.url).returncode == 0
    assert run("health", "--worker", trio.addresses[0]).returncode == 0
    for words in (("--url", "http://127.0.0.1:1"), ("--worker", "127.0.0.1:1")):
        done = run("health", *words, "--timeout", 1)
        assert done.returncode == 1 and "127.0.0.1:1" in done.stderr, done


def test_a_running_coordinator_is_asked_for_its_workers(run, trio):
    done = run("doctor", "--url", trio.url, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(done)
    assert "is up" in found["coordinator", "http"]["text"]
    assert found["worker-1", "link to worker-2"]["verdict"] != "wrong"
    done = run("doctor", "--url", f"http://127.0.0.1:{free_ports(1)[0]}", "--json")
    assert done.returncode == 1 and findings(done)["coordinator", "http"]["remedy"]


def test_before_anything_is_loaded_serve_says_which_two_nodes_do_not_reach_each_other(make_cluster):
    """The coordinator reaches each worker; one of them has no way to the other."""
    hole = BlackHole(0).open()
    try:
        # worker-1 lies in a namespace of its own, worker-2 listens on the loopback of this one.
        cluster = make_cluster(2, start=False, hosts={0: hole.there}, prefixes={0: hole.prefix},
                               serve_args=("--insecure", "--strategy", "uniform"), worker_args=("--insecure",))
        for process in cluster.processes:
            process.start()
        assert wait_until(lambda: "does not reach" in reason(cluster), 30), reason(cluster)
        said = reason(cluster)
        assert "'worker-1'" in said and "'worker-2'" in said and cluster.addresses[1] in said
        assert all(node["state"] == "idle" for node in cluster.status()["nodes"][1:])
        assert "loading" not in cluster.workers[0].log() + cluster.workers[1].log()
    finally:
        hole.close()


def test_a_worker_that_comes_back_under_its_name_at_another_address_is_found_soon(make_cluster, tmp_path):
    """Long before the half minute for which gRPC would keep what it looked up."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.2 mini.test\n")
    own_hosts = ("unshare", "-m", "sh", "-c", f"mount --bind {hosts} /etc/hosts && exec \"$@\"", "-")
    if subprocess.run([*own_hosts, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here (needs root)")
    cluster = make_cluster(1, start=False, serve_args=("--strategy", "uniform"))
    worker, coordinator = cluster.workers[0], cluster.coordinator
    port = cluster.addresses[0].rsplit(":", 1)[1]
    coordinator.argv = [*own_hosts, *(f"mini.test:{port}" if word in cluster.addresses else word
                                      for word in coordinator.argv)]
    worker.argv[worker.argv.index(cluster.addresses[0])] = f"127.0.0.2:{port}"
    cluster.start()
    before = ask(client_of(cluster), "What is the capital of Portugal?")
    generation = cluster.status()["generation"]
    worker.kill()
    worker.argv[worker.argv.index(f"127.0.0.2:{port}")] = f"127.0.0.3:{port}"
    worker.start()
    assert wait_until(lambda: "worker listens on" in worker.log().rsplit("$ ", 1)[1], 20)
    hosts.write_text("127.0.0.1 localhost\n127.0.0.3 mini.test\n")
    begin = time.monotonic()
    assert wait_until(lambda: cluster.healthy() and cluster.status()["generation"] > generation, 14), reason(cluster)
    print(f"served again after {time.monotonic() - begin:.1f} s")
    assert ask(client_of(cluster), "What is the capital of Portugal?") == before
