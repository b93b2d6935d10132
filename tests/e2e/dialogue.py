"""Requests that many tests send with the official client."""
import httpx
import openai

from questions import QUESTIONS  # noqa: F401  (most tests want both)

# The two end-of-text ids of the demo model. A request that forbids them runs up to its limit.
NEVER_END = {"4087": -100, "4089": -100}

# A request that goes on until its client leaves, for tests that do something meanwhile: as many tokens as the context holds, at
# a heat at which no text repeats, so that drafts save no steps. A fast machine still has them in a second or two: what a test
# does meanwhile follows at once, or the cluster is SLOW.
ENDLESS = {"max_tokens": 1900, "temperature": 1.5, "seed": 1, "logit_bias": NEVER_END}
# Nodes that compute with the plain kernels: the same bits, at a hundredth of the speed or so.
SLOW = ("--threads", "1", "--isa", "reference")


def user(text):
    return [{"role": "user", "content": text}]


def client_of(cluster, timeout_s=60.0):
    """The official client, without retries, which would hide failures."""
    return openai.OpenAI(base_url=cluster.url + "/v1", api_key="unused", max_retries=0, timeout=timeout_s,
                         http_client=httpx.Client(trust_env=False, timeout=timeout_s))


def async_client_of(cluster, timeout_s=80.0):
    limits = httpx.Limits(max_connections=200)
    return openai.AsyncOpenAI(base_url=cluster.url + "/v1", api_key="unused", max_retries=0, timeout=timeout_s,
                              http_client=httpx.AsyncClient(trust_env=False, timeout=timeout_s, limits=limits))


def model_of(client):
    return client.models.list().data[0].id


def ask(client, text, **options):
    """The text of the answer; greedy by default."""
    options = {"temperature": 0, "max_tokens": 64, **options}
    if "model" not in options:
        options["model"] = model_of(client)
    answer = client.chat.completions.create(messages=user(text), **options)
    return answer.choices[0].message.content
