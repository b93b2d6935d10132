"""Workers without model files: they fetch the tensors of their part from the coordinator, and the answers keep their bytes."""
import subprocess

import pytest

from dialogue import QUESTIONS, ask, client_of
from local_cluster import wait_until

SPREAD = ("--split", "2,2,2", "--experts", "round_robin:3", "--liveness-timeout", "120")


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture
def with_empty_roots(make_cluster, tmp_path, empty):
    """with_empty_roots(workers, serve_args) -> an unstarted cluster whose workers have no model, but a folder each for weights."""
    def make(workers=2, serve_args=SPREAD, more=()):
        return make_cluster(workers, start=False, serve_args=serve_args, model_root=empty,
                            worker_args=lambda i: ("--weights-cache", tmp_path / f"weights-{i + 1}", *more))
    return make


def sent(cluster):
    return cluster.node("coordinator")["weights_sent_bytes"]


def fetched_lines(worker):
    return [line for line in worker.log().splitlines() if "fetched" in line and "of weights" in line]


def said(cluster, words):
    """Starts a cluster that can't come up; the coordinator's log once it has said so."""
    for process in cluster.processes:
        if not process.alive:
            process.start()
    assert wait_until(lambda: words in cluster.coordinator.log(), 30), cluster.coordinator.log_tail()
    return cluster.coordinator.log()


def answers(cluster):
    client = client_of(cluster)
    return [ask(client, question, temperature=heat, seed=seed, max_tokens=60)
            for seed, (question, heat) in enumerate(zip(QUESTIONS[:3], (0, 1.5, 1.0)))]


def test_workers_without_files_answer_like_one_process_and_fetch_once(with_empty_roots, single):
    cluster = with_empty_roots().start()
    assert answers(cluster) == answers(single)
    once = sent(cluster)
    assert once > 1_000_000
    for worker in cluster.workers:
        assert len(fetched_lines(worker)) == 1 and "0 chunks came damaged" in fetched_lines(worker)[0]
        assert "fetching" not in cluster.node(worker.name)
    for worker in cluster.workers:
        worker.kill()
        worker.start()
    assert answers(cluster) == answers(single)
    assert sent(cluster) == once
    for worker in cluster.workers:
        assert "fetched 0 B of weights" in fetched_lines(worker)[-1]


def test_a_worker_killed_at_half_fetches_the_rest(with_empty_roots, single):
    cluster = with_empty_roots(1, ("--split", "1,5", "--liveness-timeout", "120", "--weights-rate", "2MiB"))
    worker = cluster.workers[0]
    worker.start()
    cluster.coordinator.start()
    state = {}

    def at_half():
        try:
            state.update(cluster.node("worker-1").get("fetching", {}))
        except (OSError, StopIteration):
            return False  # Not up yet, or the worker has not told its name.
        return state.get("total_bytes", 0) > 0 and state["bytes"] * 2 >= state["total_bytes"]

    assert wait_until(at_half, 60, pause_s=0.02), worker.log_tail()
    worker.kill()
    assert state["bytes"] < state["total_bytes"] * 0.9, "it was killed too late to show anything"
    worker.start()
    cluster.wait_ready()
    assert answers(cluster) == answers(single)
    rest = int(fetched_lines(worker)[-1].split("(")[1].split(" bytes")[0])
    assert 0 < rest <= state["total_bytes"] - state["bytes"] <= state["total_bytes"] * 0.55, (rest, state)


def test_a_part_that_a_new_plan_adds_is_fetched_and_streams_go_on(with_empty_roots, single):
    cluster = with_empty_roots(2, ("--strategy", "uniform", "--experts", "round_robin:3", "--replan-after", "1")).start()
    expected = answers(single)
    assert answers(cluster) == expected
    before = sent(cluster)
    cluster.workers[1].kill()
    assert answers(cluster) == expected
    assert sent(cluster) > before
    assert cluster.status()["degraded"] and cluster.node("worker-1")["layers"][1] - cluster.node("worker-1")["layers"][0] == 3


def test_a_full_disk_is_an_error_with_numbers(make_cluster, tmp_path, empty):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode != 0:
        pytest.skip("a small file system needs root")
    try:
        cluster = make_cluster(1, start=False, serve_args=("--split", "1,5"), model_root=empty,
                               worker_args=("--weights-cache", disk / "weights"))
        log = said(cluster, "more are needed, on the disk")
        assert "worker 'worker-1'" in log
        cluster.stop()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_who_is_not_to_send_or_to_fetch_says_so(with_empty_roots, empty):
    cluster = with_empty_roots(1, ("--split", "3,3", "--no-send-weights"))
    assert str(empty) in said(cluster, "the coordinator has --no-send-weights")


def test_a_worker_needs_a_place_for_weights_or_files(run):
    done = run("worker", "--weights-cache", "off")
    assert done.returncode == 2 and "--model-root" in done.stderr and "--weights-cache" in done.stderr


def test_a_folder_that_another_worker_has_is_not_shared(with_empty_roots):
    cluster = with_empty_roots()
    at = cluster.workers[1].argv.index("--weights-cache") + 1
    cluster.workers[1].argv[at] = cluster.workers[0].argv[cluster.workers[0].argv.index("--weights-cache") + 1]
    cluster.workers[0].start()
    assert wait_until(lambda: "listens on" in cluster.workers[0].log(), 20)
    cluster.workers[1].start()
    assert wait_until(lambda: "is in use by another process" in cluster.workers[1].log(), 20)
