"""Anthropic's messages API: the official client, and the shapes that Claude Code sends."""
import json

import anthropic
import httpx2
import pytest

from dialogue import QUESTIONS, ask, client_of

WEATHER = {"name": "get_weather", "description": "The weather of a city",
           "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


@pytest.fixture(scope="module")
def client(single):
    return anthropic.Anthropic(base_url=single.url, api_key="unused", max_retries=0,
                               http_client=httpx2.Client(trust_env=False, timeout=60))


GREEDY = {"temperature": 0}  # Its newest client has no argument for it any more; the API keeps the field.


def create(client, **more):
    return client.messages.create(**{"model": "shoal-demo-4bit", "max_tokens": 64, "extra_body": GREEDY,
                                     "messages": [{"role": "user", "content": QUESTIONS[0]}], **more})


def test_a_message_is_what_openais_api_says(client, single):
    message = create(client)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == ask(client_of(single), QUESTIONS[0])
    assert (message.role, message.stop_reason) == ("assistant", "end_turn")
    assert message.usage.output_tokens > 0


def test_a_stream_builds_the_same_message(client):
    whole = create(client)
    with client.messages.stream(model="shoal-demo-4bit", max_tokens=64, extra_body=GREEDY,
                                messages=[{"role": "user", "content": QUESTIONS[0]}]) as stream:
        text = "".join(stream.text_stream)
        built = stream.get_final_message()
    assert text == whole.content[0].text
    assert [block.model_dump() for block in built.content] == [block.model_dump() for block in whole.content]
    assert (built.stop_reason, built.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_three_processes_say_what_one_says(single, trio):
    def text(cluster):
        with anthropic.Anthropic(base_url=cluster.url, api_key="x", max_retries=0,
                                 http_client=httpx2.Client(trust_env=False, timeout=60)) as client:
            return create(client, messages=[{"role": "user", "content": QUESTIONS[3]}]).content[0].text
    assert text(trio) == text(single)


def test_stop_sequences_and_limits_are_told(client):
    whole = create(client).content[0].text
    stop = whole[5:9]
    stopped = create(client, stop_sequences=[stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert stopped.content[0].text == whole[:whole.index(stop)]
    assert create(client, max_tokens=2).stop_reason == "max_tokens"


def test_tokens_are_counted_before_they_are_sent(client):
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    counted = client.messages.count_tokens(model="shoal-demo-4bit", messages=messages, system="Be brief", tools=[WEATHER])
    assert counted.input_tokens == create(client, system="Be brief", tools=[WEATHER]).usage.input_tokens


def test_errors_are_the_clients_own(client):
    with pytest.raises(anthropic.NotFoundError):
        create(client, model="no-such-model")
    with pytest.raises(anthropic.BadRequestError) as refused:
        create(client, messages=[{"role": "user", "content": [{"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "aGk="}}]}])
    assert "messages[0].content[0].type" in refused.value.message
    with pytest.raises(anthropic.BadRequestError) as long:
        create(client, messages=[{"role": "user", "content": "word " * 4000}])
    assert "prompt is too long" in long.value.message


def test_a_turn_of_claude_code(single):
    """The shapes of its requests, written by hand: betas, cached blocks, tools, replayed thinking, results."""
    body = {
        "model": "claude-sonnet-4-5-20250929", "max_tokens": 40, "stream": True, "temperature": 1,
        "metadata": {"user_id": "user_abc_account__session_1"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are a coding agent.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "tools": [{**WEATHER, "eager_input_streaming": True}, {**WEATHER, "name": "Read", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\nToday\n</system-reminder>"},
                                         {"type": "text", "text": "Read a.c", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "I read it.", "signature": ""},
                {"type": "text", "text": "Reading."},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"city": "a.c"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": False,
                 "content": [{"type": "text", "text": "int main"}], "cache_control": {"type": "ephemeral"}}]}],
    }
    headers = {"x-api-key": "unused", "anthropic-version": "2023-06-01",
               "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
    with httpx2.Client(base_url=single.url, trust_env=False, timeout=60) as http:
        answer = http.post("/v1/messages?beta=true", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [e["type"] for e in events][:2] == ["message_start", "ping"]
    assert [e["type"] for e in events][-2:] == ["message_delta", "message_stop"]
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [e["type"] for e in events]
