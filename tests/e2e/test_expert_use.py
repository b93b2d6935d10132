"""The use of experts is counted, kept from one start to the next, and placed by; the text stays the same."""
import json

import pytest

from conftest import LONG_TIMEOUT
from dialogue import QUESTIONS, ask, client_of
from local_cluster import get_json, wait_until

LAYERS = 6
EXPERTS = 16
PER_ROW = 4
ROUND_ROBIN = ("--split", "2,2,2", "--experts", "round_robin:3")


def experts_of(cluster):
    return get_json(cluster.url + "/cluster/experts")


def counted(cluster):
    """What /cluster/experts says when all rows that ran are counted: two answers with the same totals."""
    seen = []

    def settled():
        seen.append(experts_of(cluster)["since_start"])
        return len(seen) > 1 and seen[-1] == seen[-2] and seen[-1]["rows"] > 0

    assert wait_until(settled, 30), seen[-3:]
    return experts_of(cluster)


def skewed_load(cluster):
    """The same few questions, so that some experts have most of the rows."""
    client = client_of(cluster)
    return [ask(client, question, max_tokens=24) for question in QUESTIONS[:3]]


@pytest.fixture
def stats(tmp_path):
    return tmp_path / "experts.json"


@pytest.fixture
def served(make_cluster, stats):
    """served(flags...) -> (answers, /cluster/experts): a cluster of three processes that keeps statistics."""
    def call(*flags):
        cluster = make_cluster(2, serve_args=(*flags, "--expert-stats", stats, "--prefix-cache", "off",
                                              "--speculate", "off", *LONG_TIMEOUT))
        answers = skewed_load(cluster)
        told = counted(cluster)
        told["notes"] = cluster.status()["plan"]
        counts = ("shoal_expert_rows_", "shoal_expert_messages_")
        told["metrics"] = {name: value for name, value in cluster.metrics().items() if name.startswith(counts)}
        assert set(cluster.stop().values()) == {0}
        return answers, told
    return call


def test_use_is_counted_shown_and_kept(served, stats):
    _, told = served(*ROUND_ROBIN)
    assert [layer["layer"] for layer in told["layers"]] == list(range(LAYERS))
    assert told["nodes"] == ["coordinator", "worker-1", "worker-2"]
    rows = {layer["of_this_plan"]["rows"] for layer in told["layers"]}
    assert len(rows) == 1, "every row goes through every layer"
    for layer in told["layers"]:
        assert layer["node"] == layer["layer"] // 2
        assert layer["owners"] == [expert % 3 for expert in range(EXPERTS)] and layer["replicas"] == {}
        assert sum(layer["rows"]) == PER_ROW * layer["of_this_plan"]["rows"]
        assert layer["rows"][layer["hottest"][0]] == max(layer["rows"])
        assert 0 <= layer["of_this_plan"]["local_share"] < 1
        assert 0 < layer["sampled_rows"] and layer["together"][0]["share"] > 0
    total = told["since_start"]
    assert total["rows"] == sum(layer["of_this_plan"]["rows"] for layer in told["layers"])
    assert told["metrics"] == {"shoal_expert_rows_total": total["rows"],
                               "shoal_expert_rows_local_total": total["rows_local"],
                               "shoal_expert_rows_sent_total": total["rows_sent"],
                               "shoal_expert_messages_total": total["messages"]}
    kept = json.loads(stats.read_text())
    assert [layer["rows"] for layer in kept["layers"]] == [layer["rows"] for layer in told["layers"]]


def test_experts_are_placed_by_what_was_counted_and_the_text_stays(served, succeed, demo_model, stats):
    answers, plain = served(*ROUND_ROBIN)
    by_load, loaded = served("--split", "2,2,2", "--experts", "by_load")
    assert by_load == answers
    assert any("experts (by_load)" in note and "from the use of" in note for note in loaded["notes"]), loaded["notes"]
    assert [layer["owners"] for layer in loaded["layers"]] != [layer["owners"] for layer in plain["layers"]]
    # Counting went on where it had stopped.
    assert sum(loaded["layers"][0]["rows"]) > sum(plain["layers"][0]["rows"])

    by_locality, near = served("--split", "2,2,2", "--experts", "by_locality")
    assert by_locality == answers
    assert any("experts (by_locality)" in note and "from the use of" in note for note in near["notes"]), near["notes"]
    assert near["since_start"]["rows"] == plain["since_start"]["rows"]
    assert near["since_start"]["rows_sent"] < plain["since_start"]["rows_sent"]

    report = json.loads(succeed("plan", "--model", demo_model, "--json", "--split", "2,2,2", "--experts", "by_locality",
                                "--expert-stats", stats))
    compared = {experts["name"]: experts for experts in report["experts"]}
    assert compared["with_layer"]["messages_per_token"] == 0 and compared["with_layer"]["local_share"] == 1
    assert compared["by_locality"]["messages_per_token"] < compared["round_robin"]["messages_per_token"]
    assert compared["by_load"]["imbalance"] <= compared["round_robin"]["imbalance"]
    assert compared["this plan"] == {**compared["by_locality"], "name": "this plan"}


def test_hot_experts_are_copied_and_fewer_rows_leave_their_node(served):
    answers, plain = served(*ROUND_ROBIN)
    shares = [plain["since_start"]["local_share"]]
    for size in ("256KiB", "1GiB"):
        same, hot = served(*ROUND_ROBIN, "--expert-replicas", f"hot:{size}")
        assert same == answers
        assert any("hot experts:" in note for note in hot["notes"]), hot["notes"]
        assert [layer["owners"] for layer in hot["layers"]] == [layer["owners"] for layer in plain["layers"]]
        assert any(layer["replicas"] for layer in hot["layers"])
        assert hot["since_start"]["rows"] == plain["since_start"]["rows"]
        shares.append(hot["since_start"]["local_share"])
    assert shares == sorted(set(shares)), "more copies, more rows that stay"
    assert shares[-1] == 1, "every expert that was ever used is on the node of its layer"


@pytest.mark.parametrize("content", ["", "{}", '{"format": "shoal-expert-stats-1"}'])
def test_a_damaged_file_is_an_empty_start(make_cluster, stats, content):
    stats.write_text(content)
    cluster = make_cluster(0, serve_args=("--expert-stats", stats))
    assert "expert statistics: counting starts at nothing" in cluster.coordinator.log()
    skewed_load(cluster)
    told = counted(cluster)
    assert told["since_start"]["local_share"] == 1
    cluster.stop()
    assert json.loads(stats.read_text())["model_hash"] == told["model_hash"]


def test_without_statistics_the_strategies_fall_back(succeed, demo_model):
    for strategy, fallback in (("by_load", "round_robin"), ("by_locality", "with_layer")):
        text = succeed("plan", "--model", demo_model, "--split", "3,3", "--experts", strategy)
        assert f"experts ({strategy}): nothing is known of their use, so they are {fallback}" in text
