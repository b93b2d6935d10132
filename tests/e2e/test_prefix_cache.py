"""What a request has in common with earlier ones is not computed again, and no byte of an answer depends on it."""
import asyncio
import random

import pytest

from dialogue import NEVER_END, QUESTIONS, async_client_of, client_of, model_of, user
from local_cluster import LocalCluster

TURNS = 12
# A head of some hundred tokens, as agents send it: 12 turns must fit the 2,048 tokens of the demo model.
HEAD = "You are a helpful assistant. " + " ".join(
    f"Rule {i}: {question}" for i, question in enumerate(QUESTIONS * 4))


pytestmark = pytest.mark.timeout(400)  # Without the cache every turn is computed whole.
PATIENCE_S = 200


@pytest.fixture(scope="module")
def without(shoal, demo_model, tmp_path_factory):
    """One process without the prefix cache."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 0,
                      serve_args=("--prefix-cache", "off")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def texts_without(without):
    texts = [text for text, _, _ in converse(without)]
    stats = without.cache_stats()
    assert stats["prefix_cache"]["tokens_reused"] == 0 and stats["blocks"]["free"] == stats["blocks"]["total"]
    return texts


def converse(cluster, turns=TURNS):
    """Per turn: the answer, the usage, and the rows that the cluster computed."""
    client = client_of(cluster, timeout_s=PATIENCE_S)
    model = model_of(client)
    messages = [{"role": "system", "content": HEAD}]
    seen = []
    for turn in range(turns):
        messages.append({"role": "user", "content": QUESTIONS[turn % len(QUESTIONS)]})
        before = cluster.cache_stats()["rows"]
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0.8,
                                                seed=turn, logit_bias=NEVER_END)
        text = answer.choices[0].message.content
        seen.append((text, answer.usage, cluster.cache_stats()["rows"] - before))
        messages.append({"role": "assistant", "content": text})
    return seen


@pytest.mark.parametrize("workers", [0, 2], ids=["one_process", "three_processes"])
def test_a_turn_computes_what_is_new_in_it(make_cluster, texts_without, workers):
    cluster = make_cluster(workers)
    turns = converse(cluster)
    assert turns[0][1].prompt_tokens > 500
    before = 0
    for text, usage, rows in turns:
        cached = usage.prompt_tokens_details.cached_tokens
        prefilled = usage.prompt_tokens - cached
        # The answer before counts as new: its text, sent back, may be other tokens than the model gave.
        assert prefilled <= usage.prompt_tokens - before + 32, (usage, text)
        drafts = usage.completion_tokens_details
        assert rows == prefilled + usage.completion_tokens - 1 + (drafts.rejected_prediction_tokens if drafts else 0)
        before = usage.prompt_tokens
    stats = cluster.cache_stats()
    assert stats["prefix_cache"]["hits"] == TURNS - 1 and stats["prefix_cache"]["misses"] == 1
    assert stats["prefix_cache"]["tokens_reused"] == sum(
        usage.prompt_tokens_details.cached_tokens for _, usage, _ in turns)
    blocks = stats["blocks"]
    assert blocks["cached"] > 0 and blocks["free"] + blocks["used"] + blocks["cached"] == blocks["total"]
    metrics = cluster.metrics()
    assert metrics['shoal_prefix_cache_lookups_total{result="hit"}'] == TURNS - 1
    assert metrics['shoal_kv_blocks{state="cached"}'] == blocks["cached"]
    assert [text for text, _, _ in turns] == texts_without


def requests(count):
    """Prompts that share heads of several lengths, with their sampling; the same in every run."""
    draw = random.Random(5)
    heads = [HEAD[:400], HEAD[:400] + " " + QUESTIONS[2] * 6, HEAD[:900]]
    for i in range(count):
        sampling = {"temperature": 0} if i % 3 == 0 else {"temperature": 0.9, "seed": i}
        yield {"messages": [{"role": "system", "content": draw.choice(heads)}, *user(draw.choice(QUESTIONS))],
               "max_tokens": draw.choice([4, 12, 24]), "logit_bias": NEVER_END, **sampling}


async def all_at_once(cluster, model, wanted):
    async with async_client_of(cluster, timeout_s=PATIENCE_S) as client:
        async def text_of(request):
            answer = await client.chat.completions.create(model=model, **request)
            return answer.choices[0].message.content
        return await asyncio.gather(*(text_of(request) for request in wanted))


def test_32_streams_that_share_prefixes_give_the_texts_they_give_without_sharing(make_cluster, without, trio):
    wanted = list(requests(32))
    # Room for few of them: blocks are evicted, and sequences preempted.
    tight = make_cluster(0, serve_args=("--kv-positions", "768"))
    with client_of(tight) as client:
        model = model_of(client)
    expected = asyncio.run(all_at_once(without, model, wanted))
    for cluster in (tight, trio):
        before = cluster.cache_stats()
        assert asyncio.run(all_at_once(cluster, model, wanted)) == expected
        after = cluster.cache_stats()
        assert after["prefix_cache"]["tokens_reused"] > before["prefix_cache"]["tokens_reused"] + 1000
        assert after["blocks"]["used"] == 0
    assert tight.cache_stats()["prefix_cache"]["evictions"] > 0
