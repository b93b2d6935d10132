"""The official OpenAI client with one process and with three."""
import openai
import pytest

from dialogue import ENDLESS, NEVER_END, QUESTIONS, ask, client_of, model_of, user
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


def texts(answer):
    return [choice.message.content for choice in answer.choices]


def several(client, n, **options):
    options = {"temperature": 1.0, "seed": 5, "max_tokens": 24, **options}
    return client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[2]), n=n, **options)


def test_choices_are_those_of_any_other_number_and_of_any_cluster(single, trio):
    four = texts(several(client_of(single), 4))
    assert len(set(four)) > 1
    assert texts(several(client_of(trio), 4)) == four
    assert texts(several(client_of(single), 2)) == four[:2]
    assert ask(client_of(single), QUESTIONS[2], temperature=1.0, seed=5, max_tokens=24) == four[0]


def test_streamed_choices_join_to_the_whole_answer(trio):
    client = client_of(trio)
    whole = several(client, 3)
    streamed = ["", "", ""]
    reasons = [None] * 3
    for chunk in several(client, 3, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
        usage = chunk.usage
    assert streamed == texts(whole)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_several_prompts_are_answered_as_each_alone(trio):
    client = client_of(trio)
    prompts = ["The capital of France is", "Once upon a time", "38 + 47 ="]
    options = {"model": model_of(client), "max_tokens": 10, "temperature": 1.0, "seed": 3}
    alone = [client.completions.create(prompt=p, n=2, **options).choices for p in prompts]
    together = client.completions.create(prompt=prompts, n=2, **options)
    assert [c.text for c in together.choices] == [c.text for one in alone for c in one]
    assert [c.index for c in together.choices] == list(range(6))


def test_the_best_of_several_has_the_best_mean(single):
    client = client_of(single)
    options = {"model": model_of(client), "prompt": "Once upon a time", "max_tokens": 8, "temperature": 1.0, "seed": 3,
               "logprobs": 0}
    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
    every = client.completions.create(n=5, **options)
    best = client.completions.create(best_of=5, n=2, **options)
    ranked = sorted(every.choices, key=mean, reverse=True)
    assert [c.text for c in best.choices] == [c.text for c in ranked[:2]]
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_log_probabilities_are_the_same_everywhere_and_streamed(single, trio):
    options = {"temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 20}
    whole = [c.chat.completions.create(model=model_of(c), messages=user(QUESTIONS[0]), **options).choices[0]
             for c in (client_of(single), client_of(trio))]
    assert whole[0].logprobs == whole[1].logprobs
    tokens = whole[0].logprobs.content
    assert "".join(t.token for t in tokens) == whole[0].message.content
    for token in tokens:
        assert len(token.top_logprobs) == 20
        assert token.top_logprobs[0].token == token.token  # Greedy.
        assert token.top_logprobs == sorted(token.top_logprobs, key=lambda t: -t.logprob)
    client = client_of(trio)
    chunks = client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[0]), stream=True, **options)
    streamed = [t for c in chunks for choice in c.choices if choice.logprobs for t in choice.logprobs.content]
    assert streamed == tokens


def test_a_limit_beyond_the_context_is_what_is_left(single):
    client = client_of(single)
    answer = client.chat.completions.create(model=model_of(client), messages=user("hi"), temperature=0, max_tokens=32000,
                                            logit_bias=NEVER_END)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 2048


def test_an_assistants_last_message_is_continued(single):
    client = client_of(single)
    start = "The capital of"
    messages = [*user(QUESTIONS[0]), {"role": "assistant", "content": start}]
    rest = client.chat.completions.create(model=model_of(client), messages=messages, temperature=0, max_tokens=32)
    assert "Lisbon" in rest.choices[0].message.content
    fresh = client.chat.completions.create(model=model_of(client), messages=messages, temperature=0, max_tokens=32,
                                           extra_body={"continue_final_message": False})
    assert fresh.usage.prompt_tokens > rest.usage.prompt_tokens


def test_echo_goes_before_each_text(single):
    client = client_of(single)
    options = {"model": model_of(client), "temperature": 0, "prompt": "The capital of France is"}
    plain = client.completions.create(max_tokens=5, **options).choices[0].text
    assert client.completions.create(max_tokens=5, echo=True, **options).choices[0].text == options["prompt"] + plain
    nothing = client.completions.create(max_tokens=0, echo=True, **options)
    assert (nothing.choices[0].text, nothing.usage.completion_tokens) == (options["prompt"], 0)


def test_more_tokens_than_the_text_would_have(single):
    client = client_of(single)
    short = client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[1]), temperature=0)
    count = short.usage.completion_tokens
    longer = client.chat.completions.create(model=model_of(client), messages=user(QUESTIONS[1]), temperature=0,
                                            max_tokens=count + 8, extra_body={"min_tokens": count + 5})
    assert longer.usage.completion_tokens >= count + 5
    assert longer.choices[0].message.content.startswith(short.choices[0].message.content)


def test_a_conversation_that_cannot_fit_has_the_code_and_the_numbers(single):
    client = client_of(single)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "fish " * 4000)
    assert caught.value.code == "context_length_exceeded"
    assert "This model's maximum context length is 2048 tokens. However," in str(caught.value)
    assert caught.value.body["n_ctx"] == 2048 < caught.value.body["n_prompt_tokens"]


def test_the_model_says_how_long_its_context_is(single):
    client = client_of(single)
    assert client.models.retrieve(model_of(client)).context_length == 2048


def test_a_client_that_leaves_frees_its_blocks(trio):
    client = client_of(trio)
    with client.chat.completions.create(model=model_of(client), messages=user("hi"), stream=True, **ENDLESS) as stream:
        for _ in zip(range(4), stream):
            pass
    assert wait_until(lambda: trio.cache_stats()["blocks"]["used"] == 0, 10), trio.cache_stats()
