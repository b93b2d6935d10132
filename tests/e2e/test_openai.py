"""The official OpenAI client with one process and with three."""
import openai
import pytest

from dialogue import NEVER_END, QUESTIONS, ask, client_of, model_of, user
from local_cluster import wait_until


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 7}, {"temperature": 1.0, "seed": 8, "top_p": 0.9}],
                         ids=["greedy", "seeded", "seeded_top_p"])
def test_three_processes_give_the_text_of_one(single, trio, options):
    alone = [ask(client_of(single), q, **options) for q in QUESTIONS]
    spread = [ask(client_of(trio), q, **options) for q in QUESTIONS]
    assert spread == alone
    assert all(alone)


def test_the_demo_model_knows_facts_of_its_training(trio):
    client = client_of(trio)
    assert "Lisbon" in ask(client, "What is the capital of Portugal?")
    assert "85" in ask(client, "What is 38 + 47?")


def test_another_seed_gives_another_text(single):
    client = client_of(single)
    texts = {ask(client, "Tell me a story about a fox.", temperature=1.0, seed=seed) for seed in range(4)}
    assert len(texts) > 1


def test_a_stream_joins_to_the_answer_and_ends_with_its_usage(trio):
    client = client_of(trio)
    whole = client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[2]), temperature=0)
    chunks = list(client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[2]), temperature=0,
                                                 stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_plain_completions_continue_the_prompt(single, trio):
    texts = [c.completions.create(model=model_of(c), prompt="The capital of France is", max_tokens=12, temperature=0)
             .choices[0].text for c in (client_of(single), client_of(trio))]
    assert texts[0] == texts[1]
    assert "Paris" in texts[0]


def test_a_text_ends_at_its_limit_and_before_its_stop_string(single):
    client = client_of(single)
    limited = client.chat.completions.create(model=model_of(client), messages=user("hi"), temperature=0, max_tokens=5,
                                             logit_bias=NEVER_END)
    assert limited.choices[0].finish_reason == "length"
    assert limited.usage.completion_tokens == 5
    story = ask(client, QUESTIONS[2], max_tokens=200)
    word = story.split()[5]
    stopped = client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[2]), temperature=0,
                                             max_tokens=200, stop=[word])
    assert stopped.choices[0].message.content == story[:story.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_conversation_that_cannot_fit_is_refused_with_the_reason(single):
    client = client_of(single)
    with pytest.raises(openai.BadRequestError, match="2048"):
        ask(client, "fish " * 4000)


def test_a_client_that_leaves_frees_its_blocks(trio):
    client = client_of(trio)
    with client.chat.completions.create(model=model_of(client), messages=user("hi"), temperature=0, max_tokens=1900,
                                        logit_bias=NEVER_END, stream=True) as stream:
        for _ in zip(range(4), stream):
            pass
    assert wait_until(lambda: trio.cache_stats()["blocks"]["used"] == 0, 10), trio.cache_stats()
