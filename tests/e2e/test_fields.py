"""The tables of docs/api.md: each sample is sent to a server, which must do what the table says."""
import httpx
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from field_tables import tables

# The least that each endpoint needs, short and greedy.
BASE = {"/v1/chat/completions": {"messages": [{"role": "user", "content": "Tell me a story."}],
                                 "temperature": 0, "max_tokens": 8, "seed": 1},
        "/v1/completions": {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 8, "seed": 1}}


# Those of the other APIs are read by test_dialect_fields.
ROWS = {(path, field): row for (path, field), row in tables().items() if path in BASE}


@pytest.fixture(scope="module")
def api(single):
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path, field", ROWS, ids=[f"{path[4:]}-{field}" for path, field in ROWS])
def test_a_field_is_what_the_table_says(api, path, field):
    kind, sample = ROWS[path, field]
    assert field in sample and kind in ("honoured", "harmless", "refused")
    answer = api.post(path, json={**BASE[path], **sample})
    if kind == "refused":
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"].startswith(field) and field in error["message"] and error["code"]
        return
    assert answer.status_code == 200, answer.text
    if kind == "harmless":
        others = {key: value for key, value in sample.items() if key != field}
        plain = api.post(path, json={**BASE[path], **others})
        assert answer.json()["choices"] == plain.json()["choices"]


def test_every_field_of_the_official_client_is_in_the_tables():
    for path, module in (("/v1/chat/completions", chat_create_params), ("/v1/completions", completion_create_params)):
        fields = {*module.CompletionCreateParamsBase.__annotations__,
                  *module.CompletionCreateParamsNonStreaming.__annotations__}
        assert {field for field in fields if (path, field) not in ROWS} == set()


def test_what_no_table_names_is_refused_and_what_says_nothing_is_not(api):
    for path, base in BASE.items():
        refused = api.post(path, json={**base, "surprise": 1})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "unknown_parameter"
        for empty in (None, "", [], {}):
            assert api.post(path, json={**base, "surprise": empty}).status_code == 200
