"""A worker is lost and returns during streams: clients see a pause, then the bytes of an undisturbed run."""
import concurrent.futures
import threading

import openai
import pytest

from dialogue import ENDLESS, NEVER_END, QUESTIONS, ask, client_of, model_of, user
from local_cluster import wait_until

# Every kind of sampling, with so many tokens that all requests are running when the worker is lost.
REQUESTS = [
    dict(temperature=0, max_tokens=500, logit_bias=NEVER_END),
    dict(temperature=0.9, seed=7, max_tokens=500, logit_bias=NEVER_END, presence_penalty=0.8, frequency_penalty=0.5),
    dict(temperature=1.1, seed=8, max_tokens=500, logit_bias=NEVER_END, top_p=0.9,
         extra_body={"top_k": 40, "repetition_penalty": 1.1}),
]


class Stream:
    """A streamed answer, read by its own thread."""

    def __init__(self, cluster, question, options):
        self.pieces = []
        self.reason = None
        self.begun = threading.Event()
        self._client = client_of(cluster, timeout_s=90)
        self._options = dict(messages=user(question), stream=True, model=model_of(self._client), **options)

    def read(self):
        for chunk in self._client.chat.completions.create(**self._options):
            self.pieces.append(chunk.choices[0].delta.content or "")
            self.reason = chunk.choices[0].finish_reason or self.reason
            if len(self.pieces) == 10:
                self.begun.set()
        return "".join(self.pieces), self.reason


def streams(cluster, requests):
    return [Stream(cluster, QUESTIONS[i % len(QUESTIONS)], options) for i, options in enumerate(requests)]


def with_stop_string(requests, texts):
    """The same requests, and one that ends at a stop string in the middle of the text of the first."""
    text = texts[0][0]
    return [*requests, dict(requests[0], stop=["never said", text[len(text) // 2:][:12]])]


def read_all(reading, disturb=None, begun_s=30):
    """What streams read; `disturb` is called when all of them have begun."""
    with concurrent.futures.ThreadPoolExecutor(len(reading)) as pool:
        texts = [pool.submit(stream.read) for stream in reading]
        if disturb:
            assert all(stream.begun.wait(begun_s) for stream in reading)
            disturb()
        return [text.result() for text in texts]


def all_answers(cluster, requests, disturb=None):
    """The answers to the requests; `disturb` is called when all of them have begun."""
    reading = streams(cluster, requests)
    # The request with the stop string has the question of the first one.
    if len(reading) > len(REQUESTS):
        reading[-1] = Stream(cluster, QUESTIONS[0], requests[-1])
    return read_all(reading, disturb)


def lost_and_found(cluster, requests, lose, bring_back):
    """Disturbs the requests, and checks that the cluster was down while they ran."""
    def disturb():
        lose()
        assert wait_until(lambda: not cluster.healthy(), 20)
        assert cluster.cache_stats()["requests"]["running"] + cluster.cache_stats()["requests"]["waiting"] > 0
        bring_back()

    before = cluster.cache_stats()
    answers = all_answers(cluster, requests, disturb)
    after = cluster.cache_stats()
    assert after["engine_losses"] > before["engine_losses"] and after["restarts"] > before["restarts"]
    assert after["blocks"]["used"] == 0
    return answers


@pytest.mark.parametrize("worker", [0, 1], ids=["middle_stage", "last_stage"])
def test_streams_over_a_killed_worker_have_the_undisturbed_bytes(make_cluster, worker):
    cluster = make_cluster(2)
    process = cluster.workers[worker]
    requests = with_stop_string(REQUESTS, all_answers(cluster, REQUESTS))
    undisturbed = all_answers(cluster, requests)
    assert undisturbed[-1][1] == "stop" and undisturbed[0][1] == "length"
    for _ in range(2):
        assert lost_and_found(cluster, requests, process.kill, process.start) == undisturbed
        cluster.wait_ready(30)


def test_a_worker_that_hangs_and_continues_changes_no_text(make_cluster):
    cluster = make_cluster(2)
    process = cluster.workers[1]
    undisturbed = all_answers(cluster, REQUESTS)
    assert lost_and_found(cluster, REQUESTS, process.pause, process.resume) == undisturbed


def test_a_stream_over_a_worker_that_never_returns_ends_at_its_deadline_with_the_reason(make_cluster):
    cluster = make_cluster(2, serve_args=("--split", "2,2,2", "--request-timeout", "8"))
    before = ask(client_of(cluster), QUESTIONS[2])
    stream = Stream(cluster, QUESTIONS[2], ENDLESS)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        text = pool.submit(stream.read)
        assert stream.begun.wait(30)
        cluster.workers[0].kill()
        with pytest.raises(openai.APIError) as caught:
            text.result()
    assert "worker-1" in caught.value.message and "deadline" in caught.value.message, caught.value.message
    cluster.workers[0].start()
    cluster.wait_ready(30)
    assert ask(client_of(cluster), QUESTIONS[2]) == before
