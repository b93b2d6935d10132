"""LiteLLM, with one process and with three. It runs in an environment of its own (tests/e2e/litellm)."""
import functools
import json
import subprocess
from pathlib import Path

import pytest

from dialogue import QUESTIONS, ask, client_of

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build/litellm/bin/python"


@functools.cache
def run_client(url):
    assert PYTHON.is_file(), f"{PYTHON} is missing: `./dev setup` makes it"
    done = subprocess.run([PYTHON, ROOT / "tests/e2e/litellm/client.py", url], capture_output=True, text=True, timeout=80,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["single", "trio"])
def cluster(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def got(cluster):
    return run_client(cluster.url)


def test_every_provider_gets_what_the_official_client_gets(got, single):
    said = ask(client_of(single), QUESTIONS[0])
    assert set(got["answers"].values()) == {said}, got["answers"]
    assert got["together"] == [said] * 4 and got["responses"] == said


def test_a_stream_joins_to_the_answer(got):
    assert got["stream"]["text"] == got["together"][0] and got["stream"]["reason"] == "stop"
    assert all(count > 0 for count in got["stream"]["usage"])


def test_a_tool_is_called_and_its_result_goes_back(got):
    call = got["call"]
    assert call["reason"] == "tool_calls" and set(call["names"]) == {"get_weather"}
    assert all(one["city"] in ("Tokyo", "Oslo") for one in call["arguments"])
    assert call["then"] in ("stop", "tool_calls", "length")


def test_an_object_matches_its_schema(got):
    assert got["object"]["city"] in ("Lisbon", "Porto") and isinstance(got["object"]["sure"], bool)


def test_embeddings_are_those_of_the_official_client(got, single):
    data = client_of(single).embeddings.create(model="shoal-demo-4bit", input=["a fox", "a moon"]).data
    assert [one.embedding for one in data] == got["embeddings"]


def test_errors_are_of_the_class_that_programs_match(got):
    assert got["errors"] == {"another model": "NotFoundError", "too long": "ContextWindowExceededError",
                             "wrong field": "BadRequestError"}
