"""A request that is sent again with its Idempotency-Key gets the same answer, from where it stood; from a killed
coordinator, too."""
import json

import httpx
import pytest

from conftest import LONG_TIMEOUT
from dialogue import NEVER_END, user
from local_cluster import wait_until

STORY = {"messages": user("Tell me a story about a lonely robot."), "temperature": 1, "max_tokens": 300,
         "logit_bias": NEVER_END}
WAIT_S = 60
# What is on record is verified at once, and not only where that is faster on a busy machine.
ALWAYS = ("--speculate", "always")


def client(cluster, api_key="unused"):
    return httpx.Client(base_url=cluster.url, trust_env=False, timeout=WAIT_S, headers={"Authorization": f"Bearer {api_key}"})


def post(cluster, key, body=None, path="/v1/chat/completions", api_key="unused", **options):
    with client(cluster, api_key) as api:
        return api.post(path, json={**(body or STORY), **options}, headers={"Idempotency-Key": key} if key is not None else {})


def text_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def accepted(answer):
    """Tokens that were found on record, and verified."""
    return answer.json()["usage"].get("completion_tokens_details", {}).get("accepted_prediction_tokens", 0)


def stream(cluster, key, characters=None):
    """What a client saw of a stream: its text, and how much of it was found on record. It leaves after so many characters."""
    seen, found = "", None
    body = {**STORY, "stream": True, "stream_options": {"include_usage": True}}
    with client(cluster) as api, api.stream("POST", "/v1/chat/completions", json=body,
                                            headers={"Idempotency-Key": key}) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                found = event["usage"].get("completion_tokens_details", {}).get("accepted_prediction_tokens", 0)
            for choice in event["choices"]:
                seen += choice["delta"].get("content") or ""
            if characters is not None and len(seen) >= characters:
                return seen, found
    assert characters is None, f"the stream has ended after {len(seen)} characters"
    return seen, found


def test_the_same_key_gets_the_same_answer_without_a_seed(single):
    first, second = post(single, "a"), post(single, "a")
    assert text_of(first) == text_of(second) and first.json()["id"] == second.json()["id"]
    assert text_of(post(single, "b")) != text_of(first)
    assert text_of(post(single, None)) != text_of(first)


def test_what_is_on_record_is_verified_and_not_computed_again(make_cluster):
    cluster = make_cluster(0, serve_args=ALWAYS)
    first, second = post(cluster, "a"), post(cluster, "a")
    assert text_of(first) == text_of(second) and accepted(second) > accepted(first) + 200


def test_a_key_means_the_same_on_every_cluster(single, trio):
    assert text_of(post(single, "c")) == text_of(post(trio, "c"))


def test_a_client_that_lost_its_stream_gets_it_from_its_begin(single, trio):
    seen, _ = stream(trio, "d", 200)
    again, _ = stream(trio, "d")
    assert again.startswith(seen) and again == stream(single, "d")[0]


def test_every_choice_is_on_record(make_cluster):
    cluster = make_cluster(0, serve_args=ALWAYS)
    options = {"n": 3, "max_tokens": 60}
    first, second = (post(cluster, "e", **options).json() for _ in range(2))
    assert first["choices"] == second["choices"]
    assert len({one["message"]["content"] for one in first["choices"]}) == 3
    assert second["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 100


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 1}),
    ("/v1/responses", {"input": "Tell me a story.", "max_output_tokens": 40, "temperature": 1}),
    ("/v1/messages", {"messages": user("Tell me a story."), "max_tokens": 40, "temperature": 1}),
    ("/v1/chat/completions", {"messages": user("Where?"), "max_tokens": 40, "temperature": 1,
                              "response_format": {"type": "json_object"}}),
])
def test_other_requests_too(single, path, body):
    first, second = (post(single, f"f {path} {len(str(body))}", body, path).json() for _ in range(2))
    for answer in (first, second):
        for name in ("created", "created_at", "completed_at", "usage"):
            answer.pop(name, None)
    assert first == second or path == "/v1/responses"
    if path == "/v1/responses":
        assert first["id"] == second["id"]
        assert [part["text"] for part in first["output"][-1]["content"]] == [part["text"] for part in second["output"][-1]["content"]]


def test_a_key_is_for_one_body_of_one_caller(make_cluster, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("key-of-ann name=ann\nkey-of-bob name=bob\n")
    cluster = make_cluster(0, serve_args=("--api-key-file", keys))
    short = {**STORY, "max_tokens": 20}
    first = text_of(post(cluster, "a", short, api_key="key-of-ann"))
    refused = post(cluster, "a", short, api_key="key-of-ann", max_tokens=21)
    assert refused.status_code == 422 and refused.json()["error"]["code"] == "idempotency_key_reused"
    assert text_of(post(cluster, "a", short, api_key="key-of-bob", max_tokens=21)) != first
    assert text_of(post(cluster, "a", short, api_key="key-of-ann")) == first


def test_what_is_no_key_is_refused(single):
    for wrong in ("", "a" * 256, "a\tb"):
        refused = post(single, wrong)
        assert refused.status_code == 400 and "Idempotency-Key" in refused.json()["error"]["message"], refused.text


def test_a_killed_coordinator_goes_on_from_where_the_answer_stood(make_cluster, single, tmp_path):
    cluster = make_cluster(1, serve_args=("--split", "3,3", "--answers-dir", tmp_path / "answers", *LONG_TIMEOUT,
                                         *ALWAYS))
    seen, _ = stream(cluster, "g", 500)
    # Some hundredths of a second later it is in the file.
    assert wait_until(lambda: (tmp_path / "answers/answers.log").stat().st_size > 500, WAIT_S)
    cluster.coordinator.kill()
    cluster.coordinator.start()
    cluster.wait_ready(WAIT_S)
    again, found = stream(cluster, "g")
    assert again.startswith(seen) and again == stream(single, "g")[0]
    assert found > 50
    cluster.coordinator.stop()
    cluster.coordinator.start()
    cluster.wait_ready(WAIT_S)
    again, found = stream(cluster, "g")
    assert again.startswith(seen) and found > 200, "all of it, once it was whole"


def test_a_folder_of_answers_is_one_servers(make_cluster, tmp_path, shoal, demo_model, run):
    make_cluster(0, serve_args=("--answers-dir", tmp_path / "answers"))
    refused = run("serve", "--model", demo_model, "--port", "0", "--answers-dir", tmp_path / "answers")
    assert refused.returncode != 0 and "another server has its answers there" in refused.stderr


def test_damage_is_a_line_in_the_log_and_a_slower_answer(make_cluster, single, tmp_path):
    folder = tmp_path / "answers"
    cluster = make_cluster(0, serve_args=("--answers-dir", folder))
    first = text_of(post(cluster, "h"))
    cluster.coordinator.stop()
    log = folder / "answers.log"
    log.write_bytes(log.read_bytes()[:-3])
    cluster.coordinator.start()
    cluster.wait_ready(WAIT_S)
    assert "damaged" in cluster.coordinator.log()
    assert text_of(post(cluster, "h")) == first == text_of(post(single, "h"))
