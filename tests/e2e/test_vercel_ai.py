"""Vercel's AI SDK under Node, with one process and with three."""
import pytest

from dialogue import QUESTIONS, ask, client_of
from node_clients import run_node


@pytest.fixture(scope="module", params=["single", "trio"])
def cluster(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def got(cluster):
    return run_node("ai.mjs", cluster)


def test_a_stream_joins_to_the_answer(got, single):
    assert got["text"]["text"] == ask(client_of(single), QUESTIONS[0])
    assert got["stream"]["joined"] == got["text"]["text"]
    assert got["text"]["reason"] == got["stream"]["reason"] == "stop"
    for key in ("inputTokens", "outputTokens", "totalTokens"):
        assert got["stream"]["usage"][key] == got["text"]["usage"][key] > 0


def test_an_object_matches_its_schema(got):
    assert got["object"]["city"] in ("Lisbon", "Porto") and isinstance(got["object"]["sure"], bool)


def test_a_tool_is_called_and_its_result_goes_back(got):
    assert got["calls"]["asked"] and all(call["city"] in ("Paris", "Oslo") for call in got["calls"]["asked"])
    assert got["calls"]["steps"] == 2 and got["calls"]["reasons"][0] == "tool-calls"


def test_embeddings_are_those_of_the_official_client(got, single):
    data = client_of(single).embeddings.create(model="shoal-demo-4bit", input=["a fox", "a moon"]).data
    assert [one.embedding for one in data] == got["embeddings"]


def test_an_error_has_its_status_and_text(got):
    assert got["error"]["status"] == 404 and "another" in got["error"]["message"]
