"""Batching changes nothing: a text does not depend on the other requests being served."""
import asyncio
import random

from dialogue import QUESTIONS, async_client_of, client_of, model_of, user

STREAMS = 64


def requests(count):
    """Mixed prompts, lengths and sampling parameters, the same in every run."""
    draw = random.Random(64)
    for i in range(count):
        question = " ".join(draw.sample(QUESTIONS, draw.choice([1, 1, 1, 2, 4])))
        sampling = {"temperature": 0} if i % 2 else {"temperature": 0.9, "seed": i}
        yield {"messages": user(question), "max_tokens": draw.choice([1, 4, 16, 40, 80]), **sampling}


async def stream(client, model, request):
    text, finish = "", None
    async for chunk in await client.chat.completions.create(model=model, stream=True, **request):
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    return text, finish


async def all_at_once(cluster, model, wanted):
    async with async_client_of(cluster) as client:
        return await asyncio.gather(*(stream(client, model, request) for request in wanted))


def test_64_streams_at_once_give_the_texts_they_give_alone(single, trio):
    wanted = list(requests(STREAMS))
    with client_of(single) as client:
        model = model_of(client)
        alone = []
        for request in wanted:
            choice = client.chat.completions.create(model=model, **request).choices[0]
            alone.append((choice.message.content, choice.finish_reason))
    together = asyncio.run(all_at_once(trio, model, wanted))
    assert together == alone
    assert {finish for _, finish in alone} == {"stop", "length"}, "the mix should hold both endings"
