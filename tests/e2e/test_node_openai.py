"""The official OpenAI client of Node, with one process and with three."""
import math

import pytest

from local_cluster import wait_until
from node_clients import run_node


@pytest.fixture(scope="module", params=["single", "trio"])
def cluster(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def got(cluster):
    return run_node("openai.mjs", cluster)


def test_the_model_is_listed_with_its_context(got):
    assert got["models"][0] == {"id": "shoal-demo-4bit", "context": 2048}


def test_a_stream_joins_to_the_answer(got):
    assert "Lisbon" in got["chat"]["content"]
    assert got["chat"]["reason"] == "stop"
    assert got["stream"]["joined"] == got["stream"]["content"] == got["chat"]["content"]
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert got["stream"]["usage"][key] == got["chat"]["usage"][key] > 0


def test_calls_have_arguments_of_their_tool_and_their_results_are_answered(got):
    assert got["call"]["name"] == "get_weather"
    assert got["call"]["arguments"]["city"] in ("Paris", "Oslo")
    assert got["after_call"] in ("stop", "length", "tool_calls")


def test_an_answer_is_parsed_by_its_schema(got):
    assert got["parsed"]["city"] in ("Lisbon", "Porto") and isinstance(got["parsed"]["sure"], bool)


def test_the_responses_api_streams_its_text(got):
    assert got["response"]["joined"] == got["response"]["text"] == got["chat"]["content"]
    assert got["response"]["last"] == "response.completed"


def test_an_echo_has_log_probabilities(got):
    logprobs = got["echo"]["logprobs"]
    assert "".join(logprobs["tokens"]) == got["echo"]["text"] == "The capital of France is Paris"
    assert logprobs["token_logprobs"][0] is None and all(p <= 0 for p in logprobs["token_logprobs"][1:])


def test_embeddings_have_length_one(got):
    assert len(got["embeddings"]) == 2 and got["embeddings"][0] != got["embeddings"][1]
    for embedding in got["embeddings"]:
        assert math.isclose(sum(value * value for value in embedding), 1, abs_tol=1e-5)


def test_an_error_has_its_code(got):
    assert got["error"] == {"status": 400, "code": "unknown_parameter", "kind": "BadRequestError"}


def test_a_stream_that_is_left_ends(got, cluster):
    assert got["abandoned"] > 3
    assert wait_until(lambda: cluster.cache_stats()["requests"] == {"running": 0, "waiting": 0}, 30)


def test_three_processes_say_what_one_says(single, trio):
    got, other = run_node("openai.mjs", trio), run_node("openai.mjs", single)
    for key in ("parsed", "call", "echo", "embeddings"):
        assert other[key] == got[key], key
    assert other["chat"]["content"] == got["chat"]["content"]
