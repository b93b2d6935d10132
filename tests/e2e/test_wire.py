"""Rows that are rounded between nodes (--wire): the bytes of an answer depend on the plan, and on nothing else."""
import concurrent.futures
import json

import pytest
import safetensors.numpy

from dialogue import NEVER_END, QUESTIONS, ask, client_of
from local_cluster import wait_until
from test_resume import REQUESTS as LONG_REQUESTS, Stream, all_answers, lost_and_found

SPREAD = ("--split", "2,2,2", "--experts", "round_robin:3")
REQUESTS = [dict(request, max_tokens=200) for request in LONG_REQUESTS]
LOSSY = pytest.mark.parametrize("wire", ["f16", "q8"])

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def logits(succeed, demo_model, tmp_path_factory):
    """logits(flags...) -> the bytes of the output file."""
    folder = tmp_path_factory.mktemp("logits")
    (folder / "ids.json").write_text(json.dumps({"ids": [(37 * i + 11) % 4000 for i in range(70)], "greedy": 24}))

    def call(*flags):
        out = folder / "out.safetensors"
        succeed("logits", "--model", demo_model, "--ids", folder / "ids.json", "--out", out, *flags)
        return out.read_bytes()
    return call


@LOSSY
def test_the_same_plan_gives_the_same_logits_and_another_plan_others(logits, wire):
    rounded = logits(*SPREAD, "--wire", wire)
    for way in (("--transport", "grpc"), ("--chunk", 7), ("--chunk", 1, "--threads", 1), ("--isa", "reference")):
        assert logits(*SPREAD, "--wire", wire, *way) == rounded, way
    exact = logits()
    assert logits(*SPREAD) == logits(*SPREAD, "--wire", "exact") == logits("--wire", wire) == exact
    other = logits("--split", "3,2,1", "--wire", wire)
    assert len({exact, rounded, other}) == 3
    tops = [safetensors.numpy.load(data)["logits"].argmax(-1) for data in (exact, rounded, other)]
    assert (tops[0] == tops[1]).mean() > 0.9 and (tops[0] == tops[2]).mean() > 0.9


def test_a_plan_file_says_how_rows_travel_and_a_flag_goes_before_it(succeed, logits, demo_model, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(succeed("plan", "--model", demo_model, "--workers", "127.0.0.1:1,127.0.0.1:2", *SPREAD, "--wire", "q8",
                            "--json"))
    told = json.loads(plan.read_text())
    assert told["plan"]["wire_dtype"] == "q8" and 4 * told["per_token"]["bytes_max"] < told["per_token"]["bytes_max_exact"]
    assert any("depend on this placement" in note for note in told["plan"]["notes"])
    assert logits("--plan", plan) == logits(*SPREAD, "--wire", "q8")
    assert logits("--plan", plan, "--wire", "exact") == logits()


def test_plan_prints_the_bytes_and_how_the_loss_is_measured(succeed, demo_model):
    words = ("plan", "--model", demo_model, "--workers", "10.0.0.1:50051,10.0.0.2:50051", *SPREAD)
    told = succeed(*words, "--wire", "q8")
    assert "rows travel as q8" in told and "shoal eval --plan" in told and "where they are exact" in told
    assert "rows travel" not in succeed(*words)


# Bounds about three times what was measured: f16 2.8e-3 and 0.982, q8 1.6e-3 and 0.970. A last bit may turn a choice of
# experts, whatever it was lost to, so that f16 is no better here.
@LOSSY
def test_eval_measures_the_loss_of_a_placement(succeed, run, demo_model, tmp_path, wire):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(QUESTIONS) * 8)
    words = ("eval", "--model", demo_model, "--text", text, "--json")
    judged = json.loads(succeed(*words, *SPREAD, "--wire", wire))
    assert 0 < judged["mean_kl"] < 1e-2 and judged["top1"] > 0.92
    assert judged["perplexity"] == pytest.approx(judged["reference_perplexity"], rel=0.05)
    alone = run(*words, "--wire", wire)
    assert alone.returncode == 2 and "no row travels" in alone.stderr


def test_an_unknown_format_is_refused_by_name(run, demo_model, tmp_path):
    done = run("plan", "--model", demo_model, "--split", "3,3", "--wire", "q4")
    assert done.returncode == 2 and "'q4': expected exact or f16 or q8" in done.stderr, done.stderr
    plan = tmp_path / "plan.json"
    plan.write_text(run("plan", "--model", demo_model, "--split", "3,3", "--wire", "q8", "--json").stdout.replace('"q8"', '"q3"'))
    (tmp_path / "ids.json").write_text(json.dumps({"ids": [5, 6, 7], "greedy": 2}))
    done = run("logits", "--model", demo_model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "x", "--plan", plan)
    assert done.returncode == 2 and "q3" in done.stderr


