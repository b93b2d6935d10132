"""Drafts for a model with recurrent layers change no byte, be they right, wrong, or right in part."""
import pytest

from conftest import LONG_TIMEOUT, SPREAD
from local_cluster import LocalCluster
from test_speculation import (ACCEPTED, ALWAYS, CHATS, COMPLETIONS, DRAFTED, answer, answers_at_once, joined, streamed,
                              streamed_over_a_loss)

pytestmark = pytest.mark.timeout(400)

OFF = ("--speculate", "off")
MTP_DRAFTED = "shoal_mtp_drafted_tokens_total"
# Random weights repeat nothing by themselves. A grammar that leaves a choice now and then makes drafts that are right, and then wrong.
LONG = {"prompt": [7, 11, 400], "temperature": 0, "max_tokens": 400, "guided_regex": "(The (moon|sea) is (bright|wide)[.] ){300}"}

CONFIG = {
    "model_type": "qwen3_5_text", "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "attention_bias": False, "attn_output_gate": True,
    "full_attention_interval": 3, "intermediate_size": 256, "hidden_act": "silu", "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "mtp_num_hidden_layers": 1, "tie_word_embeddings": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}}


@pytest.fixture(scope="module")
def model(make_model):
    """With a head for multi-token prediction."""
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def plain(shoal, model, tmp_path_factory):
    with LocalCluster(shoal, model, tmp_path_factory.mktemp("logs"), 0, serve_args=OFF) as cluster:
        yield cluster


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_are_those_without_drafts(shoal, model, plain, tmp_path, workers):
    flags = (*ALWAYS, *(SPREAD + LONG_TIMEOUT if workers else ()))
    bodies = {**COMPLETIONS, "long": LONG, "a grammar": CHATS["a grammar"]}
    with LocalCluster(shoal, model, tmp_path, workers, serve_args=flags) as cluster:
        for name, body in bodies.items():
            assert answer(cluster, body) == answer(plain, body), name
            assert answer(cluster, body) == answer(plain, body), f"{name}, from the prefix cache"
        assert streamed(cluster, LONG) == joined(answer(plain, LONG)[0])
        metrics = cluster.metrics()
    assert 100 < metrics[ACCEPTED] < metrics[DRAFTED]
    assert metrics[MTP_DRAFTED] > 100
    assert plain.metrics()[DRAFTED] == 0


def test_many_at_once_with_few_states(shoal, model, plain, tmp_path):
    wanted = [{**LONG, "prompt": [7, 11] * 40 + [i], "max_tokens": 400} for i in range(6)]
    flags = (*ALWAYS, "--sequences", "3", "--kv-positions", "512")
    with LocalCluster(shoal, model, tmp_path, 0, serve_args=flags) as cluster:
        assert answers_at_once(cluster, wanted) == [answer(plain, body) for body in wanted]
        metrics = cluster.metrics()
        assert metrics["shoal_preemptions_total"] > 0
        assert metrics[ACCEPTED] > 0


def test_a_text_goes_on_over_a_lost_worker(make_cluster, model, plain):
    body = {**LONG, "max_tokens": 900, "stream": True}
    expected = joined(answer(plain, {**body, "stream": False})[0])
    cluster = make_cluster(2, model=model, serve_args=(*SPREAD, *ALWAYS))
    assert streamed_over_a_loss(cluster, body, ACCEPTED) == expected
