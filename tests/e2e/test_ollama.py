"""Ollama's API, with its official client."""
import httpx
import ollama
import pytest

from dialogue import QUESTIONS, ask, client_of, user

MODEL = "shoal-demo-4bit"
GREEDY = {"temperature": 0, "num_predict": 64, "num_ctx": 4096}


@pytest.fixture(scope="module")
def client(single):
    return ollama.Client(host=single.url, trust_env=False, timeout=60)


def test_a_chat_is_what_openais_api_says(client, single):
    answer = client.chat(MODEL, messages=user(QUESTIONS[0]), options=GREEDY, keep_alive="5m")
    assert answer.message.content == ask(client_of(single), QUESTIONS[0])
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.eval_count > 0 and answer.prompt_eval_count > 0 and answer.total_duration > 0


def test_a_stream_joins_to_the_answer(client):
    whole = client.chat(MODEL, messages=user(QUESTIONS[0]), options=GREEDY)
    parts = list(client.chat(MODEL + ":latest", messages=user(QUESTIONS[0]), options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def test_three_processes_say_what_one_says(client, trio):
    other = ollama.Client(host=trio.url, trust_env=False, timeout=60)
    question = user(QUESTIONS[2])
    assert (other.chat(MODEL, messages=question, options=GREEDY).message.content
            == client.chat(MODEL, messages=question, options=GREEDY).message.content)


def test_generate_takes_a_prompt(client):
    through_template = client.generate(MODEL, prompt=QUESTIONS[0], options=GREEDY)
    assert through_template.response == client.chat(MODEL, messages=user(QUESTIONS[0]), options=GREEDY).message.content
    raw = client.generate(MODEL, prompt=QUESTIONS[0], raw=True, options=GREEDY)
    assert raw.prompt_eval_count < through_template.prompt_eval_count
    pieces = [part.response for part in client.generate(MODEL, prompt=QUESTIONS[0], options=GREEDY, stream=True)]
    assert "".join(pieces) == through_template.response


def test_tools_and_their_results_are_taken(client):
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
    messages = [*user("Weather in Tokyo? Use the tool."),
                {"role": "assistant", "content": "", "tool_calls": [
                    {"function": {"name": "get_weather", "arguments": {"city": "Tokyo"}}}]},
                {"role": "tool", "tool_name": "get_weather", "content": "sunny"}]
    assert client.chat(MODEL, messages=messages, tools=[tool], options=GREEDY).done


def test_the_model_is_listed_and_shown(client):
    assert [model.model for model in client.list().models] == [MODEL + ":latest"]
    assert client.ps().models[0].context_length > 0
    shown = client.show(MODEL)
    assert "tools" in shown.capabilities
    assert shown.modelinfo["general.architecture"] == "qwen3_moe"
    assert shown.modelinfo["qwen3_moe.context_length"] == 2048


def test_errors_are_the_clients_own(client):
    with pytest.raises(ollama.ResponseError) as unknown:
        client.chat("no-such-model", messages=user("hi"))
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as image:
        client.chat(MODEL, messages=[{"role": "user", "content": "hi", "images": [b"png"]}])
    assert "images" in image.value.error
    with pytest.raises(ollama.ResponseError) as option:
        client.chat(MODEL, messages=user("hi"), options={"mirostat": 2})
    assert "options.mirostat" in option.value.error


def test_a_request_without_messages_loads(single):
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as http:
        answer = http.post("/api/chat", json={"model": MODEL}).json()
    assert (answer["done"], answer["done_reason"]) == (True, "load")
