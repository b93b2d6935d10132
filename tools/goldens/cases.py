"""Cases beside those of ../shared/goldens, whose scripts make them: run with transformers (CPU) in ../shared/goldens/make as

    python gen_models.py ../../../REPOSITORY/tools/goldens/cases.py OUT --quick

and copy each with `tools/goldens/copy_case.py OUT/models gemma4/layer_inputs`. The versions that made what is in
tests/goldens/models: transformers 5.23.0, torch 2.15.0.
"""

from cases_public import GEMMA, case, gemma4, kinds, small

W = 507

CASES = {
    # As google/gemma-4-E2B-it: an input for each layer, keys and values shared by the last three of seven layers, whose MLPs
    # are twice as wide, one key head, and no experts.
    "gemma4/layer_inputs": case(
        gemma4(vocab_size=W, vocab_size_per_layer_input=W, hidden_size=64, intermediate_size=96, num_hidden_layers=7,
               layer_types=kinds("SSFSSSF"), hidden_size_per_layer_input=16, num_kv_shared_layers=3,
               use_double_wide_mlp=True, head_dim=16, global_head_dim=32, num_key_value_heads=1,
               num_global_key_value_heads=None, attention_k_eq_v=False,
               enable_moe_block=False, num_experts=None, top_k_experts=None, moe_intermediate_size=None),
        "an input for each layer", "KV shared by the last 3 layers", "their MLPs twice as wide", "one key head",
        "two head dims", "proportional rope", "logit softcap 30", init=GEMMA, max_jump=0.08, mlx=False),
    "phi/plain": case(
        small("phi", "PhiForCausalLM", num_key_value_heads=4, hidden_act="gelu_new", layer_norm_eps=1e-5,
              partial_rotary_factor=0.4, qk_layernorm=False, rope_theta=10000.0, tie_word_embeddings=False,
              resid_pdrop=0.1, embd_pdrop=0.0),
        "attention and MLP side by side", "LayerNorm and biases everywhere, also of the head", "partial rotary 0.4",
        "tanh gelu", mlx=False),
}
