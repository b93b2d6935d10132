"""The JSON expert API of a worker, compared with numpy on the same weights."""
import hmac
import json
import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from affine import DemoWeights, expert_output
from local_cluster import Process, free_ports, get_text, wait_until

WIDTH, LAYERS, EXPERTS = 256, 6, 16


class ExpertWorker:
    def __init__(self, shoal, model_root, log_dir, name, flags):
        listen, rest = free_ports(2)
        self.url = f"http://127.0.0.1:{rest}"
        self.process = Process(name, [shoal, "worker", "--listen", f"127.0.0.1:{listen}", "--name", name,
                                      "--model-root", model_root, "--rest-port", rest, *flags], log_dir / f"{name}.log").start()

    def post(self, path, body):
        return httpx.post(self.url + path, json=body, timeout=20, trust_env=False)

    def healthy(self):
        try:
            return get_text(self.url + "/health")[0] == 200
        except OSError:
            return False


@pytest.fixture
def make_worker(shoal, demo_model, tmp_path):
    workers = []

    def make(experts=None, flags=()):
        worker = ExpertWorker(shoal, demo_model.parent, tmp_path, f"expert-worker-{len(workers)}", flags)
        workers.append(worker)
        assert wait_until(worker.healthy, 20), worker.process.log_tail()
        if experts is not None:
            answer = worker.post("/initialize", {"expert_ids": experts, "model_path": str(demo_model)})
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"status": "success", "message": f"Loaded {len(experts)} experts"}
        return worker

    yield make
    for worker in workers:
        worker.process.stop()


def embedding(seed):
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


def request(expert, seed, **more):
    return {"expert_id": expert, "token_embedding": embedding(seed).tolist(), "batch_idx": 0, "seq_idx": seed, "k_idx": 1,
            "weight": 0.25, **more}


def results_of(answer):
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "success" and body["compute_time"] >= 0
    assert body["num_requests"] == len(body["results"])
    return body["results"]


def test_outputs_match_numpy_on_the_same_weights(make_worker, demo_model):
    weights = DemoWeights(demo_model)
    asked = [request(expert, 10 * expert + layer, layer_idx=layer) for expert in range(EXPERTS) for layer in (0, 3, 5)]
    results = results_of(make_worker(list(range(EXPERTS))).post("/compute_experts", {"requests": asked}))
    assert len(results) == len(asked)
    for wanted, got in zip(asked, results):
        for key in ("expert_id", "batch_idx", "seq_idx", "k_idx", "weight"):
            assert got[key] == wanted[key]
        x = np.asarray(wanted["token_embedding"], np.float64)
        expected, bound = expert_output(weights.expert(wanted["layer_idx"], wanted["expert_id"]), x)
        off = np.abs(np.asarray(got["expert_output"]) - expected)
        assert (off <= bound).all(), f"expert {got['expert_id']}, layer {wanted['layer_idx']}: {(off - bound).max()}"


def test_outputs_depend_neither_on_the_worker_nor_on_other_requests(make_worker):
    everything = make_worker(list(range(EXPERTS)))
    halves = [make_worker([e for e in range(EXPERTS) if e % 2 == parity]) for parity in (0, 1)]
    asked = [request(seed * 7 % EXPERTS, seed) for seed in range(24)]
    together = results_of(everything.post("/compute_experts", {"requests": asked}))
    for wanted, got in zip(asked, together):
        alone = results_of(halves[wanted["expert_id"] % 2].post("/compute_experts", {"requests": [wanted]}))
        assert alone == [got]


def test_the_default_layer_is_the_first(make_worker):
    worker = make_worker([3])
    unsaid, first, second = results_of(worker.post("/compute_experts", {
        "requests": [request(3, 1), request(3, 1, layer_idx=0), request(3, 1, layer_idx=1)]}))
    assert unsaid["expert_output"] == first["expert_output"] != second["expert_output"]


def test_weights_come_from_the_packed_cache_the_second_time_with_the_same_bits(make_worker, tmp_path):
    folder = tmp_path / "packed"
    cpu = min(os.sched_getaffinity(0))  # Both threads on one CPU; results cannot depend on that.
    flags = ("--packed-cache", folder, "--cpus", cpu, "--threads", 2)
    asked = {"requests": [request(2, 1), request(5, 2)]}
    first = make_worker([2, 5], flags)
    fresh = results_of(first.post("/compute_experts", asked))
    assert wait_until(lambda: list(folder.glob("*.packed")), 20), first.process.log_tail()
    assert "from the packed cache" not in first.process.log_tail()
    second = make_worker([2, 5], flags)
    assert results_of(second.post("/compute_experts", asked)) == fresh
    assert "from the packed cache" in second.process.log_tail()


def test_status_counts_requests(make_worker):
    worker = make_worker([0, 1])
    results_of(worker.post("/compute_experts", {"requests": [request(0, 1), request(1, 2)]}))
    worker.post("/compute_experts", {"requests": [request(9, 1)]})
    status, body = get_text(worker.url + "/status")
    assert status == 200
    assert "9" not in body.split("expert")[0]
    assert get_text(worker.url + "/health")[0] == 200


def error_of(answer, status=400):
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == "error"
    return answer.json()["message"]


def test_a_worker_without_a_model_says_so(make_worker):
    message = error_of(make_worker().post("/compute_experts", {"requests": [request(0, 1)]}))
    assert message == "Worker not initialized"


