"""GGUF files, and the commands that convert and evaluate models."""
import json
import pathlib
import signal
import subprocess
import time

import pytest

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "models"
TEXT = """<|im_start|>user
What is the capital of Portugal?<|im_end|>
<|im_start|>assistant
The capital of Portugal is Lisbon.<|im_end|>
<|endoftext|>"""


@pytest.fixture()
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 4)
    return path


def test_a_gguf_is_the_same_model_by_its_path_and_by_its_folder(succeed, tmp_path):
    folder = GOLDENS / "qwen3_moe" / "plain-gguf-q4_0"
    seen = json.loads(succeed("inspect", "--model", folder / "model.gguf", "--json"))
    assert seen["model_type"] == "qwen3_moe" and seen["unused_tensors"] == []
    assert "4-bit groups of 32, f16 scales" in seen["by_format"]
    (tmp_path / "ids.json").write_text(json.dumps({"ids": [5, 6, 7], "greedy": 8}))
    for name, path in ("folder", folder), ("file", folder / "model.gguf"):
        succeed("logits", "--model", path, "--ids", tmp_path / "ids.json", "--out", tmp_path / name, "--packed-cache", "off")
    assert (tmp_path / "folder").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_truncated_gguf_is_refused_with_the_place(run, tmp_path):
    whole = (GOLDENS / "llama" / "plain-gguf-q8_0" / "model.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-1000])
    done = run("inspect", "--model", tmp_path / "cut.gguf")
    assert done.returncode == 2 and "cut.gguf" in done.stderr and "truncated" in done.stderr


def test_a_converted_model_answers_and_is_near_its_source(succeed, demo_model, text, tmp_path):
    said = succeed("convert", "--model", demo_model, "--out", tmp_path / "eight", "--quant", "affine-8-g64")
    assert "8-bit groups of 64" in said
    tokens = [json.loads(succeed("run", "--model", model, "--chat", "--prompt", "What is the capital of Portugal?",
                                 "--packed-cache", "off", "--json"))["text"] for model in (demo_model, tmp_path / "eight")]
    assert tokens[0] == tokens[1] == "The capital of Portugal is Lisbon."
    judged = json.loads(succeed("eval", "--model", tmp_path / "eight", "--reference", demo_model, "--text", text, "--json"))
    assert judged["mean_kl"] < 1e-2 and judged["top1"] > 0.9
    assert judged["perplexity"] == pytest.approx(judged["reference_perplexity"], rel=0.05)


def test_eval_finds_no_distance_of_a_model_from_itself(succeed, demo_model, text):
    judged = json.loads(succeed("eval", "--model", demo_model, "--activations", "f32", "--reference-activations", "f32",
                                "--text", text, "--json"))
    assert judged["mean_kl"] == pytest.approx(0, abs=1e-12) and judged["top1"] == 1
    alone = json.loads(succeed("eval", "--model", demo_model, "--activations", "f32", "--text", text, "--json"))
    assert "mean_kl" not in alone and alone["perplexity"] == judged["perplexity"]


def test_eval_measures_what_a_cache_of_int8_costs(succeed, demo_model, text):
    judged = json.loads(succeed("eval", "--model", demo_model, "--kv-dtype", "q8", "--reference-kv-dtype", "f16",
                                "--text", text, "--json"))
    assert 0 < judged["mean_kl"] < 1e-2 and judged["top1"] > 0.9


def layer_errors(succeed, model, text, *words):
    judged = json.loads(succeed("eval", "--model", model, "--text", text, "--layers", "--json", *words))
    assert [row["layer"] for row in judged["layers"]] == ["embedding", *map(str, range(6))]
    return [row["relative_rms"] for row in judged["layers"]]


def test_errors_of_layers_follow_the_bits_of_their_weights(succeed, run, demo_model, text, tmp_path):
    exact = ("--activations", "f32", "--reference-activations", "f32")
    assert layer_errors(succeed, demo_model, text, *exact) == [0] * 7
    succeed("convert", "--model", demo_model, "--out", tmp_path / "three", "--quant", "affine-3-g32")
    succeed("convert", "--model", demo_model, "--out", tmp_path / "eight", "--quant", "affine-8-g32")
    against = ("--reference", demo_model, *exact)
    three, eight = (layer_errors(succeed, tmp_path / name, text, *against) for name in ("three", "eight"))
    assert all(a > 4 * b > 0 for a, b in zip(three, eight)), "five bits more"
    assert three[0] < three[-1], "errors of layers add up"
    # The output of a layer does not depend on its node, so its error does not either.
    assert layer_errors(succeed, tmp_path / "three", text, *against, "--split", "2,1,3") == three
    int8 = layer_errors(succeed, demo_model, text, "--reference-activations", "f32")
    assert int8[0] == 0 and 0 < int8[1] < int8[-1] < 0.1
    alone = run("eval", "--model", demo_model, "--text", text, "--layers")
    assert alone.returncode == 2 and "--reference" in alone.stderr


def test_a_killed_conversion_can_be_continued(shoal, succeed, demo_model, tmp_path):
    words = ["convert", "--model", demo_model, "--out", tmp_path / "out", "--quant", "mixed", "--shard", "500KB"]
    child = subprocess.Popen([shoal, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list((tmp_path / "out").glob("*.safetensors"))) < 2:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert " files were there" in succeed(*words)
    assert not list((tmp_path / "out").glob("*.partial"))
    whole = tmp_path / "whole"
    succeed("convert", "--model", demo_model, "--out", whole, "--quant", "mixed", "--shard", "500KB")
    for file in whole.iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name
