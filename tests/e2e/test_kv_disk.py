"""Blocks of the KV cache outlive the process on its disk, and no byte of an answer depends on it."""
import os
import shutil
import subprocess

import pytest

from dialogue import NEVER_END, QUESTIONS, client_of, model_of
from local_cluster import LocalCluster, wait_until

HEAD = "You are a helpful assistant. " + " ".join(
    f"Rule {i}: {question}" for i, question in enumerate(QUESTIONS * 3))

pytestmark = pytest.mark.timeout(400)


def messages(turns, texts):
    """The conversation up to question `turns`, with the answers before it."""
    said = [{"role": "system", "content": HEAD}]
    for turn in range(turns + 1):
        said.append({"role": "user", "content": QUESTIONS[turn]})
        if turn < turns:
            said.append({"role": "assistant", "content": texts[turn]})
    return said


def ask(cluster, turn, texts):
    """The answer to a turn, and its usage."""
    client = client_of(cluster, timeout_s=200)
    answer = client.chat.completions.create(model=model_of(client), messages=messages(turn, texts), max_tokens=12,
                                            temperature=0.8, seed=turn, logit_bias=NEVER_END)
    return answer.choices[0].message.content, answer.usage


@pytest.fixture(scope="module")
def expected(shoal, demo_model, tmp_path_factory):
    """The answers of a server without any cache."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 0,
                      serve_args=("--prefix-cache", "off")) as cluster:
        texts = []
        for turn in range(4):
            texts.append(ask(cluster, turn, texts)[0])
        return texts


def disk(cluster):
    return cluster.cache_stats()["kv_disk"]


def settle(cluster):
    """Waits until all that is cached is on the disks of all nodes."""
    def done():
        stats = cluster.cache_stats()
        return stats["kv_disk"]["blocks"] >= stats["blocks"]["cached"]
    assert wait_until(done, 60), cluster.cache_stats()


class Server:
    """Starts a cluster again and again, with the same folders."""

    def __init__(self, make_cluster, folder, workers=0):
        self.make_cluster, self.folder, self.workers = make_cluster, folder, workers
        self.cluster = None

    def flags(self, name, size):
        return ("--kv-disk", size, "--kv-disk-dir", self.folder / name)

    def start(self, *more, size="1GiB", active=True, **options):
        if self.cluster is not None:
            self.cluster.stop()
        spread = ("--split", "2,2,2", "--experts", "round_robin:3") if self.workers else ()
        # A draft that is wrong is a row more, and rows are counted here.
        exact = ("--speculate", "off")
        self.cluster = self.make_cluster(self.workers, serve_args=(*spread, *exact, *self.flags("serve", size), *more),
                                         worker_args=lambda i: self.flags(f"worker-{i}", size), **options)
        # The nodes tell what they have a moment after they are up.
        if active:
            assert wait_until(lambda: disk(self.cluster)["active"], 60)
        return self.cluster

    def files(self, name="serve"):
        return sorted((self.folder / name).rglob("*.kv"))


@pytest.mark.parametrize("workers", [0, 2], ids=["one_process", "three_processes"])
def test_after_a_restart_the_next_turn_starts_behind_the_head(make_cluster, tmp_path, expected, workers):
    server = Server(make_cluster, tmp_path, workers)
    texts, before = [], 0
    for turn in range(4):
        cluster = server.start()
        if turn > 0:
            assert wait_until(lambda: disk(cluster)["blocks"] > 0, 60)
        text, usage = ask(cluster, turn, texts)
        assert text == expected[turn]
        texts.append(text)
        cached = usage.prompt_tokens_details.cached_tokens
        # The answer before counts as new: its text, sent back, may be other tokens than the model gave.
        assert cached >= before - 32
        assert turn == 0 or cached > 300
        assert disk(cluster)["tokens_restored"] == cached
        assert cluster.cache_stats()["rows"] == usage.prompt_tokens - cached + usage.completion_tokens - 1
        before = usage.prompt_tokens
        settle(cluster)
        assert disk(cluster)["errors"] == disk(cluster)["failures"] == 0
        if turn > 0:
            metrics = cluster.metrics()
            assert metrics["shoal_kv_disk_tokens_restored_total"] == cached
            assert metrics["shoal_kv_disk_blocks"] == disk(cluster)["blocks"]
            assert disk(cluster)["bytes"] > 0 and disk(cluster)["hits"] == 1


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(data)


def cut(file):
    file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2])


@pytest.mark.parametrize("harm", [flip, cut, lambda file: file.unlink(), lambda file: file.write_bytes(b"")],
                         ids=["flipped", "cut", "gone", "empty"])
def test_damaged_files_cost_time_and_nothing_else(make_cluster, tmp_path, expected, harm):
    server = Server(make_cluster, tmp_path)
    cluster = server.start()
    assert ask(cluster, 0, expected)[0] == expected[0]
    settle(cluster)
    cluster = server.start()
    assert wait_until(lambda: disk(cluster)["blocks"] > 0, 60)
    for file in server.files():
        harm(file)
    text, usage = ask(cluster, 1, expected)
    assert text == expected[1] and usage.prompt_tokens_details.cached_tokens == 0
    assert wait_until(lambda: disk(cluster)["errors"] > 0, 20) and disk(cluster)["failures"] == 1
    assert "kv disk: deleted" in cluster.coordinator.log()


def test_files_of_one_damaged_node_of_three_are_not_used(make_cluster, tmp_path, expected):
    server = Server(make_cluster, tmp_path, 2)
    cluster = server.start()
    ask(cluster, 0, expected)
    settle(cluster)
    cluster = server.start()
    assert wait_until(lambda: disk(cluster)["blocks"] > 0, 60)
    for file in server.files("worker-1"):
        flip(file)
    text, usage = ask(cluster, 1, expected)
    assert text == expected[1] and usage.prompt_tokens_details.cached_tokens == 0
    assert "kv disk: deleted" in cluster.workers[1].log()


def test_a_copy_of_the_model_does_not_take_the_blocks_of_another(make_cluster, tmp_path, demo_model, expected):
    server = Server(make_cluster, tmp_path)
    cluster = server.start()
    ask(cluster, 0, expected)
    settle(cluster)
    copy = tmp_path / "copies" / demo_model.name
    shutil.copytree(demo_model, copy)  # Other files: nothing says that they will stay equal.
    cluster = server.start(model=copy)
    text, usage = ask(cluster, 1, expected)
    assert text == expected[1] and usage.prompt_tokens_details.cached_tokens == 0
    assert disk(cluster)["errors"] == 0


def test_two_processes_with_one_folder_do_not_meet(make_cluster, tmp_path, expected):
    server = Server(make_cluster, tmp_path)
    first = server.start()
    ask(first, 0, expected)
    settle(first)
    second = make_cluster(0, serve_args=server.flags("serve", "1GiB"))
    assert f"in use by another process ({first.coordinator.pid})" in second.coordinator.log()
    assert not disk(second)["active"]
    for cluster in (first, second):
        assert ask(cluster, 1, expected)[0] == expected[1]
    assert disk(first)["errors"] == 0


def test_a_folder_that_cannot_be_made_is_a_line_in_the_log(make_cluster, tmp_path, expected):
    (tmp_path / "serve").write_text("a file")
    server = Server(make_cluster, tmp_path)
    cluster = server.start(active=False)
    assert "kv disk: off" in cluster.coordinator.log()
    assert ask(cluster, 0, expected)[0] == expected[0]


def mounts():
    """Whether this process may mount."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True,
                                                check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 KB."""
    folder = tmp_path / "serve"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(not mounts(), reason="needs to mount")
def test_a_full_disk_is_a_line_in_the_log(make_cluster, tmp_path, expected, small_disk):
    server = Server(make_cluster, tmp_path)
    cluster = server.start()
    for turn in range(2):
        assert ask(cluster, turn, expected)[0] == expected[turn]
    assert wait_until(lambda: "nothing is written for" in cluster.coordinator.log(), 30)
    assert disk(cluster)["dropped"] > 0
    assert not list(small_disk.rglob("*.partial"))
    # What fitted is used.
    cluster = server.start()
    text, usage = ask(cluster, 2, expected)
    assert text == expected[2] and usage.prompt_tokens_details.cached_tokens > 0
    cluster.stop()


@pytest.mark.skipif(not mounts(), reason="needs to mount")
def test_a_read_only_disk_is_a_line_in_the_log(make_cluster, tmp_path, expected, small_disk):
    server = Server(make_cluster, tmp_path)
    server.start().stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    cluster = server.start(active=False)
    assert "kv disk: off: cannot open" in cluster.coordinator.log()
    assert ask(cluster, 0, expected)[0] == expected[0]
    cluster.stop()


def test_the_bound_is_kept_while_blocks_come_and_go(make_cluster, tmp_path, expected):
    server = Server(make_cluster, tmp_path)
    # Room for one conversation in memory, and for less than one on disk.
    cluster = server.start("--kv-positions", "1024", size="600KB")
    for _ in range(2):
        for turn in (0, 3, 1):
            assert ask(cluster, turn, expected)[0] == expected[turn]
    settled = cluster.cache_stats()
    assert settled["blocks"]["used"] == 0
    cluster.stop()
    bytes_on_disk = sum(file.stat().st_size for file in server.files())
    assert 0 < bytes_on_disk <= 600_000
    assert ask(server.start(size="600KB"), 2, expected)[0] == expected[2]


def test_blocks_that_memory_has_no_room_for_come_back_from_disk(make_cluster, tmp_path, expected):
    server = Server(make_cluster, tmp_path)
    cluster = server.start("--kv-positions", "1024")
    assert ask(cluster, 0, expected)[0] == expected[0]
    client = client_of(cluster, timeout_s=200)
    client.completions.create(model=model_of(client), prompt=[7] * 1000, max_tokens=4)  # Takes all of the memory.
    before = disk(cluster)["tokens_restored"]
    text, usage = ask(cluster, 1, expected)
    assert text == expected[1]
    assert cluster.cache_stats()["prefix_cache"]["evictions"] > 0
    assert usage.prompt_tokens_details.cached_tokens > 300
    assert disk(cluster)["tokens_restored"] > before


def test_a_size_that_is_none_is_refused(run, demo_model):
    done = run("serve", "--model", demo_model, "--port", "0", "--kv-disk", "much")
    assert done.returncode != 0 and "--kv-disk" in done.stderr
    done = run("serve", "--model", demo_model, "--port", "0", "--kv-disk", "1GiB", "--prefix-cache", "off")
    assert done.returncode != 0 and "--prefix-cache" in done.stderr
