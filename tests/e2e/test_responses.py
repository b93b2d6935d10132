"""OpenAI's /v1/responses: the official client, and the shapes that Codex sends."""
import json

import httpx
import openai
import pytest

from dialogue import QUESTIONS, ask, client_of, model_of


@pytest.fixture(scope="module")
def client(single):
    return client_of(single)


def create(client, text=QUESTIONS[0], **more):
    return client.responses.create(**{"model": model_of(client), "input": text, "temperature": 0,
                                      "max_output_tokens": 64, **more})


def test_a_response_is_what_a_chat_says(client):
    response = create(client)
    assert response.output_text == ask(client, QUESTIONS[0])
    assert response.status == "completed"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_stream_builds_the_same_response(client):
    whole = create(client)
    with client.responses.stream(model=model_of(client), input=QUESTIONS[0], temperature=0,
                                 max_output_tokens=64) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        built = stream.get_final_response()
    assert text == built.output_text == whole.output_text
    assert built.usage.output_tokens == whole.usage.output_tokens


def test_three_processes_say_what_one_says(client, trio):
    assert create(client_of(trio), QUESTIONS[2]).output_text == create(client, QUESTIONS[2]).output_text


def test_a_conversation_goes_on_from_a_stored_response(client):
    first = create(client, instructions="Be brief")
    second = create(client, "And of Spain?", previous_response_id=first.id)
    replayed = create(client, [{"role": "user", "content": QUESTIONS[0]},
                               {"role": "assistant", "content": first.output_text},
                               {"role": "user", "content": "And of Spain?"}])
    assert second.output_text == replayed.output_text
    assert second.usage.input_tokens == replayed.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        create(client, "And?", previous_response_id=first.id)
    assert gone.value.code == "previous_response_not_found"


def test_what_is_cut_off_is_incomplete(client):
    response = create(client, max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


def test_a_turn_of_codex(single):
    """The shapes of its requests, written by hand: items, tools of several kinds, encrypted reasoning."""
    body = {
        "model": "shoal-demo-4bit", "stream": True, "store": False, "parallel_tool_calls": False, "tool_choice": "auto",
        "instructions": "You are a coding agent.", "prompt_cache_key": "0199-abc",
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "medium", "summary": "auto"},
        "text": {"verbosity": "low"}, "client_metadata": {"x-codex-installation-id": "1"}, "max_output_tokens": 40,
        "tools": [
            {"type": "function", "name": "shell", "description": "Runs", "strict": False,
             "parameters": {"type": "object", "properties": {"command": {"type": "array", "items": {"type": "string"}}}}},
            {"type": "custom", "name": "apply_patch", "description": "Patches",
             "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
            {"type": "web_search", "external_web_access": False}],
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List files"}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "function_call", "name": "shell", "arguments": "{\"command\":[\"ls\"]}", "call_id": "call_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "a.c"},
            {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin", "call_id": "call_2"},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "ok"}],
    }
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as http:
        answer = http.post("/v1/responses", json=body, headers={"Accept": "text/event-stream"})
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    assert [i["type"] for i in events[-1]["response"]["output"]]
