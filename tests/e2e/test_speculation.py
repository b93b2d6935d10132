"""Drafts change the time of an answer and no byte of it: answers are those of a server that drafts nothing."""
import concurrent.futures
import json

import httpx
import pytest

from conftest import LONG_TIMEOUT, SPREAD
from dialogue import NEVER_END, QUESTIONS, user
from local_cluster import LocalCluster, wait_until

TIMEOUT_S = 240
pytestmark = pytest.mark.timeout(400)

DRAFTED, ACCEPTED = "shoal_drafted_tokens_total", "shoal_accepted_draft_tokens_total"
# By default drafts are verified where that is faster, which depends on what else the machine does.
ALWAYS = ("--speculate", "always")

# Text that goes on as it began, and questions whose answers don't.
LISTING = "".join(f"def add_{i}(a, b):\n    total = a + b + {i}\n    return total\n\n" for i in range(9))
VERSES = "The moon is bright. The sea is wide. " * 12

SCHEMA = {"type": "array", "minItems": 3, "maxItems": 3, "items": {
    "type": "object", "additionalProperties": False, "required": ["name of the town", "number of people"],
    "properties": {"name of the town": {"type": "string", "maxLength": 12}, "number of people": {"type": "integer"}}}}

COMPLETIONS = {
    "greedy": {"prompt": LISTING, "temperature": 0, "max_tokens": 160},
    "log-probabilities": {"prompt": VERSES, "temperature": 0, "max_tokens": 60, "logprobs": 3},
    "two choices": {"prompt": LISTING, "temperature": 0.4, "seed": 3, "n": 2, "max_tokens": 80, "logprobs": 1},
    "hot": {"prompt": VERSES, "temperature": 1.3, "seed": 4, "max_tokens": 80},
    "penalties": {"prompt": VERSES, "temperature": 0.5, "seed": 5, "max_tokens": 80, "presence_penalty": 0.6,
                  "frequency_penalty": 0.4, "repetition_penalty": 1.1},
    "cut-offs": {"prompt": LISTING, "temperature": 0.7, "seed": 6, "max_tokens": 80, "top_p": 0.8, "top_k": 20},
    "a stop string": {"prompt": VERSES, "temperature": 0, "max_tokens": 120, "stop": ["sea is w"], "min_tokens": 15},
    "token ids": {"prompt": [100, 200, 300, 400] * 20, "temperature": 0, "max_tokens": 50},
    "one token": {"prompt": LISTING, "temperature": 0, "max_tokens": 1},
}
CHATS = {
    "a question": {"messages": user(QUESTIONS[0]), "temperature": 0, "max_tokens": 60},  # It ends by itself.
    "an ending held back": {"messages": user(QUESTIONS[0]), "temperature": 0, "max_tokens": 90, "min_tokens": 40},
    "a copy": {"messages": user("Repeat: " + VERSES), "temperature": 0.2, "seed": 1, "max_tokens": 100,
               "logprobs": True, "top_logprobs": 2},
    "a grammar": {"messages": user("Repeat: " + VERSES), "temperature": 0, "max_tokens": 60,
                  "guided_regex": "(The (moon|sea) is (bright|wide)[.] )+"},
    "a schema": {"messages": user("Name three towns."), "temperature": 0.8, "seed": 2, "max_tokens": 250, "logprobs": True,
                 "response_format": {"type": "json_schema", "json_schema": {"name": "towns", "strict": True, "schema": SCHEMA}}},
}


