"""How likely the tokens of a prompt were: `echo` with `logprobs` of /v1/completions, as lm-evaluation-harness asks."""
import httpx
import pytest

PROMPT = "The capital of France is Paris. The capital of Portugal is Lisbon. " * 3


def complete(cluster, **fields):
    body = {"temperature": 0, "logprobs": 5, **fields}
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as client:
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


def joined(cluster, **fields):
    """The first choice of a stream, as a whole answer has it."""
    import json
    text, logprobs = "", {}
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as client:
        with client.stream("POST", "/v1/completions", json={"temperature": 0, "logprobs": 5, "stream": True, **fields}) as r:
            for line in r.iter_lines():
                if not line.startswith("data: {"):
                    continue
                choice = json.loads(line[6:])["choices"][0]
                text += choice["text"]
                for key, values in (choice["logprobs"] or {}).items():
                    logprobs.setdefault(key, []).extend(values)
    return text, logprobs


def test_a_prompt_is_scored_as_when_it_was_generated(single):
    told = complete(single, prompt=PROMPT, max_tokens=24)["choices"][0]
    echo = complete(single, prompt=PROMPT + told["text"], max_tokens=0, echo=True)["choices"][0]
    assert echo["text"] == PROMPT + told["text"] and echo["finish_reason"] == "length"
    count = len(told["logprobs"]["tokens"])
    assert echo["logprobs"]["tokens"][-count:] == told["logprobs"]["tokens"]
    assert echo["logprobs"]["token_logprobs"][-count:] == told["logprobs"]["token_logprobs"]
    assert echo["logprobs"]["top_logprobs"][-count:] == told["logprobs"]["top_logprobs"]
    assert echo["logprobs"]["token_logprobs"][0] is None and echo["logprobs"]["top_logprobs"][0] is None
    assert "".join(echo["logprobs"]["tokens"]) == echo["text"]
    for token, offset in zip(echo["logprobs"]["tokens"], echo["logprobs"]["text_offset"]):
        assert echo["text"][offset:].startswith(token)


def test_three_processes_and_other_chunks_give_the_same_numbers(single, trio, make_cluster):
    small = make_cluster(0, serve_args=("--rows-per-step", "7"))
    uncached = make_cluster(0, serve_args=("--prefix-cache", "off"))
    for prompt in (PROMPT, [PROMPT, "a", [100, 200, 300]]):
        fields = {"prompt": prompt, "max_tokens": 5, "echo": True, "n": 2, "seed": 3}
        choices = complete(single, **fields)["choices"]
        for cluster in (single, trio, small, uncached):  # The first again: its cache is warm.
            assert complete(cluster, **fields)["choices"] == choices


def test_a_stream_joins_to_the_answer(trio):
    for fields in ({"max_tokens": 5}, {"max_tokens": 0}):
        whole = complete(trio, prompt=PROMPT, echo=True, **fields)["choices"][0]
        assert joined(trio, prompt=PROMPT, echo=True, **fields) == (whole["text"], whole["logprobs"])


def test_lm_eval_reads_the_probability_of_a_continuation(single):
    """As LocalCompletionsAPI: ids in, one token more than is wanted out, which is left out."""
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as client:
        ids = {text: client.post("/tokenize", json={"content": text}).json()["tokens"]
               for text in ("The capital of France is", " Paris", " Lisbon")}
    sums, greedy = {}, {}
    for continuation in (" Paris", " Lisbon"):
        context = ids["The capital of France is"]
        choice = complete(single, prompt=[context + ids[continuation]], max_tokens=1, echo=True, logprobs=1,
                          seed=1234)["choices"][0]
        logprobs = choice["logprobs"]["token_logprobs"][len(context):-1]
        tops = choice["logprobs"]["top_logprobs"][len(context):-1]
        assert len(logprobs) == len(ids[continuation])
        sums[continuation] = sum(logprobs)
        greedy[continuation] = all(p == max(top.values()) for p, top in zip(logprobs, tops))
    assert sums[" Paris"] > sums[" Lisbon"]
    assert greedy == {" Paris": True, " Lisbon": False}


def test_the_last_entry_is_there_where_the_text_ends_at_once(single):
    """Or the last token of the continuation would be left out in its place."""
    chat = {"messages": [{"role": "user", "content": "What is the capital of Portugal?"}]}
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as client:
        prompt = client.post("/apply-template", json=chat).json()["prompt"]
        answer = client.post("/v1/chat/completions", json={**chat, "temperature": 0}).json()
    whole = prompt + answer["choices"][0]["message"]["content"]
    choice = complete(single, prompt=whole, max_tokens=1, echo=True)["choices"][0]
    assert choice["finish_reason"] == "stop"
    prompt_tokens = complete(single, prompt=whole, max_tokens=0, echo=True)["choices"][0]["logprobs"]["tokens"]
    assert choice["logprobs"]["tokens"][:-1] == prompt_tokens
    assert choice["logprobs"]["tokens"][-1] == "<|im_end|>"


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"max_tokens": 3, "n": 2}])
def test_an_echo_without_log_probabilities_has_none(single, fields):
    for choice in complete(single, prompt="a b", echo=True, logprobs=None, **fields)["choices"]:
        assert choice["logprobs"] is None and choice["text"].startswith("a b")
