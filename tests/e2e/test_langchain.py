"""LangChain's client of OpenAI's API, with one process and with three."""
import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI

from dialogue import QUESTIONS


@pytest.fixture(params=["single", "trio"])
def cluster(request):
    return request.getfixturevalue(request.param)


def options(cluster):
    return {"base_url": cluster.url + "/v1", "api_key": "unused", "model": "shoal-demo-4bit", "temperature": 0,
            "max_retries": 0, "timeout": 60, "http_client": httpx.Client(trust_env=False, timeout=60)}


@pytest.fixture
def chat(cluster):
    return ChatOpenAI(**options(cluster), max_tokens=64, stream_usage=True)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def test_a_stream_joins_to_the_answer(chat):
    whole = chat.invoke(QUESTIONS[0])
    assert "Lisbon" in whole.content
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["total_tokens"] > whole.usage_metadata["output_tokens"] > 0
    streamed = None
    for chunk in chat.stream(QUESTIONS[0]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == whole.content
    assert streamed.usage_metadata == whole.usage_metadata


def test_a_history_with_a_call_and_its_result_is_answered(chat):
    history = [SystemMessage("You are helpful."), HumanMessage("Weather in Tokyo? Use the tool."),
               AIMessage("", tool_calls=[{"id": "call_1", "name": "get_weather", "args": {"city": "Tokyo"}}]),
               ToolMessage("sunny in Tokyo", tool_call_id="call_1")]
    answer = chat.bind_tools([get_weather]).invoke(history)
    assert answer.content or answer.tool_calls


def test_a_batch_and_several_choices(chat):
    answers = chat.batch(QUESTIONS[:3])
    assert [chat.invoke(q).content for q in QUESTIONS[:3]] == [a.content for a in answers]
    several = chat.generate([[HumanMessage(QUESTIONS[2])]], n=2)
    assert len(several.generations[0]) == 2


def test_log_probabilities(chat):
    answer = chat.bind(logprobs=True, top_logprobs=3).invoke(QUESTIONS[0])
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(t["token"] for t in tokens) == answer.content
    assert all(len(t["top_logprobs"]) == 3 and t["logprob"] <= 0 for t in tokens)


def test_plain_completions(cluster):
    assert "Paris" in OpenAI(**options(cluster), max_tokens=12).invoke("The capital of France is")
