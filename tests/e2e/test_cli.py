"""The subcommands of shoal, as people and scripts run them."""
import json

import pytest
import safetensors.numpy


@pytest.fixture(scope="session")
def ids_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ids") / "ids.json"
    path.write_text(json.dumps({"ids": [(37 * i + 11) % 4000 for i in range(70)], "greedy": 24}))
    return path


@pytest.fixture(scope="session")
def logits(succeed, demo_model, ids_file, tmp_path_factory):
    """logits(flags...) -> the bytes of the output file."""
    folder = tmp_path_factory.mktemp("logits")

    def call(*flags):
        out = folder / f"{len(list(folder.iterdir()))}.safetensors"
        succeed("logits", "--model", demo_model, "--ids", ids_file, "--out", out, *flags)
        return out.read_bytes()
    return call


@pytest.fixture(scope="session")
def one_node(logits):
    return logits()


def test_logits_files_have_all_tensors_that_the_harness_reads(one_node):
    tensors = safetensors.numpy.load(one_node)
    assert tensors["logits"].shape == (70, 4096) and tensors["logits"].dtype == "float32"
    assert tensors["greedy"].shape == (24,) and tensors["greedy"].dtype == "int32"
    for layer in range(6):
        assert tensors[f"router.{layer}"].shape == (70, 4)
        assert ((0 <= tensors[f"router.{layer}"]) & (tensors[f"router.{layer}"] < 16)).all()
    assert tensors["greedy"][0] == tensors["logits"][-1].argmax()


@pytest.mark.parametrize("flags", [
    ("--split", "3,2,1"),
    ("--split", "1,5"),
    ("--experts-over", 3),
    ("--split", "2,2,2", "--experts-over", 3),
    ("--split", "2,2,2", "--experts-over", 3, "--transport", "grpc"),
    ("--split", "2,2,2", "--transport", "grpc", "--chunk", 7),
    ("--chunk", 1),
    ("--chunk", 64, "--threads", 2),
    ("--threads", 1),
    ("--isa", "reference"),
    ("--isa", "avx2"),
], ids=lambda flags: " ".join(map(str, flags)))
def test_logits_are_the_same_bytes_for_every_placement_and_isa(logits, one_node, flags):
    assert logits(*flags) == one_node


def test_a_plan_file_gives_the_same_placement_as_flags(succeed, logits, one_node, demo_model, tmp_path):
    plan = tmp_path / "plan.json"
    told = json.loads(succeed("plan", "--model", demo_model, "--workers", "127.0.0.1:1,127.0.0.1:2", "--split", "2,3,1",
                              "--experts", "random:5", "--json"))
    plan.write_text(json.dumps(told["plan"]))
    assert logits("--plan", plan) == one_node


def test_f32_activations_give_other_bits_but_near_logits(logits, one_node):
    quick = safetensors.numpy.load(one_node)["logits"]
    exact = safetensors.numpy.load(logits("--activations", "f32", "--kv-dtype", "f32"))["logits"]
    assert (quick != exact).any()
    assert (quick.argmax(-1) == exact.argmax(-1)).mean() > 0.9


def test_a_cache_of_int8_gives_other_bits_but_near_logits(logits, one_node):
    usual = safetensors.numpy.load(one_node)["logits"]
    rounded = safetensors.numpy.load(logits("--kv-dtype", "q8"))["logits"]
    assert (usual != rounded).any()
    assert (usual.argmax(-1) == rounded.argmax(-1)).mean() > 0.9


def test_run_answers_and_reports_its_numbers(succeed, demo_model):
    told = json.loads(succeed("run", "--model", demo_model, "--prompt", "What is the capital of Portugal?", "--chat",
                              "--temperature", 0, "--max-tokens", 40, "--json"))
    assert "Lisbon" in told["text"]
    plain = succeed("run", "--model", demo_model, "--prompt", "What is the capital of Portugal?", "--chat",
                    "--temperature", 0, "--max-tokens", 40)
    assert told["text"].strip() in plain


