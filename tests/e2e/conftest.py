"""Fixtures that run real shoal processes on loopback. Nothing here is mocked."""
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from local_cluster import LocalCluster
from tester import PORTS

SOURCE = Path(__file__).resolve().parents[2]

# The user's cache folder is not used; tests of the cache use folders of their own.
os.environ["SHOAL_PACKED_CACHE"] = "off"
os.environ["SHOAL_WEIGHTS_CACHE"] = "off"
os.environ["SHOAL_PROFILE"] = "off"  # Nobody is measured, so plans are the same on every machine.
os.environ["SHOAL_FREE_PORTS"] = PORTS


def pytest_addoption(parser):
    parser.addoption("--filter", help="run the tests whose id matches this regular expression, as ctest -R does")
    parser.addoption("--shoal", default=SOURCE / "build/release/bin/shoal", type=Path, help="the binary to test")


def pytest_collection_modifyitems(config, items):
    pattern = config.getoption("--filter")
    if pattern is None:
        return
    rejected = [item for item in items if not re.search(pattern, item.nodeid)]
    config.hook.pytest_deselected(items=rejected)
    items[:] = [item for item in items if item not in rejected]


@pytest.fixture(scope="session")
def shoal(request):
    path = request.config.getoption("--shoal").resolve()
    assert path.exists(), f"{path} is not built: ./dev build"
    return path


@pytest.fixture(scope="session")
def run(shoal):
    """run(words...) -> CompletedProcess with text output, within a minute."""
    def call(*words, timeout_s=60):
        return subprocess.run([shoal, *map(str, words)], capture_output=True, text=True, timeout=timeout_s, check=False)
    return call


@pytest.fixture(scope="session")
def succeed(run):
    def call(*words):
        done = run(*words)
        assert done.returncode == 0, f"{done.args}:\n{done.stdout}\n{done.stderr}"
        return done.stdout
    return call


@pytest.fixture(scope="session")
def demo_model():
    return SOURCE / "models/shoal-demo-4bit"


@pytest.fixture(scope="session")
def synthesize(shoal, tmp_path_factory):
    """synthesize(shape, layers) -> the folder of a model with random weights of 4 bits. cacheable: its files are old enough for
    the packed cache."""
    def call(shape, layers, cacheable=False):
        folder = tmp_path_factory.mktemp(f"shape-{shape}") / "model"
        subprocess.run([shoal, "synth", "--shape", shape, "--layers", str(layers), "--bits", "4", "--out", folder],
                       capture_output=True, timeout=200, check=True)
        if cacheable:
            time.sleep(3.5)  # Files that changed within the last two seconds are not cached.
        return folder
    return call


@pytest.fixture(scope="session")
def make_model(succeed, demo_model, tmp_path_factory):
    """make_model(config) -> the folder of such a model with random weights, and the demo model's tokenizer."""
    def call(config):
        folder = tmp_path_factory.mktemp(config["model_type"]) / "model"
        demo = json.loads((demo_model / "config.json").read_text())
        path = folder.parent / "config.json"
        of_text = {key: demo[key] for key in ("vocab_size", "eos_token_id") if key in demo}
        path.write_text(json.dumps({**config, **of_text}))
        succeed("synth", "--config", path, "--seed", 7, "--out", folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(demo_model / name, folder / name)
        return folder
    return call


# Two layers on each process, and the experts of every layer spread over all three.
SPREAD = ("--split", "2,2,2", "--experts", "round_robin:3")
# For tests without a loss: a busy machine must not look like a lost node.
LONG_TIMEOUT = ("--liveness-timeout", "120")


@pytest.fixture(scope="session")
def _clusters():
    """The running clusters, so that a failed test can show the ends of their logs."""
    return []


@pytest.fixture
def make_cluster(shoal, demo_model, tmp_path, _clusters):
    """make_cluster(workers, ...) starts a cluster of the demo model, which ends with the test; see LocalCluster."""
    started = []

    def make(workers, start=True, model=demo_model, **options):
        if workers == 2:
            options.setdefault("serve_args", SPREAD)
        cluster = LocalCluster(shoal, model, tmp_path / f"logs-{len(started)}", workers, **options)
        started.append(cluster)
        _clusters.append(cluster)
        return cluster.start() if start else cluster

    yield make
    for cluster in started:
        cluster.stop()
        _clusters.remove(cluster)


def _session_cluster(shoal, model, tmp_path_factory, clusters, workers, **options):
    with LocalCluster(shoal, model, tmp_path_factory.mktemp("logs"), workers, **options) as cluster:
        clusters.append(cluster)
        yield cluster
        clusters.remove(cluster)


@pytest.fixture(scope="session")
def single(shoal, demo_model, tmp_path_factory, _clusters):
    """One process with the whole model. Shared by all tests that do not change its state."""
    yield from _session_cluster(shoal, demo_model, tmp_path_factory, _clusters, 0)


@pytest.fixture(scope="session")
def trio(shoal, demo_model, tmp_path_factory, _clusters):
    """Three processes, with layers and experts spread over all. Shared by all tests that do not change their state."""
    yield from _session_cluster(shoal, demo_model, tmp_path_factory, _clusters, 2, serve_args=SPREAD + LONG_TIMEOUT)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for cluster in item.funcargs.get("_clusters", []):
            for process in cluster.processes:
                report.sections.append((f"log of {process.name} at {cluster.url}", process.log_tail(30)))
