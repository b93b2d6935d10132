"""A draft model changes the time of an answer and no byte of it, be it good, bad or lost work."""
import concurrent.futures
import json
import shutil

import httpx
import pytest

from conftest import LONG_TIMEOUT, SPREAD
from dialogue import NEVER_END, QUESTIONS, user
from local_cluster import LocalCluster, wait_until
from test_speculation import (CHATS, COMPLETIONS, LISTING, answer, answers_at_once, joined, plain,  # noqa: F401
                              streamed, streamed_over_a_loss)

TIMEOUT_S = 240
pytestmark = pytest.mark.timeout(400)

DRAFTED, ACCEPTED = "shoal_model_drafted_tokens_total", "shoal_accepted_model_draft_tokens_total"
ALWAYS = ("--speculate", "always", "--draft-max", "5")

FREE_CHATS = {name: body for name, body in CHATS.items() if not {"guided_regex", "response_format"} & body.keys()}
QUESTION = {"messages": user(QUESTIONS[2]), "temperature": 0, "max_tokens": 120, "logit_bias": NEVER_END}


def text_files(demo_model, folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(demo_model / name, folder / name)


@pytest.fixture(scope="module")
def stranger(succeed, demo_model, tmp_path_factory):
    """A small model with random weights and the demo model's tokenizer."""
    folder = tmp_path_factory.mktemp("stranger") / "random"
    config = json.loads((demo_model / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        del config[key]
    (folder.parent / "config.json").write_text(json.dumps(config))
    succeed("synth", "--config", folder.parent / "config.json", "--layers", 1, "--seed", 7, "--out", folder)
    text_files(demo_model, folder)
    return folder


@pytest.fixture(scope="module")
def itself(shoal, demo_model, tmp_path_factory):
    """Three processes of the demo model, which drafts for itself."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 2,
                      serve_args=(*SPREAD, *LONG_TIMEOUT, *ALWAYS, "--draft-model", demo_model)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def misled(shoal, demo_model, stranger, tmp_path_factory):
    """One process, with a draft model that knows nothing."""
    with LocalCluster(shoal, demo_model, tmp_path_factory.mktemp("logs"), 0,
                      serve_args=(*ALWAYS, "--draft-model", stranger)) as cluster:
        yield cluster


@pytest.mark.parametrize("drafting", ["itself", "misled"])
def test_answers_are_those_without_drafts(request, plain, drafting):  # noqa: F811
    cluster = request.getfixturevalue(drafting)
    for name, body in {**COMPLETIONS, **FREE_CHATS, "a story": QUESTION}.items():
        assert answer(cluster, body) == answer(plain, body), name
    for name in ("greedy", "two choices"):
        assert streamed(cluster, COMPLETIONS[name]) == joined(answer(plain, COMPLETIONS[name])[0]), name
    metrics = cluster.metrics()
    assert metrics[DRAFTED] > 100 and metrics["shoal_draft_model_steps_total"] > 50
    if drafting == "itself":  # It draws the same tokens, whatever the temperature and the penalties.
        assert metrics[ACCEPTED] == metrics[DRAFTED]
    else:
        assert metrics[ACCEPTED] < metrics[DRAFTED] / 2
    for name, body in CHATS.items():  # It knows of no grammar, and is wrong where that forbids what it would say.
        assert answer(cluster, body) == answer(plain, body), name


@pytest.mark.parametrize("drafting", ["itself", "misled"])
def test_many_at_once_get_their_answers(request, plain, drafting):  # noqa: F811
    cluster = request.getfixturevalue(drafting)
    wanted = [body for body in COMPLETIONS.values() if body["max_tokens"] > 1]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = pool.submit(answers_at_once, cluster, wanted)
        with httpx.Client(base_url=cluster.url, trust_env=False, timeout=TIMEOUT_S) as client:  # One is given up.
            with client.stream("POST", "/v1/completions", json={"prompt": LISTING, "max_tokens": 900, "stream": True,
                                                                "logit_bias": NEVER_END}) as stream:
                next(stream.iter_lines())
        assert asking.result() == [answer(plain, body) for body in wanted]
    assert wait_until(lambda: cluster.cache_stats()["requests"]["running"] == 0, 30)


def test_caches_too_small_for_all_change_no_answer(make_cluster, plain, demo_model):  # noqa: F811
    cluster = make_cluster(0, serve_args=(*ALWAYS, "--draft-model", demo_model, "--kv-positions", "768"))
    wanted = [{"prompt": LISTING[:400], "temperature": 0.7, "seed": i, "max_tokens": 200, "logit_bias": NEVER_END}
              for i in range(6)]
    assert answers_at_once(cluster, wanted) == [answer(plain, body) for body in wanted]
    metrics = cluster.metrics()
    assert metrics["shoal_preemptions_total"] > 0 and metrics[ACCEPTED] > 0


def test_a_text_goes_on_over_a_lost_worker(make_cluster, plain, demo_model):  # noqa: F811
    body = {"prompt": LISTING, "temperature": 0.5, "seed": 9, "max_tokens": 600, "logit_bias": NEVER_END, "stream": True}
    expected = joined(answer(plain, {**body, "stream": False})[0])
    cluster = make_cluster(2, serve_args=(*SPREAD, *ALWAYS, "--draft-model", demo_model))
    assert streamed_over_a_loss(cluster, body, ACCEPTED) == expected


def test_where_it_is_to_pay_it_is_tried(make_cluster, plain, demo_model):  # noqa: F811
    cluster = make_cluster(0, serve_args=("--draft-model", demo_model))
    body = {**QUESTION, "max_tokens": 400, "temperature": 1, "seed": 1}
    assert answer(cluster, body) == answer(plain, body)
    assert cluster.metrics()["shoal_draft_model_rows_total"] > 0


def test_run_and_a_list_of_models_have_one_too(run, make_cluster, plain, demo_model, stranger, tmp_path):  # noqa: F811
    words = ("run", "--model", demo_model, "--prompt", "The moon", "--max-tokens", 40, "--json")
    alone = json.loads(run(*words).stdout)
    drafted = run(*words, "--draft-model", stranger, *ALWAYS)
    assert drafted.returncode == 0, drafted.stderr
    assert json.loads(drafted.stdout)["tokens"] == alone["tokens"]
    listing = tmp_path / "models.yaml"
    listing.write_text(f"models:\n  - path: {demo_model}\n    name: moon\n    draft_model: {demo_model}\n    load: start\n"
                       f"  - path: {stranger}\n    name: other\n    draft_model: {demo_model}\n")
    cluster = make_cluster(0, model=None, serve_args=("--models", listing, *ALWAYS))
    body = {**COMPLETIONS["greedy"], "model": "moon"}
    assert answer(cluster, body) == answer(plain, COMPLETIONS["greedy"])
    assert wait_until(lambda: answer(cluster, {**body, "model": "other"}), 60)


def test_what_cannot_be_is_said(run, demo_model, stranger, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(stranger, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = (next(name for name, i in vocabulary.items() if i == id) for id in (300, 301))
    vocabulary[first], vocabulary[second] = 301, 300
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    for flags, said in (
            (("--draft-model", tmp_path / "nowhere"), "nowhere"),
            (("--draft-model", other), "id 300"),
            (("--draft-model", stranger, "--speculate", "off"), "--speculate off"),
            (("--draft-model", stranger, "--draft-max", "0"), "128"),
            (("--draft-model", stranger, "--memory", "2MiB"), "draft model"),
            (("--draft-model", stranger, "--model", f"two={stranger}"), "draft_model for each")):
        done = run("serve", "--model", demo_model, "--port", 0, *flags)
        assert done.returncode != 0 and said in done.stderr, (flags, done.stderr)