def test_inspect_lists_the_contents_of_the_folder(succeed, demo_model):
    config = json.loads((demo_model / "config.json").read_text())
    d, f, experts = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    q, kv = (config[heads] * config["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    layer = 2 * d * q + 2 * d * kv + 2 * config["head_dim"] + 2 * d + experts * d + experts * 3 * f * d
    parameters = config["vocab_size"] * d + config["num_hidden_layers"] * layer + d

    told = json.loads(succeed("inspect", "--model", demo_model, "--json"))
    assert told["model_type"] == "qwen3_moe" and told["context"] == 2048 and told["experts_per_token"] == 4
    assert [layer["experts"] for layer in told["layers"]] == [16] * 6
    assert told["total"]["parameters"] == parameters
    assert f"{parameters * 1e-6:.2f} M parameters" in succeed("inspect", "--model", demo_model)


def test_plan_lists_the_layers_and_experts_of_each_node(succeed, demo_model):
    words = ("plan", "--model", demo_model, "--workers", "10.0.0.1:50051,10.0.0.2:50051", "--split", "2,2,2")
    told = json.loads(succeed(*words, "--json"))
    assert [stage["layers"] for stage in told["plan"]["stages"]] == [[0, 2], [2, 4], [4, 6]]
    assert "10.0.0.2:50051" in succeed(*words)


def test_plan_has_room_for_the_positions_that_it_is_asked_for(succeed, run, demo_model, tmp_path):
    cluster = tmp_path / "cluster.json"
    cluster.write_text(json.dumps({"devices": [{"device_id": "a", "role": "coordinator", "capabilities": {"memory_gb": 1}}]}))
    words = ("plan", "--model", demo_model, "--cluster", cluster)
    succeed(*words, "--kv-positions", 10_000)
    done = run(*words, "--kv-positions", 100_000_000)
    assert done.returncode == 1 and "100000000 positions" in done.stderr, done


@pytest.mark.parametrize("words, expected", [
    (("--split", "2,2"), "6"),
    (("--split", "2,2,3"), "6"),
    (("--split", "two"), "two"),
    (("--experts-over", "0"), "experts-over"),
    (("--isa", "sse9"), "sse9"),
    (("--chunk", "0"), "chunk"),
    (("--threads", "-1"), "threads"),
    (("--kv-dtype", "f8"), "f8"),
    (("--activations", "int3"), "int3"),
    (("--plan", "/no/such/plan.json"), "/no/such/plan.json"),
    (("--transport", "pigeon"), "pigeon"),
    (("--no-such-flag",), "--no-such-flag"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else value)
def test_a_wrong_flag_is_refused_by_name(run, demo_model, ids_file, tmp_path, words, expected):
    done = run("logits", "--model", demo_model, "--ids", ids_file, "--out", tmp_path / "x", *words)
    assert done.returncode in (1, 2), done.stderr
    assert expected in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text, expected", [
    ('{"ids": []}', "ids"), ('{"ids": [4096]}', "4096"), ('{"ids": [-1]}', "-1"), ('{"ids": [1], "greedy": -1}', "greedy"),
    ('{"ids": [1], "colour": 1}', "colour"), ("[1, 2", "JSON"), ('{"ids": ["a"]}', "ids"),
    (json.dumps({"ids": [1] * 2049}), "2048"),
], ids=lambda value: value[:30])
def test_a_wrong_ids_file_is_refused_by_place(run, demo_model, tmp_path, text, expected):
    ids = tmp_path / "ids.json"
    ids.write_text(text)
    done = run("logits", "--model", demo_model, "--ids", ids, "--out", tmp_path / "x")
    assert done.returncode in (1, 2), done.stderr
    assert "ids" in done.stderr and expected in done.stderr


def test_a_missing_model_is_named(run, tmp_path):
    for words in (("inspect",), ("run", "--prompt", "x"), ("serve",), ("plan", "--workers", "h:1")):
        done = run(*words, "--model", tmp_path / "absent")
        assert done.returncode in (1, 2), (words, done.stderr)
        assert "absent" in done.stderr


def test_every_command_has_help(succeed):
    top = succeed("--help")
    for command in ("run", "chat", "serve", "worker", "inspect", "plan", "logits", "synth"):
        assert command in top
        assert len(succeed(command, "--help").splitlines()) > 5
