"""mlx-lm loads the folders that `shoal convert` writes, and gives the same logits."""
from pathlib import Path

import pytest

from mlx_logits import TOLERANCE, logits_of_mlx, logits_of_shoal

GOLDENS = Path(__file__).parents[1] / "goldens" / "models"
BESIDE = Path(__file__).parents[3] / "shared" / "goldens" / "models"


@pytest.fixture
def round_trip(succeed, tmp_path):
    """round_trip(source, quant) -> the largest difference between mlx-lm's and shoal's logits of the converted model."""
    def run(source, quant):
        out = tmp_path / "converted"
        succeed("convert", "--model", source, "--out", out, "--quant", quant)
        expected, got = logits_of_mlx(out), logits_of_shoal(succeed, out)
        assert got.shape == expected.shape and expected.std() > 0.1, "logits that say something"
        return abs(got - expected).max()
    return run


@pytest.mark.parametrize("quant", ["affine-4-g64", "affine-8-g64", "mixed", "bf16"])
def test_the_demo_model_is_the_same_in_mlx_lm(round_trip, demo_model, quant):
    assert round_trip(demo_model, quant) < TOLERANCE


@pytest.mark.parametrize("case", ["llama/llama3_rope_tied", "llama/plain-gguf-q8_0", "qwen2/tied", "qwen3/tied", "qwen3_moe/plain",
                                  "qwen3_moe/plain-gguf-q4_0"])
def test_families_are_the_same_in_mlx_lm(round_trip, case):
    assert round_trip(GOLDENS / case, "affine-8-g64") < TOLERANCE


@pytest.mark.skipif(not BESIDE.exists(), reason="no ../shared/goldens")
@pytest.mark.parametrize("quant", ["affine-8-g64", "bf16"])
@pytest.mark.parametrize("case", ["gpt_oss/bf16", "deepseek_v3/r1", "deepseek_v2/lite", "glm4_moe_lite/plain"])
def test_split_tensors_are_the_same_in_mlx_lm(round_trip, case, quant):
    assert round_trip(BESIDE / case, quant) < TOLERANCE