@pytest.fixture(scope="module")
def plain(shoal, demo_model, tmp_path_factory):
    """One process that drafts nothing."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 0,
                      serve_args=("--speculate", "off")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def eager(shoal, demo_model, tmp_path_factory):
    """One process that verifies whatever it can draft."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 0, serve_args=ALWAYS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def eager_trio(shoal, demo_model, tmp_path_factory):
    """Three processes that verify whatever they can draft."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 2,
                      serve_args=(*SPREAD, *LONG_TIMEOUT, *ALWAYS)) as cluster:
        yield cluster


def post(cluster, body):
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=TIMEOUT_S) as client:
        answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


def answer(cluster, body):
    """All of an answer that does not depend on the time."""
    whole = post(cluster, body).json()
    return whole["choices"], whole["usage"]["completion_tokens"]


def answers_at_once(cluster, bodies):
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: answer(cluster, body), bodies))


def streamed(cluster, body):
    """Text, log-probabilities and reason of each choice of a stream."""
    choices = {}
    for line in post(cluster, {**body, "stream": True}).text.splitlines():
        if not line.startswith("data: {"):
            continue
        for part in json.loads(line[6:])["choices"]:
            choice = choices.setdefault(part["index"], {"text": "", "logprobs": [], "reason": None})
            choice["text"] += part["text"]
            choice["logprobs"] += (part["logprobs"] or {"token_logprobs": []})["token_logprobs"]
            choice["reason"] = part["finish_reason"] or choice["reason"]
    return choices


def streamed_over_a_loss(cluster, body, accepted):
    """As streamed(); the worker of the last stage is killed when some drafts were right by this metric, and started again."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reading = pool.submit(streamed, cluster, body)
        assert wait_until(lambda: cluster.metrics()[accepted] > 20, 100)
        cluster.workers[1].kill()
        cluster.workers[1].start()
        got = reading.result()
    assert cluster.cache_stats()["engine_losses"] > 0
    return got


def joined(choices):
    return {one["index"]: {"text": one["text"], "logprobs": (one["logprobs"] or {"token_logprobs": []})["token_logprobs"],
                           "reason": one["finish_reason"]} for one in choices}


@pytest.mark.parametrize("drafting", ["single", "eager", "eager_trio"])
def test_answers_are_those_without_drafts(request, plain, drafting):
    cluster = request.getfixturevalue(drafting)
    before = cluster.metrics()
    for name, body in {**COMPLETIONS, **CHATS}.items():
        expected = answer(plain, body)
        assert answer(cluster, body) == expected, name
        assert answer(cluster, body) == expected, f"{name}, from the prefix cache"
    for name in ("greedy", "two choices", "a stop string"):
        assert streamed(cluster, COMPLETIONS[name]) == joined(answer(plain, COMPLETIONS[name])[0]), name
    after = cluster.metrics()
    if drafting != "single":
        assert after[ACCEPTED] > before[ACCEPTED] + 100
    assert plain.metrics()[DRAFTED] == 0


def test_many_at_once_get_their_answers(plain, eager):
    wanted = [body for body in COMPLETIONS.values() if body["max_tokens"] > 1] * 2
    assert answers_at_once(eager, wanted) == [answer(plain, body) for body in wanted]


def test_usage_says_what_became_of_drafts(plain, eager):
    body = {**COMPLETIONS["greedy"], "max_tokens": 200, "logit_bias": NEVER_END}
    rows = eager.cache_stats()["rows"]
    usage = post(eager, body).json()["usage"]
    rows = eager.cache_stats()["rows"] - rows
    details = usage["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 50
    prefilled = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    # The last token is given, and never computed.
    assert rows == prefilled + usage["completion_tokens"] - 1 + details["rejected_prediction_tokens"]
    assert "completion_tokens_details" not in post(plain, body).json()["usage"]


def test_a_text_goes_on_over_a_lost_worker(make_cluster, plain):
    body = {"prompt": LISTING, "temperature": 0, "max_tokens": 900, "logit_bias": NEVER_END, "stream": True}
    expected = joined(answer(plain, {**body, "stream": False})[0])
    cluster = make_cluster(2, serve_args=(*SPREAD, *ALWAYS))
    assert streamed_over_a_loss(cluster, body, ACCEPTED) == expected


def test_flags_are_checked(run, demo_model):
    for flags, said in ((("--speculate", "draft-model"), "lookup"), (("--draft-max", "0"), "128")):
        done = run("serve", "--model", demo_model, *flags)
        assert done.returncode != 0 and said in done.stderr, done.stderr
