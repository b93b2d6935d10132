"""Whose request runs next, what a full queue says, and that none of it changes a byte (docs/scheduling.md)."""
import asyncio
import concurrent.futures
import contextlib
import itertools

import httpx
import openai
import pytest

from conftest import LONG_TIMEOUT, SPREAD
from dialogue import ENDLESS, client_of, model_of, user
from local_cluster import wait_until
from test_many_streams import all_at_once, requests

# A step of one row has room for one sequence: one slot.
ONE_SLOT = ("--rows-per-step", "1", *LONG_TIMEOUT)
WAIT_S = 120
# A request of each API.
API_BODIES = {
    "/v1/chat/completions": {"messages": user("The tide comes in."), "max_tokens": 1},
    "/v1/completions": {"prompt": "The tide comes in.", "max_tokens": 1},
    "/v1/embeddings": {"input": "The tide comes in."},
    "/v1/responses": {"input": "The tide comes in.", "max_output_tokens": 1},
    "/v1/messages": {"messages": user("The tide comes in."), "max_tokens": 1},
    "/api/chat": {"messages": user("The tide comes in."), "options": {"num_predict": 1}, "stream": False},
    "/api/generate": {"prompt": "The tide comes in.", "options": {"num_predict": 1}, "stream": False},
    "/api/embed": {"input": "The tide comes in."},
}


def client(cluster, key="unused"):
    return openai.OpenAI(base_url=cluster.url + "/v1", api_key=key, max_retries=0, timeout=WAIT_S,
                         http_client=httpx.Client(trust_env=False, timeout=WAIT_S))


def http(cluster, key="unused"):
    return httpx.Client(base_url=cluster.url, trust_env=False, timeout=WAIT_S, headers={"Authorization": f"Bearer {key}"})


def endless(api, **options):
    """A stream that has begun to answer once this returns, and goes on until it is closed."""
    stream = api.chat.completions.create(model=model_of(api), messages=user("Tell me a story."), stream=True,
                                         extra_body=options, **ENDLESS)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            return stream
    raise AssertionError("a stream that was to go on has ended")


class Line:
    """Requests that wait for the one slot of a server, whose worker stands still until all are there; each leaves the slot
    as soon as it has its first token."""

    def __init__(self, cluster, key="unused"):
        self.cluster = cluster
        self.key = key
        self.began = []
        self.pool = concurrent.futures.ThreadPoolExecutor(32)
        self.asked = []
        self.blocker = endless(client(cluster, key))
        cluster.workers[0].pause()

    def waiting(self):
        with http(self.cluster, self.key) as api:
            return api.get("/cache/stats").json()["requests"]["waiting"]

    def ask(self, name, key="unused", **options):
        """Returns when the request waits, behind all before it."""
        def run():
            with client(self.cluster, key) as api:
                stream = endless(api, **options)
                self.began.append(name)
                stream.close()
        self._wait_in_line(run)

    def post(self, name, key=None, path="/v1/embeddings", **body):
        """The same in the words of another API, whose answer comes whole."""
        def run():
            with http(self.cluster, key) as api:
                answer = api.post(path, json={**API_BODIES[path], **body})
                assert answer.status_code == 200, answer.text
                self.began.append(name)
        self._wait_in_line(run)

    def _wait_in_line(self, run):
        self.asked.append(self.pool.submit(run))
        assert wait_until(lambda: self.waiting() == len(self.asked), WAIT_S)

    def order(self):
        self.blocker.close()
        self.cluster.workers[0].resume()
        for one in self.asked:
            one.result(WAIT_S)
        self.pool.shutdown()
        return self.began


def test_a_lower_priority_number_is_served_first(make_cluster):
    line = Line(make_cluster(1, serve_args=ONE_SLOT))
    for name, options in (("none", {}), ("5", {"priority": 5}), ("-5", {"priority": -5}), ("0", {"priority": 0}),
                          ("-100", {"priority": -100})):
        line.ask(name, **options)
    assert line.order() == ["-100", "-5", "none", "0", "5"]


