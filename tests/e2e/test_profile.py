"""`shoal profile` measures this machine and keeps what it found; plans are predicted from it, and change no answer."""
import json
import os

import pytest

from dialogue import ENDLESS, ask, client_of, model_of
from test_join import Home

RATES = ("read_gbs", "int8_gops", "f32_gflops")


@pytest.fixture(scope="session")
def profiles(tmp_path_factory):
    """A folder that keeps profiles: measured once for all tests here."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture
def profile(succeed, profiles):
    def call(*words):
        return json.loads(succeed("profile", "--profile", profiles, "--json", *words))
    return call


@pytest.fixture
def measured(make_cluster, profile, profiles):
    """measured(...) -> a cluster of three whose nodes are measured and whose placement is the planner's."""
    def make(**options):
        profile()  # Once, before three processes ask for it.
        flags = ("--profile", profiles)
        return make_cluster(2, serve_args=(*flags, *options.pop("serve_args", ())), worker_args=flags, **options)
    return make


def test_the_machine_is_measured_once_and_kept(profile, profiles):
    first = profile()
    assert [rates["threads"] for rates in first["rates"]] == sorted({rates["threads"] for rates in first["rates"]})
    assert all(rates[name] > 0 for rates in first["rates"] for name in RATES)
    assert 0 < first["usable_memory_bytes"] < first["memory_available_bytes"] <= first["machine"]["memory_bytes"]
    assert first["machine"]["cores"] <= len(os.sched_getaffinity(0))
    again = profile()
    assert not again["measured_now"] and again["rates"] == first["rates"] and again["file"] == first["file"]
    assert again["machine_hash"] in again["file"]

    kept = profiles / f"{first['machine_hash']}.json"
    text = kept.read_text()
    kept.write_text(text[:len(text) // 2])
    assert profile()["measured_now"]
    assert json.loads(kept.read_text())["rates"]


def test_profiles_of_long_ago_go(succeed, tmp_path):
    for i in range(40):
        old = tmp_path / f"{i:016x}.json"
        old.write_text("{}")
        os.utime(old, (1_000_000 + i, 1_000_000 + i))
    (tmp_path / "notes.txt").write_text("of somebody")
    kept = json.loads(succeed("profile", "--profile", tmp_path, "--json"))["file"]
    left = sorted(path.name for path in tmp_path.glob("*.json"))
    assert left == sorted([os.path.basename(kept), *(f"{i:016x}.json" for i in range(25, 40))])
    assert (tmp_path / "notes.txt").exists()


def test_a_worker_looks_at_its_flags_before_it_measures(run, demo_model, tmp_path):
    done = run("worker", "--listen", "127.0.0.1:0", "--model-root", demo_model.parent, "--join", "nobody here", "--profile", tmp_path)
    assert done.returncode == 2 and "worker --join: expected HOST:PORT" in done.stderr, done
    assert not list(tmp_path.iterdir())


def test_a_profile_is_shown_as_a_table(succeed, profiles):
    shown = succeed("profile", "--profile", profiles)
    assert "reads GB/s" in shown and "for weights and cache by default" in shown


def test_plan_compares_strategies_of_measured_nodes(measured, succeed, demo_model, profiles):
    cluster = measured()
    words = ("plan", "--model", demo_model, "--workers", ",".join(cluster.addresses), "--profile", profiles)
    told = json.loads(succeed(*words, "--json"))
    assert told["not_predicted"] == "" and not told["links_assumed"]
    names = " ".join(strategy["name"] for strategy in told["strategies"])
    for name in ("fastest (throughput)", "fastest (latency)", "fastest (ttft)", "balanced", "alone"):
        assert name in names, names
    assert [strategy["chosen"] for strategy in told["strategies"]].count(True) == 1
    for strategy in told["strategies"]:
        predicted = strategy["predicted"]
        assert predicted["tokens_per_s_16"] > predicted["tokens_per_s_1"] > 0
        assert 0 < predicted["ttft_2k_s"] < predicted["ttft_16k_s"] and predicted["bound_16"]
        assert strategy["sequences_2k"] > 0
    shown = succeed(*words)
    assert "tok/s x16" in shown and "fastest (throughput)" in shown
    # Nodes of one machine, with a network between them: each alone is faster, unless others took its time when it was measured.
    alone = max(s["predicted"]["tokens_per_s_1"] for s in told["strategies"] if "alone" in s["name"])
    together = next(s["predicted"]["tokens_per_s_1"] for s in told["strategies"] if s["chosen"])
    if alone > 1.5 * together:
        assert "one machine is faster" in shown


def test_a_fastest_plan_gives_the_answers_of_one_node(measured, single):
    cluster = measured()
    status = cluster.status()
    assert any(note.startswith("layers (fastest)") for note in status["plan"]), status["plan"]
    assert all(node["layers"] is not None for node in status["nodes"]), "every node that was asked for has a layer"
    question = "What is the capital of Portugal?"
    assert ask(client_of(cluster), question) == ask(client_of(single), question)


def test_a_running_cluster_is_held_to_its_plan(measured, succeed, run):
    cluster = measured()
    predicted = cluster.status()["predicted"]
    assert predicted["tokens_per_s_16"] > predicted["tokens_per_s_1"] > 0 and predicted["bound_1"]
    words = ("bench", "--check-plan", "--url", cluster.url, "--runs", "1")
    checks = {check["what"]: check for check in json.loads(succeed(*words, "--json"))["checks"]}
    one = checks["one stream"]
    assert one["predicted"] == predicted["tokens_per_s_1"] and one["measured"] > 0
    assert abs(one["error"] - (one["predicted"] / one["measured"] - 1)) < 1e-9
    assert "context is 2048, 2049 are needed" in checks["first token of 2048"]["not_measured"]
    assert "tokens/s" in succeed(*words) and cluster.cache_stats()["requests"] == {"running": 0, "waiting": 0}

    # Nothing else may run meanwhile.
    client = client_of(cluster)
    with client.completions.create(model=model_of(client), prompt="Once", stream=True, **ENDLESS) as stream:
        next(iter(stream))
        cluster.workers[0].pause()  # So that it runs on until it was seen.
        refused = run(*words)
        cluster.workers[0].resume()
    assert refused.returncode == 1 and "1 requests run" in refused.stderr, refused


def test_an_error_beyond_the_bound_is_told(make_cluster, demo_model, run, tmp_path):
    # A machine that was declared to be a million times as fast as any.
    rates = {"memory_gb": 8, "read_gbs": 1e8, "int8_gops": 1e9, "f32_gflops": 1e9}
    described = {"devices": [{"device_id": "first", "role": "coordinator", "capabilities": rates}],
                 "model": {"name": demo_model.name}}
    (tmp_path / "cluster.json").write_text(json.dumps(described))
    cluster = make_cluster(0, serve_args=("--cluster", tmp_path / "cluster.json"))
    words = ("bench", "--check-plan", "--url", cluster.url, "--runs", "1")
    done = run(*words, "--within", "25")
    assert done.returncode == 1 and "more than 25 % apart" in done.stderr, done
    assert run(*words).returncode == 0


def test_what_is_not_measured_is_held_to_nothing(trio, run):
    done = run("bench", "--check-plan", "--url", trio.url)
    assert done.returncode == 1 and "the rates of node 'coordinator' are not known" in done.stderr, done
    done = run("bench", "--within", "5", "--roofline")
    assert done.returncode == 2 and "--check-plan" in done.stderr, done


def test_nodes_that_gain_nothing_are_left_out_where_that_is_wanted(measured):
    cluster = measured(serve_args=("--use-nodes", "best", "--objective", "latency"))
    holders = [node for node in cluster.status()["nodes"] if node["layers"] is not None]
    assert len(holders) == 1


def test_a_coordinator_that_workers_join_is_measured_too(make_cluster, shoal, demo_model, profile, profiles, tmp_path):
    profile()
    house = Home(make_cluster, shoal, demo_model, tmp_path, serve_args=("--profile", profiles, "--rejoin-wait", "0"))
    house.cluster.start()
    worker = house.worker("w1", "--profile", profiles)
    try:
        assert house.serves_with("w1"), worker.log_tail()
        notes = house.cluster.status()["plan"]
        assert any(note.startswith("layers (fastest)") for note in notes), notes
    finally:
        worker.stop()


def test_unmeasured_workers_are_planned_as_ever(make_cluster, succeed, demo_model):
    cluster = make_cluster(2, serve_args=())
    assert not any("fastest" in note for note in cluster.status()["plan"])
    told = json.loads(succeed("plan", "--model", demo_model, "--workers", ",".join(cluster.addresses), "--json"))
    assert "not measured" in told["not_predicted"]
    assert all(strategy["predicted"] is None for strategy in told["strategies"] if "alone" not in strategy["name"])


@pytest.mark.parametrize("words", [("--objective", "speed"), ("--use-nodes", "some")])
def test_unknown_words_are_refused_with_those_that_are_known(run, demo_model, words):
    done = run("plan", "--model", demo_model, *words)
    assert done.returncode == 2 and words[1] in done.stderr and "known:" in done.stderr
