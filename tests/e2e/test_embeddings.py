"""Embeddings, with the clients of OpenAI and Ollama, with one process and with three."""
import math

import ollama
import openai
import pytest

from dialogue import client_of, user

MODEL = "shoal-demo-4bit"
TEXTS = ["a fox", "The capital of Portugal is Lisbon. " * 30, "a moon", "a fox"]


def embed(cluster, texts=None, **options):
    data = client_of(cluster).embeddings.create(model=MODEL, input=texts or TEXTS, **options).data
    return [one.embedding for one in sorted(data, key=lambda one: one.index)]


def distance(a, b):
    return math.dist(a, b)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_values_do_not_depend_on_the_cluster_on_chunks_or_on_the_cache(make_cluster, pooling):
    flags = ("--pooling", pooling)
    spread = ("--split", "2,2,2", "--experts", "round_robin:3", "--liveness-timeout", "120")
    clusters = [make_cluster(0, serve_args=flags), make_cluster(2, serve_args=flags + spread),
                make_cluster(0, serve_args=(*flags, "--rows-per-step", "7")),
                make_cluster(0, serve_args=(*flags, "--prefix-cache", "off"))]
    expected = embed(clusters[0])
    client_of(clusters[1]).completions.create(model=MODEL, prompt=TEXTS[1], max_tokens=3)  # Warms its cache.
    for cluster in clusters:
        assert embed(cluster) == expected
        assert embed(cluster, TEXTS[1:2]) == expected[1:2]
    assert expected[0] == expected[3] != expected[2]
    for values in expected:
        assert math.isclose(sum(v * v for v in values), 1, abs_tol=1e-6)


def test_formats_hold_the_same_values(single):
    ids = client_of(single).post("/tokenize", cast_to=object, body={"content": TEXTS[0]})["tokens"]
    expected = embed(single)[0]
    assert embed(single, [ids]) == embed(single, TEXTS[0]) == [expected]
    assert embed(single, TEXTS[0], encoding_format="float") == [expected]
    few = embed(single, TEXTS[0], dimensions=8)[0]
    length = math.sqrt(sum(v * v for v in expected[:8]))
    assert len(few) == 8 and all(math.isclose(a, b / length, rel_tol=1e-5) for a, b in zip(few, expected))


def test_ollamas_client_gets_them_too(single):
    client = ollama.Client(host=single.url, trust_env=False, timeout=60)
    expected = embed(single)
    assert [list(e) for e in client.embed(MODEL, input=TEXTS).embeddings] == expected
    assert list(client.embeddings(MODEL, prompt=TEXTS[0]).embedding) == expected[0]


def test_a_text_that_is_too_long_is_an_error_or_is_cut(single):
    text = "word " * 4000
    with pytest.raises(openai.BadRequestError) as caught:
        embed(single, text)
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "input"
    client = ollama.Client(host=single.url, trust_env=False, timeout=60)
    assert client.embed(MODEL, input=text).prompt_eval_count == 2047


def test_requests_of_both_kinds_run_side_by_side(trio):
    """A conversation says what it says alone while texts are embedded."""
    from concurrent.futures import ThreadPoolExecutor
    client = client_of(trio)

    def chat():
        answer = client.chat.completions.create(model=MODEL, messages=user("Tell me a story about a fox."), temperature=0,
                                                max_tokens=64)
        return answer.choices[0].message.content

    alone, values = chat(), embed(trio)
    with ThreadPoolExecutor(8) as pool:
        chats = [pool.submit(chat) for _ in range(4)]
        embeddings = [pool.submit(embed, trio) for _ in range(4)]
        assert {future.result() for future in chats} == {alone}
        assert all(future.result() == values for future in embeddings)


def test_the_models_files_say_how_texts_are_pooled(make_cluster, demo_model, tmp_path, shoal, single):
    model = tmp_path / demo_model.name
    model.mkdir()
    for path in demo_model.iterdir():
        if path.is_file():
            (model / path.name).symlink_to(path)
    (model / "1_Pooling").mkdir()
    config = model / "1_Pooling/config.json"
    config.write_text('{"word_embedding_dimension": 256, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}')
    mean = embed(make_cluster(0, model=model))
    assert mean != embed(single)
    assert embed(make_cluster(0, model=model, serve_args=("--pooling", "last"))) == embed(single)
    config.write_text('{"pooling_mode_cls_token": true}')
    import subprocess
    done = subprocess.run([shoal, "serve", "--model", model, "--port", "0"], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 2 and "1_Pooling/config.json" in done.stderr and "--pooling" in done.stderr