@pytest.mark.parametrize("change, expected", [
    ({"expert_id": 9}, "Expert 9 not assigned to this worker"),
    ({"expert_id": 99}, "Expert 99 not assigned to this worker"),
    ({"token_embedding": [0.5] * 255}, "256"),
    ({"token_embedding": []}, "256"),
    ({"token_embedding": [0.5] * 255 + [None]}, "token_embedding"),
    ({"token_embedding": "rows"}, "token_embedding"),
    ({"layer_idx": LAYERS}, "layer"),
    ({"layer_idx": -1}, "layer"),
    ({"weight": "heavy"}, "weight"),
    ({"surprise": 1}, "surprise"),
], ids=lambda value: str(value)[:40])
def test_a_wrong_request_is_refused_by_name(make_worker, change, expected):
    worker = make_worker([0, 1])
    assert expected in error_of(worker.post("/compute_experts", {"requests": [{**request(0, 1), **change}]}))
    assert len(results_of(worker.post("/compute_experts", {"requests": [request(0, 1)]}))) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_value_that_is_not_a_finite_number_is_refused(make_worker, number):
    worker = make_worker([0])
    row = ",".join(["0.5"] * (WIDTH - 1) + [number])
    text = ('{"requests": [{"expert_id": 0, "token_embedding": [' + row +
            '], "batch_idx": 0, "seq_idx": 0, "k_idx": 0, "weight": 1.0}]}')
    error_of(httpx.post(worker.url + "/compute_experts", content=text, timeout=20, trust_env=False,
                        headers={"Content-Type": "application/json"}))


def test_a_model_may_be_replaced_during_other_requests(make_worker, demo_model):
    """A request that is checked against one model and would be computed by the next, of another width, is refused."""
    other = demo_model.parents[1] / "tests/goldens/models/qwen2_moe/plain"
    worker = make_worker([0, 1], ("--model-root", other.parent))
    before = results_of(worker.post("/compute_experts", {"requests": [request(0, 1)]}))
    asked = {"requests": [request(seed % 2, seed) for seed in range(64)]}

    def ask(_):
        return worker.post("/compute_experts", asked)

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(ask, range(60))
        for turn in range(60):
            model = (other, demo_model)[turn % 2]
            assert worker.post("/initialize", {"expert_ids": [0, 1], "model_path": str(model)}).status_code == 200
        statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 400} and 200 in statuses, statuses
    assert results_of(worker.post("/compute_experts", {"requests": [request(0, 1)]})) == before


@pytest.mark.parametrize("path", ["/etc", "../../etc", "no-such-model", ""])
def test_a_model_outside_the_roots_is_not_read(make_worker, path):
    error_of(make_worker().post("/initialize", {"expert_ids": [0], "model_path": path}))


def test_experts_that_the_model_lacks_are_refused(make_worker, demo_model):
    message = error_of(make_worker().post("/initialize", {"expert_ids": [0, 16], "model_path": str(demo_model)}))
    assert "16" in message


def bearer(key, challenge, method, path, body=b""):
    """As docs/operations.md says."""
    stamp = f"{challenge}.{secrets.token_hex(32)}"
    message = f"{stamp} {method} {path}\n".encode() + body
    claim = b"14:shoal token v2" + f"{len(message)}:".encode() + message
    return f"Bearer {stamp}.{hmac.new(key, claim, 'sha256').hexdigest()}"


def test_with_a_key_only_who_proves_it_is_served(make_worker, demo_model, tmp_path):
    key = b"a key of more than sixteen bytes"
    key_file = tmp_path / "key"
    key_file.write_bytes(key + b"\n")
    key_file.chmod(0o600)
    worker = make_worker(flags=("--key-file", key_file))
    body = json.dumps({"expert_ids": [3], "model_path": str(demo_model)}).encode()

    def post(authorization, content=body):
        return httpx.post(worker.url + "/initialize", content=content, timeout=20, trust_env=False,
                          headers={"Authorization": authorization} if authorization else {})

    def challenge():
        return httpx.get(worker.url + "/status", trust_env=False).headers["shoal-challenge"]

    now = challenge()
    for wrong in (None, f"Bearer {key.decode()}", bearer(b"another key, just as long...", now, "POST", "/initialize", body),
                  bearer(key, now, "POST", "/compute_experts", body), bearer(key, now, "POST", "/initialize", body + b" "),
                  bearer(key, secrets.token_hex(32), "POST", "/initialize", body)):
        refused = post(wrong)
        assert refused.status_code == 401 and refused.json()["status"] == "error", refused.text
    other = make_worker(flags=("--key-file", key_file))
    overheard = httpx.get(other.url + "/status", trust_env=False).headers["shoal-challenge"]
    assert post(bearer(key, overheard, "POST", "/initialize", body)).status_code == 401, "made for another process"
    proof = bearer(key, now, "POST", "/initialize", body)
    assert post(proof).status_code == 200
    assert post(proof).status_code == 401, "used before"
    status = httpx.get(worker.url + "/status", trust_env=False,
                       headers={"Authorization": bearer(key, challenge(), "GET", "/status")})
    assert status.json()["expert_ids"] == [3]
    assert httpx.get(worker.url + "/status", trust_env=False).status_code == 401
    assert "sixteen" not in worker.process.log(), "a key must never be printed"
