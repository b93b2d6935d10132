"""Requests as agents send them: their shapes, written down by hand from the clients' public sources, sent to one process."""
import json
from pathlib import Path

import httpx
import pytest

FILES = sorted((Path(__file__).parent / "clients").glob("*.json"))
CASES = [(file.stem, request) for file in FILES for request in json.loads(file.read_text())["requests"]]


@pytest.fixture(scope="module")
def api(single):
    with httpx.Client(base_url=single.url, trust_env=False, timeout=120) as client:
        yield client


def events(response):
    """The data of a stream, [DONE] last."""
    assert response.headers["content-type"] == "text/event-stream"
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]


def joined(chunks):
    """What a client makes of a stream: (text, calls, finish_reason), in the shapes that it relies on."""
    text, calls, reason = "", {}, None
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice.get("delta", {"content": choice.get("text")})
            text += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                assert call["function"] is not None
                calls.setdefault(call["index"], []).append(call)
            reason = choice["finish_reason"] or reason
    for parts in calls.values():
        assert parts[0]["id"] and parts[0]["type"] == "function" and parts[0]["function"]["name"]
        json.loads("".join(part["function"].get("arguments") or "" for part in parts))
    return text, calls, reason


@pytest.mark.parametrize("client, request_", CASES, ids=[f"{name}-{request['what']}" for name, request in CASES])
def test_what_a_client_sends_is_answered(api, client, request_):
    model = api.get("/v1/models").json()["data"][0]["id"]
    body = {**request_["body"], "model": model}
    # The demo model may run on; a client's own limit is kept where it is small.
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    asked = body.get(limit)
    if asked is None:
        body[limit] = 64
    elif asked > 2048:
        # What it asks for is clamped: sent as it is, but for a stop that ends the text soon.
        body.setdefault("stop", [".", "\n", "?", "!"])
    response = api.post(request_["path"], json=body)
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        message = response.json()["choices"][0]["message"]
        assert message["role"] == "assistant" and (message["content"] or message.get("tool_calls"))
        return
    data = events(response)
    assert data[-1] == "[DONE]"
    chunks = [json.loads(one) for one in data[:-1]]
    text, calls, reason = joined(chunks)
    assert reason in ("stop", "length", "tool_calls")
    assert (reason == "tool_calls") == bool(calls) or reason == "length"
    if body.get("stream_options"):
        usage = chunks[-1]["usage"]
        assert chunks[-1]["choices"] == [] and usage["total_tokens"] > usage["prompt_tokens"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
    if request_.get("continues"):
        assert "Portugal" in text or "Lisbon" in text
