"""Tokens of texts over HTTP and on the command line, against Hugging Face's tokenizers."""
import json
import subprocess

import httpx
import pytest
from tokenizers import Tokenizer

TEXTS = ["", "a fox", "Wie geht's? Ça va… 🐟", "<|im_start|>user\nhi<|im_end|>", "  two  spaces\n\n"]
CHAT = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def api(single):
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def reference(demo_model):
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


def post(api, path, **body):
    answer = api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_reference_and_come_back_as_text(api, reference, text):
    ids = reference.encode(text, add_special_tokens=False).ids
    assert post(api, "/tokenize", content=text)["tokens"] == ids
    answer = post(api, "/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True)
    assert answer["tokens"] == ids and answer["count"] == len(ids) and answer["max_model_len"] == 2048
    assert answer["token_strs"] == [reference.id_to_token(i) for i in ids]
    assert post(api, "/detokenize", tokens=ids) == {"content": text, "prompt": text}


def test_many_texts_are_tokenized_by_one_command(shoal, demo_model, reference):
    lines = "".join(json.dumps(text) + "\n" for text in TEXTS)
    done = subprocess.run([shoal, "tokenize", "--model", demo_model, "--lines", "--plain"], input=lines, capture_output=True,
                          text=True, check=True)
    plain = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(plain) == len(TEXTS) and plain[1] == reference.encode(TEXTS[1], add_special_tokens=False).ids
    bad = subprocess.run([shoal, "tokenize", "--model", demo_model, "--lines"], input='"a"\n7\n', capture_output=True, text=True,
                         check=False)
    assert bad.returncode == 2 and "line 2" in bad.stderr


def test_pieces_join_to_the_text(api):
    pieces = [one["piece"] for one in post(api, "/tokenize", content=TEXTS[2], with_pieces=True)["tokens"]]
    assert b"".join(bytes(p) if isinstance(p, list) else p.encode() for p in pieces).decode() == TEXTS[2]


def test_a_conversation_has_the_tokens_that_a_chat_computes(api):
    prompt = post(api, "/apply-template", **CHAT)["prompt"]
    tokens = post(api, "/tokenize", **CHAT)
    assert post(api, "/tokenize", content=prompt)["tokens"] == tokens["tokens"]
    usage = post(api, "/v1/chat/completions", **CHAT, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == tokens["count"]


def test_the_server_says_what_it_is_like(api, demo_model):
    props = api.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 2048 and props["total_slots"] == 256
    assert props["chat_template"] == (demo_model / "chat_template.jinja").read_text()
    slots = api.get("/slots").json()
    assert len(slots) == props["total_slots"] and {"id", "n_ctx", "is_processing"} <= slots[0].keys()
    model = api.get("/v1/models").json()["data"][0]
    assert model["max_model_len"] == model["context_length"] == model["meta"]["n_ctx_train"] == 2048


@pytest.mark.parametrize("text", TEXTS[1:])
def test_the_command_line_shows_tokens(succeed, reference, demo_model, tmp_path, text):
    ids = reference.encode(text, add_special_tokens=False).ids
    path = tmp_path / "text"
    path.write_text(text)
    shown = json.loads(succeed("tokenize", "--model", demo_model, "--file", path, "--json"))
    assert (shown["tokens"], shown["count"], shown["text"]) == (ids, len(ids), text)
    assert [int(line.split()[0]) for line in succeed("tokenize", "--model", demo_model, text).splitlines()] == ids
    assert succeed("tokenize", "--model", demo_model, "--decode", json.dumps(ids)) == text + "\n"


def test_the_command_line_takes_conversations(succeed, api, demo_model):
    shown = json.loads(succeed("tokenize", "--model", demo_model, "--chat", "--json", json.dumps(CHAT["messages"])))
    assert shown["tokens"] == post(api, "/tokenize", **CHAT)["tokens"]
    said = json.loads(succeed("tokenize", "--model", demo_model, "--chat", "--json", "hi"))
    assert "<|im_start|>user\nhi<|im_end|>" in said["text"]
    plain = json.loads(succeed("tokenize", "--model", demo_model, "--plain", "--json", "<|im_end|>"))
    assert plain["count"] > 1 and plain["text"] == "<|im_end|>"


def test_the_command_line_says_what_is_wrong(run, demo_model):
    for words in (("--decode", "1 x"), ("--chat", "--plain", "a"), ("--decode", "99999999999")):
        done = run("tokenize", "--model", demo_model, *words)
        assert done.returncode == 2 and "--" in done.stderr
