"""`shoal bench`: its output is complete and consistent. Speed is not tested here."""
import json
import re
import subprocess

import pytest

QUICK = ("--runs", 2, "--gen", 12, "--threads", 1)
PARTS = {"idle", "wire", "embed", "norm_quantize", "qkv", "rope_append", "attention", "attention_out", "gate_up", "activation",
         "down", "router", "experts", "exchange", "head", "sample"}


@pytest.fixture(scope="module")
def run(shoal):
    def call(*words):
        return subprocess.run([shoal, "bench", *map(str, words)], capture_output=True, text=True, timeout=80, check=False)
    return call


@pytest.fixture(scope="module")
def bench(run, demo_model):
    """bench(flags...) -> the parsed JSON of a bench of the demo model."""
    def call(*flags):
        done = run("--model", demo_model, *flags, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return call


@pytest.fixture(scope="module")
def one_node(bench):
    return bench(*QUICK, "--prompt", "40,300", "--batch", "1,3", "--context", 200)


def names(report):
    return [(r["what"], r["prompt"], r["batch"], r["context"], r["groups"]) for r in report["results"]]


def test_every_requested_load_is_measured_once(one_node):
    assert names(one_node) == [("prefill", 40, 1, 0, 1), ("prefill", 300, 1, 0, 1), ("decode", 32, 1, 32, 1),
                               ("decode", 32, 3, 32, 1), ("decode", 200, 1, 200, 1)]


def test_without_a_batch_only_the_contexts_are_decoded(bench):
    assert names(bench(*QUICK, "--prompt", 0, "--batch", 0, "--context", 100)) == [("decode", 100, 1, 100, 1)]


def test_results_have_all_fields_of_the_json(one_node):
    assert set(one_node) == {"machine", "bounds", "model", "results"}
    assert {"cpu", "cores", "memory_bytes"} <= set(one_node["machine"])
    assert set(one_node["model"]) == {"name", "weight_bytes", "kv_bytes", "file_read_gbs", "first_touch_gbs", "load_s", "load_user_s", "load_system_s",
                                      "from_packed_cache", "peak_resident_bytes"}
    assert one_node["model"]["first_touch_gbs"] > 0
    assert one_node["model"]["file_read_gbs"] > 0
    assert one_node["model"]["load_user_s"] + one_node["model"]["load_system_s"] > 0
    assert one_node["model"]["peak_resident_bytes"] > one_node["model"]["weight_bytes"] + one_node["model"]["kv_bytes"]
    for result in one_node["results"]:
        assert {"what", "threads", "batch", "prompt", "context", "isa", "split", "tokens_per_s", "bytes_per_token",
                "share_of_bound"} <= set(result)
        assert result["threads"] == 1 and result["split"] is None
        rates = result["tokens_per_s"]
        assert 0 < rates["min"] <= rates["median"] <= rates["max"] and rates["runs"] == 2
        assert result["share_of_bound"] > 0 and result["bound"] in ("read", "multiply")
        assert 0 < result["read_bound_gbs"] <= one_node["bounds"]["read_gbs"]["1"]
        assert result["share_of_bound_per_phase"] >= result["share_of_bound"] * (1 - 1e-9)
        assert set(result["parts"]) == {"layers", "experts", "attention", "head"}
        assert "expert_overhead_us_per_layer" not in result  # All experts are on this node.
        for field in ("bytes", "int8_ops", "f32_ops"):
            whole = result[f"{field}_per_token"] + (result["kv_bytes_per_token"] if field == "bytes" else 0)
            assert sum(part[f"{field}_per_token"] for part in result["parts"].values()) == pytest.approx(whole)


def test_bounds_are_measured_with_the_same_number_of_threads(one_node):
    bounds = one_node["bounds"]
    for kind in ("read_gbs", "vnni_gops", "fma_gflops"):
        assert list(bounds[kind]) == ["1"] and bounds[kind]["1"] > 0
    for kind in ("scaled_gops", "wide_gops", "amx_gops"):  # Only if the CPU has the instructions.
        assert all(rate > 0 for rate in bounds[kind].values())


def test_the_phases_of_a_breakdown_add_up_to_the_elapsed_time(one_node):
    for result in one_node["results"]:
        (node,) = result["nodes"]
        parts = node["parts_ms"]
        assert set(parts) <= PARTS and all(ms > 0 for ms in parts.values())
        assert {"embed", "norm_quantize", "qkv", "rope_append", "attention", "attention_out", "gate_up", "activation", "down",
                "router", "experts", "exchange", "head", "sample", "wire"} <= set(parts)
        assert sum(parts.values()) == pytest.approx(node["sum_ms"])
        assert node["sum_ms"] == pytest.approx(node["elapsed_ms"], rel=0.03)
        assert 0 < node["busy_share"] <= 1


def test_a_token_reads_the_weights_of_its_experts_only(one_node):
    whole = one_node["model"]["weight_bytes"]
    (alone,) = [r for r in one_node["results"] if r["what"] == "decode" and r["batch"] == 1 and r["context"] == 32]
    (batch,) = [r for r in one_node["results"] if r["batch"] == 3]
    assert alone["experts_per_step"] == 6 * 4  # layers times experts per token
    assert 6 * 4 < batch["experts_per_step"] <= 3 * 6 * 4
    assert whole / 10 < alone["bytes_per_token"] < whole
    assert alone["bytes_per_token"] / 3 < batch["bytes_per_token"] < alone["bytes_per_token"]


def test_a_longer_context_reads_more_of_the_cache(one_node):
    at = {r["context"]: r for r in one_node["results"] if r["what"] == "decode" and r["batch"] == 1}
    # Twelve steps from 32 and from 200 positions on: 38.5 and 206.5 positions on average, including the step's own.
    assert at[200]["kv_bytes_per_token"] / at[32]["kv_bytes_per_token"] == pytest.approx(206.5 / 38.5)
    assert at[200]["bytes_per_token"] == pytest.approx(at[32]["bytes_per_token"], rel=0.2)


def test_a_split_is_measured_in_one_batch_and_with_all_stages_busy(bench):
    report = bench(*QUICK, "--prompt", 300, "--batch", "1,4", "--split", "1,1", "--transport", "grpc")
    assert names(report) == [("prefill", 300, 1, 0, 1), ("decode", 32, 1, 32, 1), ("decode", 32, 4, 32, 1),
                             ("decode", 32, 4, 32, 2)]
    assert [r["bound_threads"] for r in report["results"]] == [2, 1, 1, 2]
    for result in report["results"]:
        assert result["split"] == "1,1" and result["transport"] == "grpc"
        assert [node["node"] for node in result["nodes"]] == ["coordinator", "node-1"]
        for node in result["nodes"]:
            assert 0 < node["busy_share"] <= 1
            assert node["sum_ms"] == pytest.approx(node["elapsed_ms"], rel=0.03)


def test_experts_over_nodes_leave_the_layers_on_the_first(bench):
    report = bench(*QUICK, "--prompt", 40, "--experts-over", 2, "--transport", "grpc")
    trip = report["round_trip_us"]
    assert trip["payload_bytes"] == 4096 and trip["runs"] == 1000
    assert 1 < trip["min"] <= trip["median"] <= trip["max"]  # below a microsecond nothing would have left the node
    for result in report["results"]:
        first, second = result["nodes"]
        # The time of the exchange without computing. Frames travel in it, so it is never zero.
        assert 0 < result["expert_overhead_us_per_layer"] < 1e3 * first["elapsed_ms"]
        assert "attention" in first["parts_ms"] and "attention" not in second["parts_ms"]
        assert "gate_up" in first["parts_ms"] and "gate_up" in second["parts_ms"]


def test_a_split_may_name_layers_too(bench):
    assert bench(*QUICK, "--prompt", 40, "--split", "5,1")["results"][0]["split"] == "5,1"


def test_nodes_without_a_split_get_the_same_layers_as_from_a_server(bench):
    result = bench(*QUICK, "--prompt", 40, "--nodes", 2)["results"][0]
    counts = [int(count) for count in result["split"].split(",")]
    assert len(counts) == 2 and sum(counts) == 6 and len(result["nodes"]) == 2


def test_the_roofline_alone_needs_no_model(run):
    done = run("--roofline", "--threads", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["results"] == [] and "model" not in report
    bounds = report["bounds"]
    for kind in ("read_gbs", "vnni_gops", "fma_gflops"):
        assert set(bounds[kind]) == {"1", "2"}
        assert 0 < bounds[kind]["1"] <= bounds[kind]["2"] <= 2 * bounds[kind]["1"]


def test_the_roofline_is_measured_on_the_given_cpus(run):
    done = run("--roofline", "--cpus", "4000")
    assert done.returncode not in (0, 1) and "--cpus" in done.stderr


def test_the_report_gives_the_cost_of_remote_experts_in_round_trips(run, demo_model):
    done = run("--model", demo_model, *QUICK, "--prompt", 0, "--experts-over", 2, "--transport", "grpc")
    assert done.returncode == 0, done.stderr
    trip = float(re.search(r"a bare round trip of 4096 bytes between two nodes takes (\d+) us", done.stdout)[1])
    cost = re.search(r"cost (\d+) us a layer beyond computing, ([\d.]+) round trips", done.stdout)
    assert float(cost[2]) == pytest.approx(float(cost[1]) / trip, rel=0.1, abs=0.06)  # The figures are rounded.


def test_the_report_has_a_table_and_a_breakdown(run, demo_model):
    done = run("--model", demo_model, *QUICK, "--prompt", 40)
    assert done.returncode == 0, done.stderr
    for text in ("bounds of", "prefill 40", "decode 1 at 32", "tokens/s", "coordinator: ", "gate_up"):
        assert text in done.stdout


def test_a_shape_that_was_written_once_is_used_again(run, demo_model, tmp_path):
    (tmp_path / "shape-A-4bit-g64").symlink_to(demo_model)  # Another model, to see that this folder is read.
    done = run("--shape", "A", "--cache", tmp_path, "--runs", 1, "--prompt", 40, "--gen", 0, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"]["weight_bytes"] < 100e6 and names(report) == [("prefill", 40, 1, 0, 1)]


@pytest.mark.parametrize("words, said", [
    ((), "--model, --shape, --roofline or --check-plan"),
    (("--shape", "C"), "'C'"),
    (("--batch", "-1"), "--batch"),
    (("--prompt", "-1"), "--prompt"),
    (("--transport", "pigeon"), "pigeon"),
    (("--split", "0,0"), "shares such as 1,1"),
    (("--split", "a,b"), "a"),
    (("--split", "1,1", "--experts-over", "2"), "excludes"),
    (("--context", "100000"), "100000"),
    (("--isa", "z80"), "z80"),
])
def test_a_load_that_cannot_be_measured_is_refused_by_name(run, demo_model, words, said):
    model = () if not words or words[0] == "--shape" else ("--model", demo_model, "--gen", 4, "--prompt", 8)
    done = run(*model, *words)
    assert done.returncode not in (0, 1), done.stderr
    assert said in done.stderr
