"""The tables of docs/api.md on other APIs: each sample is sent to a server, which must do what the table says."""
import httpx
import pytest
from anthropic.types import message_create_params
from openai.types import embedding_create_params
from openai.types.responses import response_create_params

from field_tables import tables

MESSAGES = [{"role": "user", "content": "Tell me a story."}]

# The least that each endpoint needs, short and greedy.
BASE = {"/v1/responses": {"input": "Tell me a story.", "temperature": 0, "max_output_tokens": 8},
        "/v1/messages": {"messages": MESSAGES, "temperature": 0, "max_tokens": 8},
        "/api/chat": {"messages": MESSAGES, "stream": False, "options": {"temperature": 0, "num_predict": 8}},
        "/api/generate": {"prompt": "Tell me a story.", "stream": False, "options": {"temperature": 0, "num_predict": 8}},
        "/v1/embeddings": {"input": "a fox"},
        "/api/embed": {"input": "a fox"},
        "/api/embeddings": {"prompt": "a fox"},
        "/tokenize": {"content": "a fox"},
        "/detokenize": {"tokens": [100, 200]}}

# What of an answer the request decides.
SHOWN = {"/v1/responses": lambda answer: [item["content"] for item in answer["output"]],
         "/v1/messages": lambda answer: answer["content"],
         "/api/chat": lambda answer: answer["message"],
         "/api/generate": lambda answer: answer["response"],
         "/v1/embeddings": lambda answer: answer["data"],
         "/api/embed": lambda answer: answer["embeddings"],
         "/api/embeddings": lambda answer: answer["embedding"]}


ROWS = {(path, field): row for (path, field), row in tables().items() if path in BASE}


@pytest.fixture(scope="module")
def api(single):
    with httpx.Client(base_url=single.url, trust_env=False, timeout=60) as client:
        yield client


def message_of(answer):
    error = answer.json()["error"]
    return error if isinstance(error, str) else error["message"]


@pytest.mark.parametrize("path, field", ROWS, ids=[f"{path}-{field}" for path, field in ROWS])
def test_a_field_is_what_the_table_says(api, path, field):
    kind, sample = ROWS[path, field]
    assert field in sample and kind in ("honoured", "harmless", "refused")
    answer = api.post(path, json={**BASE[path], **sample})
    if kind == "refused":
        assert answer.status_code == 400 and field in message_of(answer), answer.text
        return
    assert answer.status_code == 200, answer.text
    if kind == "harmless":
        assert SHOWN[path](answer.json()) == SHOWN[path](api.post(path, json=BASE[path]).json())


def test_every_field_of_the_official_clients_is_in_the_tables():
    clients = {"/v1/responses": (response_create_params, "ResponseCreateParams"),
               "/v1/messages": (message_create_params, "MessageCreateParams")}
    for path, (module, name) in clients.items():
        fields = {*getattr(module, name + "Base").__annotations__,
                  *getattr(module, name + "NonStreaming").__annotations__}
        assert {field for field in fields if (path, field) not in ROWS} == set()
    embedding_fields = embedding_create_params.EmbeddingCreateParams.__annotations__
    assert {field for field in embedding_fields if ("/v1/embeddings", field) not in ROWS} == set()


@pytest.mark.parametrize("path", BASE)
def test_what_no_table_names_is_refused_by_name(api, path):
    refused = api.post(path, json={**BASE[path], "surprise": 1})
    assert refused.status_code == 400 and "surprise" in message_of(refused)
