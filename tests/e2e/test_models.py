"""One server, several models: loaded when they are asked for, with the answers that each gives alone."""
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests

from conftest import LONG_TIMEOUT
from dialogue import ENDLESS, QUESTIONS, SLOW, ask, client_of
from fine_tune import tuned
from local_cluster import wait_until

NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def folder(demo_model, tmp_path_factory):
    """The demo model, and copies of it with other rotary frequencies, which therefore say something else."""
    root = tmp_path_factory.mktemp("models")
    for divisor, name in enumerate(NAMES, 1):
        shutil.copytree(demo_model, root / name)
        config = root / name / "config.json"
        values = json.loads(config.read_text())
        config.write_text(json.dumps({**values, "rope_theta": values["rope_theta"] / divisor}))
    (root / "not-a-model").mkdir()
    return root


@pytest.fixture(scope="module")
def alone(folder, shoal, tmp_path_factory):
    """What each model answers when nothing else is there."""
    from local_cluster import LocalCluster
    answers = {}
    for name in NAMES:
        with LocalCluster(shoal, folder / name, tmp_path_factory.mktemp("logs"), 0) as cluster:
            answers[name] = answers_of(cluster, name)
    assert len({tuple(answer) for answer in answers.values()}) == len(NAMES)
    return answers


def answers_of(cluster, model):
    client = client_of(cluster)
    return [ask(client, question, model=model) for question in QUESTIONS[:3]]


def states(cluster):
    return {model["id"]: model["status"]["value"] for model in requests.get(f"{cluster.url}/v1/models").json()["data"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_models_are_loaded_when_they_are_asked_for(make_cluster, folder, alone, workers):
    cluster = make_cluster(workers, model=None, serve_args=("--models", str(folder), *LONG_TIMEOUT),
                           model_root=folder)
    assert states(cluster) == dict.fromkeys(NAMES, "unloaded")
    with ThreadPoolExecutor(len(NAMES)) as pool:
        got = list(pool.map(lambda name: answers_of(cluster, name), NAMES))
    assert got == [alone[name] for name in NAMES]
    assert states(cluster) == dict.fromkeys(NAMES, "loaded")

    with pytest.raises(openai.NotFoundError, match="first"):
        ask(client_of(cluster), QUESTIONS[0], model="fourth")
    with pytest.raises(openai.BadRequestError, match="model"):
        client_of(cluster).completions.create(model=openai.omit, prompt="x", extra_body={})


def test_one_gives_way_where_memory_ends_and_answers_stay_the_same(make_cluster, folder, alone):
    # One of them needs 18.3 MiB with its cache: two do not fit.
    cluster = make_cluster(0, model=None, serve_args=("--models", str(folder), "--memory", "30MiB", "--kv-positions", "4096"))
    for name in (*NAMES, *NAMES):
        assert answers_of(cluster, name) == alone[name]
        assert list(states(cluster).values()).count("loaded") == 1
        assert states(cluster)[name] == "loaded"


def test_models_share_a_server_with_one_that_is_pinned(make_cluster, folder, alone, tmp_path):
    listed = tmp_path / "models.yaml"
    listed.write_text(f"""
models:
  - path: {folder}/first
    load: start
    pinned: true
    aliases: [gpt-4o]
  - name: other
    path: {folder}/second
    kv_positions: 1024
""")
    cluster = make_cluster(0, model=None, serve_args=("--models", str(listed)))
    assert answers_of(cluster, "gpt-4o") == alone["first"]
    assert answers_of(cluster, "other") == alone["second"]
    assert requests.get(f"{cluster.url}/cache/stats?model=other").json()["blocks"]["total"] == 32
    metrics = requests.get(f"{cluster.url}/metrics").text
    assert 'shoal_generated_tokens_total{model="first"}' in metrics
    assert 'shoal_generated_tokens_total{model="other"}' in metrics
    assert requests.post(f"{cluster.url}/models/unload", json={"model": "other"}).json() == {"success": True}
    tags = [model["name"] for model in requests.get(f"{cluster.url}/api/tags").json()["models"]]
    assert tags == ["first:latest", "other:latest"]


def test_one_that_waits_for_room_gets_it_when_the_busy_one_is_unloaded(make_cluster, folder):
    cluster = make_cluster(0, model=None, serve_args=("--models", str(folder), "--memory", "30MiB",
                                                      "--kv-positions", "4096", *SLOW))
    url = f"{cluster.url}/v1/completions"
    body = {"model": "first", "prompt": "Once", "stream": True, **ENDLESS, "max_tokens": 150}
    with requests.post(url, json=body, stream=True) as stream, ThreadPoolExecutor(1) as pool:
        lines = stream.iter_lines()
        next(lines)
        other = pool.submit(requests.post, url, json={"model": "second", "prompt": "Once", "max_tokens": 2}, timeout=90)
        assert wait_until(lambda: "waits for others" in cluster.coordinator.log(), 30)
        assert requests.post(f"{cluster.url}/models/unload", json={"model": "first"}).status_code == 200
        assert [line for line in lines if line][-1] == b"data: [DONE]"
        assert other.result().status_code == 200


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ASKED = {
    "/v1/chat/completions": {**CHAT, "max_tokens": 1},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/responses": {"input": "a", "max_output_tokens": 16},
    "/v1/embeddings": {"input": "a"},
    "/v1/messages": {**CHAT, "max_tokens": 1},
    "/api/chat": {**CHAT, "stream": False, "options": {"num_predict": 1}},
    "/api/embed": {"input": "a"},
    "/tokenize": {"content": "a"},
    "/apply-template": CHAT,
}


def test_every_api_takes_every_name_of_a_model(make_cluster, folder, tmp_path):
    """Its name, its aliases, and what Ollama's list calls it."""
    listed = tmp_path / "models.yaml"
    listed.write_text(f"models: [{{path: {folder}/first, aliases: [gpt-4o]}}, {{path: {folder}/second}}]")
    cluster = make_cluster(0, model=None, serve_args=("--models", str(listed)))
    for name in ("first", "first:latest", "gpt-4o", "gpt-4o:latest"):
        for path, body in ASKED.items():
            answer = requests.post(cluster.url + path, json={"model": name, **body})
            assert answer.status_code == 200, (name, path, answer.text)
            assert answer.json().get("model", "first") == "first"
    for path in ("/props", "/slots", "/cluster/status", "/cache/stats", "/v1/models/gpt-4o"):
        assert requests.head(cluster.url + path).status_code == 200, path


def test_requests_for_more_models_than_fit_all_get_their_answers(make_cluster, folder, alone):
    cluster = make_cluster(0, model=None, serve_args=("--models", str(folder), "--memory", "40MiB", "--kv-positions", "4096"))
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda name: answers_of(cluster, name), NAMES * 2))
    assert got == [alone[name] for name in NAMES * 2]


