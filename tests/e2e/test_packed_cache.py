"""The packed cache keeps weights for the next start, and never changes an answer."""
import json
import os
import shutil
import subprocess
import time

import pytest

from local_cluster import wait_until

# Of the demo model: six layers with 16 experts each; its head is its embedding.
UNITS = sorted(["embedding"] + [f"layer {i}" for i in range(6)]
               + [f"experts [{e}, {e + 8}) of layer {i}" for i in range(6) for e in (0, 8)])
SPREADS = [(), ("--split", "3,2,1"), ("--split", "2,2,2", "--experts-over", "3")]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "packed"


@pytest.fixture(scope="session")
def ids_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ids") / "ids.json"
    path.write_text(json.dumps({"ids": [(37 * i + 11) % 4000 for i in range(20)], "greedy": 4}))
    return path


@pytest.fixture
def logits(shoal, demo_model, ids_file, tmp_path):
    """logits(cache, flags...) -> (the bytes of the output file, the log)."""
    def call(cache, *flags, model=demo_model):
        out = tmp_path / "logits.safetensors"
        done = subprocess.run([shoal, "logits", "--model", model, "--ids", ids_file, "--out", out,
                               "--packed-cache", str(cache), *flags],
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return out.read_bytes(), done.stderr
    return call


@pytest.fixture
def listed(shoal, cache):
    """listed(flags...) -> the files that `shoal cache` lists."""
    def call(*flags):
        out = subprocess.run([shoal, "cache", "--packed-cache", str(cache), "--json", *flags], capture_output=True,
                             text=True, timeout=60, check=True).stdout
        return json.loads(out)["files"]
    return call


def complaints(log):
    return [line for line in log.splitlines() if "packed cache: " in line and " W " in line]


@pytest.mark.parametrize("spread", SPREADS, ids=lambda flags: " ".join(flags) or "one node")
def test_logits_are_the_same_bits_without_a_cache_and_when_writing_and_reading_it(logits, cache, listed, spread):
    without, _ = logits("off", *spread)
    assert not cache.exists()
    first, log = logits(cache, *spread)
    assert "packed cache: saved " in log
    files = listed()
    assert sorted(file["unit"] for file in files) == UNITS, "the same however many nodes there are"
    assert not any(file["problem"] for file in files)
    second, log = logits(cache, *spread)
    assert "packed cache: " not in log, "nothing to save, nothing to complain of"
    assert first == without and second == without
    assert {file["path"] for file in listed()} == {file["path"] for file in files}


def test_a_bad_byte_anywhere_is_found_and_the_file_is_packed_again(logits, cache, listed):
    good, _ = logits(cache)
    path = listed()[0]["path"]
    size = os.path.getsize(path)
    # In the magic, in the table, in the first matrix, in the middle, in the last byte.
    for at in (3, 100, 5000, size // 2, size - 1):
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x40]))
        again, log = logits(cache)
        assert again == good, at
        assert len(complaints(log)) == 1 and path in log, log
        assert "packed cache: saved " in log
        once_more, log = logits(cache)
        assert once_more == good and "packed cache: " not in log, log


def test_a_truncated_or_foreign_file_is_written_again(logits, cache, listed):
    good, _ = logits(cache)
    path = listed()[0]["path"]
    for content in (b"", b"SHOALPCK", b"something else" * 1000):
        with open(path, "wb") as file:
            file.write(content)
        assert [file["path"] for file in listed() if file["problem"]] == [path]
        again, log = logits(cache)
        assert again == good and len(complaints(log)) == 1, log
        assert not any(file["problem"] for file in listed())


def test_a_folder_that_cannot_be_written_gives_one_warning(logits, tmp_path):
    good, _ = logits("off")
    blocker = tmp_path / "file"
    blocker.write_text("")
    folders = [blocker / "below"]
    if os.geteuid() != 0:  # The superuser can write anywhere.
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        folders.append(locked)
    for folder in folders:
        again, log = logits(folder)
        assert again == good
        assert len(complaints(log)) == 1 and "going on without" in log, log


