"""Model folders in published encodings: shoal reads, bit for bit, the values that the formats stand for, and its logits are
those of mlx-lm for these values."""
from pathlib import Path

import pytest

import encodings_in_numpy as encodings
from mlx_logits import TOLERANCE, logits_of_mlx, logits_of_shoal

GOLDENS = Path(__file__).parents[1] / "goldens" / "models"
BESIDE = Path(__file__).parents[3] / "shared" / "goldens" / "models"

INT4 = {"bits": 4, "zero_point": True, "sym": False, "desc_act": False}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}

CASES = {
    "gptq-32": (lambda w: encodings.gptq(w, 32), {**INT4, "quant_method": "gptq", "group_size": 32}),
    "gptq-128": (lambda w: encodings.gptq(w, 128), {**INT4, "quant_method": "gptq", "group_size": 128,
                                                    "checkpoint_format": "gptq"}),
    "gptq-v2": (lambda w: encodings.gptq_v2(w, 64), {**INT4, "quant_method": "gptq", "group_size": 64,
                                                     "checkpoint_format": "gptq_v2"}),
    "awq-64": (lambda w: encodings.awq(w, 64), {**INT4, "quant_method": "awq", "group_size": 64, "version": "gemm"}),
    "awq-128": (lambda w: encodings.awq(w, 128), {**INT4, "quant_method": "awq", "group_size": 128, "version": "gemm"}),
    "packed-int4": (lambda w: encodings.packed_int4(w, 32), PACKED),
    "packed-int4-128": (lambda w: encodings.packed_int4(w, 128), PACKED),
    "fp8": (lambda w: encodings.fp8(w, (128, 128)), {**FP8, "weight_block_size": [128, 128]}),
    "fp8-cut-blocks": (lambda w: encodings.fp8(w, (48, 96)), {**FP8, "weight_block_size": [48, 96]}),
    "fp8-exponents": (lambda w: encodings.fp8_exponents(w, (128, 128)), {**FP8, "weight_block_size": [128, 128]}),
}


@pytest.mark.parametrize("family", ["qwen3/tied", "llama/plain"])
@pytest.mark.parametrize("case", CASES)
def test_an_encoded_folder_gives_the_logits_of_its_values(succeed, tmp_path, case, family):
    encode, config = CASES[case]
    encodings.encode_model(GOLDENS / family, tmp_path / "encoded", tmp_path / "exact", encode, config)
    ours = logits_of_shoal(succeed, tmp_path / "encoded")
    assert ours.tobytes() == logits_of_shoal(succeed, tmp_path / "exact").tobytes(), "every value, to the last bit"
    original = logits_of_shoal(succeed, GOLDENS / family)
    assert abs(ours - original).max() > 1e-3, "4 and 8 bits do change a model"
    assert abs(ours - logits_of_mlx(tmp_path / "exact")).max() < TOLERANCE


@pytest.mark.parametrize("case", ["awq-64", "awq-128"])
def test_mlx_lm_reads_the_same_from_awq(succeed, tmp_path, case):
    """An independent check: mlx-lm's reader was written neither by us nor by the author of the writer here."""
    encode, config = CASES[case]
    encodings.encode_model(GOLDENS / "qwen3/tied", tmp_path / "encoded", tmp_path / "exact", encode, config)
    difference = abs(logits_of_shoal(succeed, tmp_path / "encoded") - logits_of_mlx(tmp_path / "encoded")).max()
    assert difference < TOLERANCE


@pytest.mark.skipif(not BESIDE.exists(), reason="no ../shared/goldens")
@pytest.mark.parametrize("case", ["fp8", "packed-int4"])
def test_mlx_lm_reads_the_same_from_deepseeks_formats(succeed, tmp_path, case):
    encode, config = CASES[case]
    if case == "fp8":  # mlx-lm converts it to bf16
        def encode(w):
            return encodings.fp8_powers(w, (128, 128))
    only_experts = {"chosen": lambda name: ".experts." in name} if case == "packed-int4" else {}  # as in Kimi K2
    encodings.encode_model(BESIDE / "deepseek_v3/r1", tmp_path / "encoded", tmp_path / "exact", encode, config, **only_experts)
    difference = abs(logits_of_shoal(succeed, tmp_path / "encoded") - logits_of_mlx(tmp_path / "encoded")).max()
    assert difference < TOLERANCE
