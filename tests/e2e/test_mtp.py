"""A model's own head for multi-token prediction changes the time of an answer and no byte of it, be it right or wrong."""
import json
import shutil
import struct

import pytest

from conftest import LONG_TIMEOUT, SPREAD
from local_cluster import LocalCluster
from test_speculation import COMPLETIONS, answer, answers_at_once, joined, post, streamed, streamed_over_a_loss

pytestmark = pytest.mark.timeout(400)

DRAFTED, ACCEPTED = "shoal_mtp_drafted_tokens_total", "shoal_accepted_mtp_draft_tokens_total"
ALWAYS = ("--speculate", "always")
OFF = ("--speculate", "off")
STEP = 61  # In the text that is foreseen, token t is followed by t + STEP, around the vocabulary.
LONG = {"prompt": [7, 11, 400], "temperature": 0.6, "seed": 9, "max_tokens": 500, "ignore_eos": True}

CONFIG = {
    "model_type": "glm4_moe", "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "partial_rotary_factor": 0.5, "attention_bias": True, "use_qk_norm": True,
    "intermediate_size": 256, "moe_intermediate_size": 64, "n_routed_experts": 6, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    "n_group": 1, "topk_group": 1, "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "num_nextn_predict_layers": 1}


def chain(path):
    """Edits the tensors in place: the model says a cycle through its vocabulary, and its head foresees it."""
    data = bytearray(path.read_bytes())
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])

    def place(name):
        begin, end = header[name]["data_offsets"]
        return 8 + size + begin, 8 + size + end

    for name in header:
        if name.endswith((".o_proj.weight", ".down_proj.weight", ".eh_proj.weight")):
            begin, end = place(name)
            data[begin:end] = bytes(end - begin)
    (rows, width), (table, end) = header["lm_head.weight"]["shape"], place("model.embed_tokens.weight")
    head, row = place("lm_head.weight")[0], (end - table) // rows
    assert rows % STEP != 0
    for token in range(rows):
        to = head + (token + STEP) % rows * row
        data[to:to + row] = data[table + token * row:table + (token + 1) * row]
    projection, _ = place("model.layers.6.eh_proj.weight")
    for i in range(width):  # bf16 ones: the embedding passes as it is.
        struct.pack_into("<H", data, projection + 2 * (2 * width * i + i), 0x3f80)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def stray(make_model):
    """Its head knows nothing."""
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def foreseen(make_model):
    folder = make_model(CONFIG)
    chain(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def run_of(shoal, tmp_path_factory):
    """run_of(model, workers, *flags): a cluster for all tests of this file."""
    running = {}

    def get(model, workers, *flags):
        key = (model, workers, flags)
        if key not in running:
            running[key] = LocalCluster(shoal, model, tmp_path_factory.mktemp("logs"), workers, serve_args=flags).start()
        return running[key]

    yield get
    for cluster in running.values():
        cluster.stop()


@pytest.mark.parametrize("model,workers", [("stray", 0), ("foreseen", 0), ("foreseen", 2)])
def test_answers_are_those_without_drafts(request, run_of, model, workers):
    folder = request.getfixturevalue(model)
    plain = run_of(folder, 0, *OFF)
    cluster = run_of(folder, workers, *ALWAYS, *(SPREAD + LONG_TIMEOUT if workers else ()))
    for name, body in {**COMPLETIONS, "long": LONG}.items():
        assert answer(cluster, body) == answer(plain, body), name
        assert answer(cluster, body) == answer(plain, body), f"{name}, from the prefix cache"
    for name in ("greedy", "two choices"):
        assert streamed(cluster, COMPLETIONS[name]) == joined(answer(plain, COMPLETIONS[name])[0]), name
    metrics = cluster.metrics()
    assert metrics[DRAFTED] > 100
    if model == "foreseen":
        assert metrics[ACCEPTED] > metrics[DRAFTED] * 0.8
    else:
        assert metrics[ACCEPTED] < metrics[DRAFTED] / 2
    assert plain.metrics()[DRAFTED] == 0
    assert cluster.status()["model"]["mtp"] is True and plain.status()["model"]["mtp"] is False


def test_usage_counts_them(run_of, foreseen):
    cluster = run_of(foreseen, 0, *ALWAYS)
    usage = post(cluster, {**LONG, "seed": 10, "max_tokens": 100}).json()["usage"]
    details = usage["completion_tokens_details"]
    assert usage["completion_tokens"] == 100
    assert details["accepted_prediction_tokens"] > 40


def test_many_at_once_in_a_small_cache(run_of, foreseen):
    plain = run_of(foreseen, 0, *OFF)
    cluster = run_of(foreseen, 0, *ALWAYS, "--kv-positions", "768")
    wanted = [{**LONG, "prompt": [7, 11] * 40 + [i], "seed": i, "max_tokens": 200} for i in range(6)]
    assert answers_at_once(cluster, wanted) == [answer(plain, body) for body in wanted]
    assert cluster.metrics()["shoal_preemptions_total"] > 0 and cluster.metrics()[ACCEPTED] > 0


def test_a_text_goes_on_over_a_lost_worker(make_cluster, run_of, foreseen):
    body = {**LONG, "max_tokens": 900, "stream": True}
    expected = joined(answer(run_of(foreseen, 0, *OFF), {**body, "stream": False})[0])
    cluster = make_cluster(2, model=foreseen, serve_args=(*SPREAD, *ALWAYS))
    assert streamed_over_a_loss(cluster, body, ACCEPTED) == expected


def test_the_head_is_left_out_where_it_is_not_wanted(run_of, run, foreseen):
    off = run_of(foreseen, 0, *ALWAYS, "--mtp", "off")
    assert answer(off, LONG) == answer(run_of(foreseen, 0, *OFF), LONG)
    assert off.metrics()[DRAFTED] == 0 and off.status()["model"]["mtp"] is False
    words = ("run", "--model", foreseen, "--prompt", "The moon", "--max-tokens", 40, "--json")
    drafted, alone = run(*words, *ALWAYS), run(*words, *ALWAYS, "--mtp", "off")
    assert drafted.returncode == 0, drafted.stderr
    assert json.loads(drafted.stdout)["tokens"] == json.loads(alone.stdout)["tokens"]


def test_a_conversion_keeps_the_head(succeed, run_of, foreseen, tmp_path):
    succeed("convert", "--model", foreseen, "--out", tmp_path / "q8", "--quant", "affine-8-g64")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(foreseen / name, tmp_path / "q8" / name)
    cluster = run_of(tmp_path / "q8", 0, *ALWAYS)
    assert answer(cluster, LONG) == answer(run_of(tmp_path / "q8", 0, *OFF), LONG)
    assert cluster.metrics()[ACCEPTED] > 100
