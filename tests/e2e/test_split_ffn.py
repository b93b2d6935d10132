"""Machines share the feed-forward of a dense layer that none of them holds, and no byte of the answers depends on it."""
import json

import pytest

from conftest import LONG_TIMEOUT
from dialogue import QUESTIONS, ask, client_of
from local_cluster import LocalCluster, wait_until
from test_resume import Stream, read_all

pytestmark = pytest.mark.timeout(300)

# One layer: 28 MB of feed-forward, and next to nothing else.
CONFIG = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 256, "intermediate_size": 65536,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "attention_bias": False}
LIMITED = ("--memory", "20MiB")  # On each node: weights and cache.
CACHE = ("--kv-positions", "4096")  # 2 MiB on the node that runs the layer.


@pytest.fixture(scope="module")
def wide_layer(succeed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    succeed("synth", "--config", folder / "config.json", "--bits", "4", "--out", folder / "model")
    return folder / "model"


def texts(cluster):
    client = client_of(cluster, timeout_s=120)
    return [ask(client, question, max_tokens=24, temperature=0.7, seed=3) for question in QUESTIONS[:3]]


@pytest.fixture(scope="module")
def expected(shoal, wide_layer, tmp_path_factory):
    with LocalCluster(shoal, wide_layer, tmp_path_factory.mktemp("logs"), 0) as alone:
        return texts(alone)


def test_a_layer_too_large_for_every_node_runs_on_two(make_cluster, wide_layer, expected):
    cluster = make_cluster(1, model=wide_layer, serve_args=(*LIMITED, *CACHE, *LONG_TIMEOUT), worker_args=LIMITED)
    status = cluster.status()
    assert any("no plan with whole layers fits" in note for note in status["plan"]), status["plan"]
    nodes = status["nodes"]
    assert all(node["segments"] > 0 and 0 < node["weight_bytes"] < 20 << 20 for node in nodes), nodes
    assert sum(node["weight_bytes"] for node in nodes) > 28e6
    assert texts(cluster) == expected


def test_without_the_split_it_is_refused(make_cluster, wide_layer):
    cluster = make_cluster(1, model=wide_layer, start=False, serve_args=(*LIMITED, *CACHE, "--split-ffn", "off"),
                           worker_args=LIMITED)
    for process in (*cluster.workers, cluster.coordinator):
        process.start()
    assert wait_until(lambda: "lacks" in cluster.coordinator.log(), 30), cluster.coordinator.log_tail()
    assert not cluster.healthy()


def test_a_named_holder_is_waited_for_and_the_stream_goes_on(make_cluster, wide_layer):
    cluster = make_cluster(1, model=wide_layer,
                           serve_args=("--split", "1,0", "--split-ffn", "coordinator,worker-1", *CACHE))
    options = {"max_tokens": 500, "temperature": 0.7, "seed": 5, "extra_body": {"ignore_eos": True}}
    undisturbed = Stream(cluster, QUESTIONS[0], options).read()
    assert undisturbed[1] == "length"

    def lose():
        cluster.workers[0].kill()
        assert wait_until(lambda: not cluster.healthy(), 20)
        cluster.workers[0].start()

    assert read_all([Stream(cluster, QUESTIONS[0], options)], lose) == [undisturbed]
    assert "its segments of the feed-forward of layer 0" in cluster.coordinator.log()
