"""Pydantic AI, with one process and with three."""
import asyncio
import os
from typing import Literal

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

os.environ["LOGFIRE_SEND_TO_LOGFIRE"] = "false"

from pydantic_ai import Agent, NativeOutput  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402

from dialogue import QUESTIONS, ask, client_of  # noqa: E402


@pytest.fixture(params=["single", "trio"])
def cluster(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(cluster):
    client = AsyncOpenAI(base_url=cluster.url + "/v1", api_key="unused", max_retries=0, timeout=60,
                         http_client=httpx.AsyncClient(trust_env=False, timeout=60))
    return OpenAIChatModel("shoal-demo-4bit", provider=OpenAIProvider(openai_client=client))


GREEDY = {"temperature": 0, "max_tokens": 200}


class Answer(BaseModel):
    city: Literal["Lisbon", "Porto"]
    sure: bool


def test_an_agent_says_what_the_official_client_gets(model, single):
    answer = Agent(model, model_settings=GREEDY).run_sync(QUESTIONS[0])
    assert answer.output == ask(client_of(single), QUESTIONS[0])
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0


def test_an_output_type_is_called_as_a_tool(model):
    answer = Agent(model, output_type=Answer, model_settings=GREEDY).run_sync(QUESTIONS[0])
    assert answer.output.city in ("Lisbon", "Porto")


def test_an_output_type_is_a_schema_of_the_answer(model):
    answer = Agent(model, output_type=NativeOutput(Answer), model_settings=GREEDY).run_sync(QUESTIONS[0])
    assert answer.output.city in ("Lisbon", "Porto")


def test_a_conversation_goes_on(model):
    agent = Agent(model, system_prompt="You are helpful.", model_settings=GREEDY)
    first = agent.run_sync(QUESTIONS[0])
    second = agent.run_sync(QUESTIONS[1], message_history=first.all_messages())
    assert second.output and len(second.all_messages()) == 4


def test_a_stream_joins_to_the_answer(model):
    agent = Agent(model, model_settings=GREEDY)

    async def both():
        async with agent.run_stream(QUESTIONS[0]) as stream:
            joined = "".join([piece async for piece in stream.stream_text(delta=True, debounce_by=None)])
        return joined, (await agent.run(QUESTIONS[0])).output

    joined, whole = asyncio.run(both())
    assert joined == whole
