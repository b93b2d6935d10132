"""Texts that must match something: every answer does, however the model is placed and the answer is sent."""
import concurrent.futures
import json
import re

import httpx
import pytest

from dialogue import QUESTIONS, ask, client_of, user
from structure import SCHEMAS, body_of, validate

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]},
                                                    "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["city", "days"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}

# GBNF as users of llama.cpp write it, and the same in Lark.
GBNF = 'root ::= "[" item ("," item){0,3} "]"\nitem ::= [0-9]{1,2} | root\n'
LARK = 'start: list\nlist: "[" item ("," item){0,3} "]"\nitem: /[0-9]{1,2}/ | list\n'


def chat(cluster, body):
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=120) as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def refusal(cluster, **fields):
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as client:
        answer = client.post("/v1/chat/completions", json={"messages": user("hi"), "max_tokens": 5, **fields})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def streamed(cluster, body):
    """The texts of all choices, joined from their pieces, and their finish reasons."""
    texts, reasons = {}, {}
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=120) as client:
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    index = choice["index"]
                    texts[index] = texts.get(index, "") + (choice["delta"].get("content") or "")
                    reasons[index] = choice["finish_reason"] or reasons.get(index)
    return texts, reasons


def text_of(choice):
    assert choice["finish_reason"] == "stop", choice
    return choice["message"]["content"]


def all_answers(cluster):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda one: chat(cluster, body_of(one["schema"]))[0], SCHEMAS))


@pytest.fixture(scope="module")
def answers(single):
    return all_answers(single)


def test_every_answer_is_of_its_schema(answers):
    assert len(SCHEMAS) >= 60
    for one, choice in zip(SCHEMAS, answers):
        assert validate(one["schema"], text_of(choice)) is None, f"{one['name']}: {choice}"


def test_three_processes_give_the_answers_of_one(trio, answers):
    for one, alone, spread in zip(SCHEMAS, answers, all_answers(trio)):
        assert spread["message"] == alone["message"], one["name"]


@pytest.mark.parametrize("fields, pattern", [
    ({"guided_regex": "[A-Z][a-z]{2,6} (is|are) [a-z]{3,8}\\."}, "[A-Z][a-z]{2,6} (is|are) [a-z]{3,8}\\."),
    ({"structured_outputs": {"regex": "\\d{4}-\\d{2}"}}, "\\d{4}-\\d{2}"),
    ({"guided_choice": ["yes", "no", "may be.", "not \"now\""]}, "yes|no|may be\\.|not \"now\""),
    ({"grammar": GBNF}, r"\[[0-9,\[\]]+\]"),
    ({"guided_grammar": LARK}, r"\[[0-9,\[\]]+\]"),
])
def test_texts_match_expressions_choices_and_grammars(single, trio, fields, pattern):
    bodies = [{"messages": user(text), "max_tokens": 300, "temperature": 1.0, "seed": seed, **fields}
              for seed, text in enumerate(QUESTIONS[:4])]
    for body in bodies:
        text = text_of(chat(single, body)[0])
        assert re.fullmatch(pattern, text), text
        assert text_of(chat(trio, body)[0]) == text


def test_each_of_several_choices_is_of_the_schema_and_streaming_changes_nothing(trio):
    schema = next(one["schema"] for one in SCHEMAS if one["name"] == "sentiment")
    body = body_of(schema, n=3, temperature=1.2)
    whole = {choice["index"]: text_of(choice) for choice in chat(trio, body)}
    assert sorted(whole) == [0, 1, 2]
    assert len(set(whole.values())) > 1
    for text in whole.values():
        assert validate(schema, text) is None, text
    texts, reasons = streamed(trio, body)
    assert texts == whole
    assert set(reasons.values()) == {"stop"}


def test_others_keep_their_text_beside_answers_of_schemas(trio):
    client = client_of(trio)
    alone = [ask(client, question) for question in QUESTIONS[:4]]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        bound = [pool.submit(chat, trio, body_of(one["schema"])) for one in SCHEMAS[:8]]
        beside = list(pool.map(lambda question: ask(client, question), QUESTIONS[:4]))
        for one in bound:
            one.result()
    assert beside == alone


def test_json_object_is_an_object(single):
    body = {"messages": user("Give me JSON."), "max_tokens": 200, "temperature": 0, "seed": 3,
            "response_format": {"type": "json_object"}, "stop": None}
    choice = chat(single, body)[0]
    text = choice["message"]["content"]
    assert text.startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_schema_that_cannot_be_enforced_names_its_keyword(single):
    def error_of(schema):
        return refusal(single, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})

    for keyword, schema in {"uniqueItems": {"type": "array", "uniqueItems": True},
                            "not": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}},
                            "if": {"if": {"type": "string"}, "then": {"maxLength": 3}},
                            "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}.items():
        error = error_of(schema)
        assert error["param"] == "response_format.json_schema.schema"
        assert f"'{keyword}'" in error["message"], error
    assert refusal(single, guided_regex="(")["param"] == "guided_regex"
    assert "line 1" in refusal(single, grammar="root ::= other")["message"]
    assert refusal(single, guided_regex="a", guided_choice=["b"])["param"] == "guided_choice"
    assert refusal(single, response_format={"type": "xml"})["param"] == "response_format.type"

def test_a_call_that_is_required_is_made_with_arguments_of_its_tool(single, trio):
    for choice, names in {"required": {"get_weather", "get_time"}, "named": {"get_weather"}}.items():
        wanted = choice if choice == "required" else {"type": "function", "function": {"name": "get_weather"}}
        for seed, question in enumerate(QUESTIONS[:4]):
            body = {"messages": user(question), "tools": [WEATHER, CLOCK], "tool_choice": wanted, "max_tokens": 300,
                    "temperature": 1.0, "seed": seed, "parallel_tool_calls": False}
            answer = chat(single, body)[0]
            assert chat(trio, body)[0]["message"]["tool_calls"][0]["function"] == \
                answer["message"]["tool_calls"][0]["function"]
            assert answer["finish_reason"] == ("tool_calls" if choice == "required" else "stop") or \
                answer["finish_reason"] == "tool_calls"
            calls = answer["message"]["tool_calls"]
            assert len(calls) == 1 and not answer["message"].get("content")
            function = calls[0]["function"]
            assert function["name"] in names
            parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, CLOCK)}
            assert validate(parameters[function["name"]], function["arguments"]) is None, function
