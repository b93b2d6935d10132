"""llama-server's /infill, with a model whose tokenizer has the tokens for it, on one process and on three."""
import json
import shutil

import httpx
import pytest

from conftest import LONG_TIMEOUT, SPREAD
from field_tables import tables

AROUND = {"input_prefix": "def is_prime(n):\n    if n < 2:\n", "input_suffix": "    return True\n"}
BASE = {**AROUND, "temperature": 0, "n_predict": 24}
ROWS = {field: row for (path, field), row in tables().items() if path == "/infill"}
# Tokens of the demo model that a text does not need, under the names that ask for a middle.
NAMES = {"<tool_call>": "<|fim_prefix|>", "</tool_call>": "<|fim_suffix|>", "<tool_response>": "<|fim_middle|>",
         "</tool_response>": "<|file_sep|>", "</think>": "<|repo_name|>"}


@pytest.fixture(scope="module")
def model(demo_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("infill") / demo_model.name
    shutil.copytree(demo_model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        for old, new in NAMES.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def clusters(shoal, model, tmp_path_factory):
    from local_cluster import LocalCluster
    with LocalCluster(shoal, model, tmp_path_factory.mktemp("logs"), 0) as alone, \
            LocalCluster(shoal, model, tmp_path_factory.mktemp("logs"), 2, serve_args=SPREAD + LONG_TIMEOUT) as spread:
        yield [alone, spread]


def post(cluster, status=200, **fields):
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as client:
        answer = client.post("/infill", json={**BASE, **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


def pieces(cluster, **fields):
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as client:
        with client.stream("POST", "/infill", json={**BASE, **fields, "stream": True}) as answer:
            return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "seed": 5}, {"input_extra": [{"filename": "a.py", "text": "x"}]}],
                         ids=["greedy", "seeded", "files"])
def test_streams_and_three_processes_say_what_one_answer_says(clusters, fields):
    whole = post(clusters[0], **fields)
    assert whole["content"] and whole["stop"] and whole["tokens_predicted"] > 0
    assert post(clusters[1], **fields)["content"] == whole["content"]
    for cluster in clusters:
        parts = pieces(cluster, **fields)
        assert "".join(part["content"] for part in parts) == whole["content"]
        assert [part["stop"] for part in parts] == [False] * (len(parts) - 1) + [True]
        for key in ("stop_type", "tokens_predicted", "tokens_evaluated", "prompt", "stopping_word"):
            assert parts[-1][key] == whole[key]


def test_the_prompt_is_that_of_the_model(clusters):
    prompt = post(clusters[0], prompt="x", input_extra=[{"filename": "a.py", "text": "y"}])["prompt"]
    assert prompt == ("<|repo_name|>myproject\n<|file_sep|>a.py\ny<|file_sep|>filename\n<|fim_prefix|>"
                      f"{AROUND['input_prefix']}<|fim_suffix|>{AROUND['input_suffix']}<|fim_middle|>x")


def test_an_editor_warms_the_cache(clusters):
    text = {"input_prefix": "# " + "word " * 60, "input_suffix": "s"}
    assert post(clusters[1], **text, n_predict=0)["content"] == ""
    assert post(clusters[1], **text, n_predict=1)["tokens_cached"] >= 32


def test_v1_completions_take_a_suffix(clusters):
    with httpx.Client(base_url=clusters[0].url, trust_env=False, timeout=60) as client:
        answer = client.post("/v1/completions", json={"prompt": AROUND["input_prefix"], "suffix": AROUND["input_suffix"],
                                                      "temperature": 0, "max_tokens": 24})
    assert answer.json()["choices"][0]["text"] == post(clusters[0])["content"]


def test_a_model_without_the_tokens_is_a_400(single):
    error = post(single, status=400)["error"]
    assert error["code"] == "unsupported_parameter" and error["param"] == "input_suffix"


@pytest.mark.parametrize("field", ROWS)
def test_a_field_is_what_the_table_says(clusters, field):
    kind, sample = ROWS[field]
    if kind == "refused":
        assert field in post(clusters[0], status=400, **sample)["error"]["message"]
        return
    answer = post(clusters[0], **sample)
    if kind == "harmless":
        assert answer["content"] == post(clusters[0])["content"]


def test_what_no_table_names_is_refused_by_name(clusters):
    assert "surprise" in post(clusters[0], status=400, surprise=1)["error"]["message"]