def test_a_worker_that_is_away_is_no_end_of_the_server(make_cluster, folder, alone):
    """It waits for the node for a while, says so, and the next request finds it back."""
    cluster = make_cluster(1, model=None, model_root=folder,
                           serve_args=("--models", str(folder), "--replan-after", "never", *LONG_TIMEOUT))
    cluster.workers[0].kill()
    with pytest.raises(openai.InternalServerError, match="can't be loaded"):
        ask(client_of(cluster), QUESTIONS[0], model="first")
    cluster.workers[0].start()
    assert answers_of(cluster, "first") == alone["first"]


def test_flags_that_cannot_be_are_said_at_the_start(run, folder):
    for words, part in ((("--memory", "much"), "much"),
                        (("--models", str(folder / "not-a-model")), "no folder"),
                        (("--models", str(folder / "none.yaml")), "none.yaml"),
                        (("--served-model-name", "x"), "NAME=DIR"),
                        (("--listen", "127.0.0.1:65534"), "must end at 65535"),
                        (("--model", str(folder / "first")), "two models")):
        models = () if "--models" in words else ("--models", folder)
        done = run("serve", *models, "--port", 0, *words)
        assert done.returncode != 0
        assert part in done.stderr + done.stdout


@pytest.mark.parametrize("workers", [0, 1])
def test_fine_tunes_of_one_model_give_their_own_answers(make_cluster, demo_model, shoal, tmp_path, workers):
    """Side by side in one process; by turns over a worker, which tells them apart by their weights only."""
    from local_cluster import LocalCluster
    root = tmp_path / "models"
    shutil.copytree(demo_model, root / "base")
    tuned(demo_model, root / "tuned")

    def answer(cluster, name):
        return ask(client_of(cluster), QUESTIONS[2], model=name, max_tokens=16)

    alone = {}
    for name in ("base", "tuned"):
        with LocalCluster(shoal, root / name, tmp_path / f"log-{name}", 0) as cluster:
            alone[name] = answer(cluster, name)
    assert alone["base"] != alone["tuned"]
    cluster = make_cluster(workers, model=None, serve_args=("--models", str(root), *LONG_TIMEOUT), model_root=root)
    for name in ("base", "tuned", "base", "tuned"):
        assert answer(cluster, name) == alone[name]
    assert list(states(cluster).values()).count("loaded") == (2 if workers == 0 else 1)