@LOSSY
def test_processes_give_the_text_of_nodes_in_one_process_and_say_that_it_depends_on_them(succeed, make_cluster, demo_model, wire):
    cluster = make_cluster(2, serve_args=(*SPREAD, "--wire", wire))
    texts = [ask(client_of(cluster), question, max_tokens=60) for question in QUESTIONS[:4]]
    local = [json.loads(succeed("run", "--model", demo_model, "--chat", "--prompt", question, "--temperature", 0,
                                "--max-tokens", 60, "--json", *SPREAD, "--wire", wire))["text"] for question in QUESTIONS[:4]]
    assert texts == local
    status = cluster.status()
    assert status["wire"] == {"rows": wire, "bits_depend_on_placement": True}
    assert any("depend on this placement" in note for note in status["plan"])
    assert f"rounded to {wire}" in cluster.coordinator.log()


def test_an_exact_cluster_says_that_its_bits_depend_on_nothing(trio):
    assert trio.status()["wire"] == {"rows": "exact", "bits_depend_on_placement": False}


@pytest.mark.parametrize("worker", [0, 1], ids=["middle_stage", "last_stage"])
def test_streams_over_a_worker_that_is_lost_and_comes_back_have_the_undisturbed_bytes(make_cluster, worker):
    cluster = make_cluster(2, serve_args=(*SPREAD, "--wire", "q8"))
    undisturbed = all_answers(cluster, REQUESTS)
    process = cluster.workers[worker]
    assert lost_and_found(cluster, REQUESTS, process.kill, process.start) == undisturbed
    cluster.wait_ready(30)
    assert all_answers(cluster, REQUESTS) == undisturbed


def test_streams_go_on_over_a_plan_without_a_lost_worker(make_cluster):
    cluster = make_cluster(2, serve_args=("--strategy", "uniform", "--experts", "round_robin:3", "--wire", "q8",
                                          "--replan-after", "1"))
    before = cluster.status()["generation"]
    streams = [Stream(cluster, QUESTIONS[i], dict(max_tokens=400, temperature=0, logit_bias=NEVER_END)) for i in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        texts = [pool.submit(stream.read) for stream in streams]
        assert all(stream.begun.wait(30) for stream in streams)
        cluster.workers[1].kill()
        ends = [text.result() for text in texts]
    # Text may differ from there on, as the other plan rounds other rows; it goes on to its end.
    assert all(reason == "length" and len(text) > 200 for text, reason in ends)
    status = cluster.status()
    assert status["generation"] > before and status["wire"]["rows"] == "q8"


def test_blocks_on_disk_are_those_of_a_format_and_a_placement(make_cluster, tmp_path):
    head = "You are a helpful assistant. " + " ".join(f"Rule {i}: {text}" for i, text in enumerate(QUESTIONS * 2))

    def answer(*flags):
        """The text, and how many tokens of the prompt came from the disk of a server that has just started."""
        cluster = make_cluster(0 if "--wire" not in flags else 2, serve_args=(
            *flags, "--speculate", "off", "--kv-disk", "1GiB", "--kv-disk-dir", tmp_path / "serve"),
            worker_args=lambda i: ("--kv-disk", "1GiB", "--kv-disk-dir", tmp_path / f"worker-{i}"))
        assert wait_until(lambda: cluster.cache_stats()["kv_disk"]["active"], 60)
        text = ask(client_of(cluster), head, max_tokens=24, temperature=0.9, seed=3, logit_bias=NEVER_END)
        stats = cluster.cache_stats()
        assert wait_until(lambda: cluster.cache_stats()["kv_disk"]["blocks"] >= stats["blocks"]["cached"] > 0, 60)
        cluster.stop()
        return text, stats["kv_disk"]["tokens_restored"]

    first, none = answer("--split", "2,2,2", "--wire", "q8")
    assert none == 0
    again, restored = answer("--split", "2,2,2", "--wire", "q8")
    assert again == first and restored > 100
    assert answer("--split", "2,2,2", "--wire", "f16")[1] == 0
    assert answer("--split", "2,2,2", "--wire", "exact")[1] == 0
    assert answer("--split", "2,1,3", "--wire", "q8")[1] == 0