def test_nodes_that_hold_other_layers_take_what_is_there_and_pack_the_rest(logits, cache, listed):
    good, _ = logits("off")
    logits(cache)
    for file in listed():
        if file["unit"] in ("layer 2", "experts [8, 16) of layer 4"):
            os.unlink(file["path"])
    again, log = logits(cache, "--split", "2,4")
    assert again == good and "packed cache: saved " in log and not complaints(log), log
    assert sorted(file["unit"] for file in listed()) == UNITS


def test_a_small_limit_gives_one_warning_and_a_full_cache_makes_room(logits, cache, listed, demo_model, tmp_path):
    _, log = logits(cache, "--packed-cache-limit", "1MiB")
    assert len(complaints(log)) == 1 and "more than the limit of 1.0 MiB" in log, log
    logits(cache)
    size = sum(file["bytes"] for file in listed())
    copy = shutil.copytree(demo_model, tmp_path / "copy")
    time.sleep(3.5)  # Files that have just changed are not cached.
    _, log = logits(cache, "--packed-cache-limit", str(size + size // 2), model=copy)
    assert "packed cache: deleted " in log, log
    assert sum(file["bytes"] for file in listed()) <= size + size // 2


def test_files_are_shown_by_model_and_clearing_empties_the_cache(shoal, logits, cache, listed, demo_model):
    logits(cache)
    assert sorted(file["unit"] for file in listed()) == UNITS
    shown = subprocess.run([shoal, "cache", "--packed-cache", str(cache)], capture_output=True, text=True, timeout=60,
                           check=True).stdout.splitlines()
    assert len(shown) == 2 and f"{demo_model}: embedding, 6 layers, 12 blocks of 8 experts" in shown[0]
    assert shown[1].startswith("19 files, ")
    assert listed("--clear") == []
    assert list(cache.iterdir()) == []


def test_run_reports_whether_the_weights_came_from_the_cache(shoal, demo_model, cache):
    def run():
        out = subprocess.run([shoal, "run", "--model", demo_model, "--prompt", "The", "--max-tokens", "8", "--json",
                              "--packed-cache", str(cache)], capture_output=True, text=True, timeout=60, check=True)
        return json.loads(out.stdout)
    first, second = run(), run()
    assert first["tokens"] == second["tokens"]
    assert not first["load"]["from_packed_cache"]
    assert second["load"]["from_packed_cache"]
    assert second["load"]["packed_bytes"] == first["load"]["packed_bytes"] > 0


def test_simultaneous_first_starts_leave_complete_files(shoal, demo_model, cache, listed, logits, ids_file, tmp_path):
    argv = [shoal, "logits", "--model", demo_model, "--ids", ids_file, "--packed-cache", str(cache)]
    runs = [subprocess.Popen([*argv, "--out", tmp_path / f"{i}.safetensors"]) for i in range(3)]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    results = {(tmp_path / f"{i}.safetensors").read_bytes() for i in range(3)}
    assert results == {logits("off")[0]}
    assert sorted(file["unit"] for file in listed()) == UNITS and len(list(cache.iterdir())) == len(UNITS)
    second, log = logits(cache)
    assert {second} == results and "packed cache: " not in log


def test_a_server_and_its_workers_start_from_the_cache(make_cluster, cache, listed, monkeypatch):
    monkeypatch.setenv("SHOAL_PACKED_CACHE", str(cache))
    first = make_cluster(2)
    assert wait_until(lambda: all("packed cache: saved " in p.log() for p in first.processes), 20)
    assert not any("GB/s, from the packed cache" in p.log() for p in first.processes), "not all of it"
    first.stop()
    assert sorted(file["unit"] for file in listed()) == UNITS
    second = make_cluster(2)
    assert all("GB/s, from the packed cache" in p.log() for p in second.processes)