@pytest.fixture
def with_keys(make_cluster, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("key-of-ann name=ann\nkey-of-bob name=bob\nkey-of-eve name=eve priority=-10\nkey-of-job name=job priority=20\n")
    cluster = make_cluster(1, serve_args=("--api-key-file", keys, *ONE_SLOT))
    return cluster


def test_a_key_that_floods_does_not_hold_up_another(with_keys):
    line = Line(with_keys, "key-of-ann")
    for i in range(15):
        line.ask(f"ann {i}", "key-of-ann")
    line.ask("bob", "key-of-bob")
    order = line.order()
    assert order.index("bob") <= 2, order
    assert [name for name in order if name != "bob"] == [f"ann {i}" for i in range(15)]


def test_a_key_has_the_priority_of_its_line_and_asks_for_no_better_one(with_keys):
    line = Line(with_keys, "key-of-ann")
    for name, options in (("job", {}), ("ann", {}), ("bob", {"priority": 30}), ("eve", {})):
        line.ask(name, f"key-of-{name}", **options)
    assert line.order() == ["eve", "ann", "job", "bob"]
    chat = {"messages": user("hi"), "max_tokens": 1}
    for key, best, allowed in (("ann", 0, 100), ("eve", -10, -10), ("job", 20, 20)):
        with http(with_keys, f"key-of-{key}") as api:
            assert api.post("/v1/chat/completions", json={**chat, "priority": allowed}).status_code == 200
            refused = api.post("/v1/chat/completions", json={**chat, "priority": best - 1})
            assert refused.status_code == 400, refused.text
            error = refused.json()["error"]
            assert error["param"] == "priority" and f"from {best} to 100" in error["message"]


def test_a_text_to_embed_has_the_priority_of_its_key(with_keys):
    line = Line(with_keys, "key-of-ann")
    line.post("job", "key-of-job")
    line.ask("ann", "key-of-ann")
    line.post("eve", "key-of-eve")
    assert line.order() == ["eve", "ann", "job"]


def test_the_priority_of_a_request_counts_in_every_api(with_keys):
    with http(with_keys, "key-of-ann") as api:
        for path, body in API_BODIES.items():
            assert api.post(path, json={**body, "priority": 5}).status_code == 200, path
            refused = api.post(path, json={**body, "priority": -5})  # Her key has 0.
            assert refused.status_code == 400 and "from 0 to 100" in refused.text, (path, refused.text)


def test_a_priority_out_of_range_is_refused_by_name(single):
    with http(single) as api:
        for path, body in API_BODIES.items():
            for wrong in (101, -101, "high", 1.5):
                refused = api.post(path, json={**body, "priority": wrong})
                assert refused.status_code == 400, refused.text
                error = refused.json()["error"]
                assert "'priority'" in (error if isinstance(error, str) else error["message"]), refused.text


def test_a_full_queue_says_when_it_has_a_place(make_cluster):
    cluster = make_cluster(1, serve_args=("--queue", "1", *ONE_SLOT))
    line = Line(cluster)
    line.ask("waits")
    assert cluster.metrics()["shoal_queue_seconds"] > 0
    with http(cluster) as api:
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            refused = api.post(path, json={"messages": user("hi"), "max_tokens": 5} if path != "/api/chat" else
                               {"messages": user("hi")})
            assert refused.status_code == 429, refused.text
            assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert line.order() == ["waits"]
    assert wait_until(lambda: cluster.metrics()["shoal_queue_seconds"] == 0, WAIT_S)


def test_texts_do_not_depend_on_the_target_on_priorities_or_on_keys(single, make_cluster, tmp_path):
    wanted = list(requests(32))
    with client_of(single) as api:
        model = model_of(api)
        alone = [api.chat.completions.create(model=model, **one).choices[0] for one in wanted]
    keys = tmp_path / "keys"
    keys.write_text("unused name=ann\n")
    cluster = make_cluster(2, serve_args=(*SPREAD, *LONG_TIMEOUT, "--target-itl", "1", "--api-key-file", keys,
                                          "--rows-per-step", "64", "--open-metrics"))
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        ranked = [{**one, "extra_body": {"priority": rank}} for one, rank in zip(wanted, itertools.cycle((0, 7, 3)))]
        together = loop.run_until_complete(all_at_once(cluster, model, ranked))
    assert together == [(one.message.content, one.finish_reason) for one in alone]
