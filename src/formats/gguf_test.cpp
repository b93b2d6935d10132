#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "formats/checkpoint.h"
#include "formats/gguf_files.h"
#include "formats/gguf_model.h"
#include "formats/test_files.h"
#include "formats/test_gguf.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Number = GgufBuilder;

absl::StatusOr<GgufHeader> Parse(std::string_view file) {
  return ParseGguf(std::as_bytes(std::span(file)), "x.gguf");
}

std::string ErrorOf(std::string_view file) {
  const auto parsed = Parse(file);
  EXPECT_FALSE(parsed.ok());
  return Message(parsed.status());
}

std::string Head(uint64_t tensors, uint64_t keys) {
  return "GGUF" + Number::number(uint32_t{3}) + Number::number(tensors) + Number::number(keys);
}

TEST(Gguf, ReadsValuesAndTensors) {
  GgufBuilder builder;
  builder.add_int("a.int", 7);
  builder.add_float("a.float", 0.5f);
  builder.add_bool("a.bool", true);
  builder.add_string("a.string", "one");
  builder.add_strings("a.strings", {"x", "", "yz"});
  builder.add_ints("a.ints", {-1, 2});
  builder.add_tensor("f", 0, {3, 2}, 32);
  builder.add_tensor("q", 2, {64, 2}, 64);
  const std::string file = builder.file(std::string(64 + 2 * 2 * 18, '\0'));
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << ToString(header.status());
  const GgufMetadata& metadata = header->metadata;
  EXPECT_EQ(metadata.at("a.int").as_int(), 7);
  EXPECT_EQ(metadata.at("a.int").as_number(), 7.0);
  EXPECT_EQ(metadata.at("a.float").as_number(), 0.5);
  EXPECT_EQ(metadata.at("a.float").as_int(), std::nullopt);
  EXPECT_EQ(metadata.at("a.bool").as_bool(), true);
  EXPECT_EQ(metadata.at("a.string").as_string(), "one");
  EXPECT_THAT(*metadata.at("a.strings").as_strings(), ElementsAre("x", "", "yz"));
  EXPECT_THAT(*metadata.at("a.ints").as_ints(), ElementsAre(-1, 2));
  EXPECT_EQ(metadata.at("a.ints").as_int(), std::nullopt);
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_THAT(header->tensors[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(header->tensors[0].bytes, (Range{header->data_begin + 32, header->data_begin + 32 + 24}));
  EXPECT_EQ(header->tensors[1].blocks, BlockType::kQ4_0);
  EXPECT_EQ(header->tensors[1].bytes.size(), 2 * 2 * 18);
}

TEST(Gguf, EveryTruncationIsAnErrorThatNamesTheFile) {
  GgufBuilder builder;
  builder.add_strings("a.strings", {"x", "yz"});
  builder.add_tensor("f", 0, {8}, 0);
  const std::string file = builder.file(std::string(32, '\0'));
  ASSERT_TRUE(Parse(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_THAT(ErrorOf(std::string_view(file).substr(0, size)), HasSubstr("x.gguf")) << size;
  }
}

TEST(Gguf, RefusesHostileLengths) {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  EXPECT_THAT(ErrorOf(Head(kHuge, 0)), HasSubstr("do not fit"));
  EXPECT_THAT(ErrorOf(Head(0, kHuge)), HasSubstr("do not fit"));
  EXPECT_THAT(ErrorOf(Head(0, 1) + Number::number(kHuge) + std::string(64, 'k')), HasSubstr("at most 65535"));
  const std::string key = Number::text("k");
  const auto number = [](auto value) { return Number::number(value); };
  EXPECT_THAT(ErrorOf(Head(0, 1) + key + number(uint32_t{8}) + number(kHuge)),
              HasSubstr("expected 46116860184"));
  EXPECT_THAT(ErrorOf(Head(0, 1) + key + number(uint32_t{9}) + number(uint32_t{4}) + number(kHuge)),
              HasSubstr("longer than"));
  EXPECT_THAT(ErrorOf(Head(0, 1) + key + number(uint32_t{9}) + number(uint32_t{9}) + number(uint64_t{1})),
              HasSubstr("arrays of arrays"));
  EXPECT_THAT(ErrorOf(Head(0, 1) + key + number(uint32_t{13})), HasSubstr("expected 0 to 12, found 13"));
  const auto tensor = [](const std::vector<uint64_t>& dims, uint64_t offset, uint32_t type = 0) {
    GgufBuilder builder;
    builder.add_tensor("t", type, dims, offset);
    return builder.file(std::string(64, '\0'));
  };
  EXPECT_THAT(ErrorOf(tensor({kHuge, 8}, 0)), HasSubstr("does not fit 62 bits"));
  EXPECT_THAT(ErrorOf(tensor({0}, 0)), HasSubstr("dimension 0"));
  EXPECT_THAT(ErrorOf(tensor({1, 1, 1, 1, 1}, 0)), HasSubstr("1 to 4 dimensions"));
  EXPECT_THAT(ErrorOf(tensor({4}, kHuge)), HasSubstr("do not lie"));
  EXPECT_THAT(ErrorOf(tensor({32}, 0)), HasSubstr("do not lie"));
  EXPECT_THAT(ErrorOf(tensor({4}, 3)), HasSubstr("multiple of 32"));
  EXPECT_THAT(ErrorOf(tensor({16, 1}, 0, 2)), HasSubstr("multiple of 32 for Q4_0"));
  EXPECT_THAT(ErrorOf(tensor({256}, 0, 16)), HasSubstr("ggml type 16 is not read"));
}

TEST(Gguf, RefusesWhatContradictsItself) {
  EXPECT_THAT(ErrorOf("GGML" + std::string(64, '\0')), HasSubstr("begins with 'GGUF'"));
  EXPECT_THAT(ErrorOf("GGUF" + Number::number(uint32_t{1}) + std::string(64, '\0')),
              HasSubstr("version 2 or 3"));
  EXPECT_THAT(ErrorOf("GGUF" + Number::number(uint32_t{3} << 24) + std::string(64, '\0')),
              HasSubstr("big-endian"));
  GgufBuilder twice;
  twice.add_int("k", 1);
  twice.add_int("k", 2);
  EXPECT_THAT(ErrorOf(twice.file()), HasSubstr("twice"));
  GgufBuilder same;
  same.add_tensor("t", 0, {4}, 0);
  same.add_tensor("t", 0, {4}, 32);
  EXPECT_THAT(ErrorOf(same.file(std::string(64, '\0'))), HasSubstr("table twice"));
  GgufBuilder overlap;
  overlap.add_tensor("s", 0, {16}, 0);
  overlap.add_tensor("t", 0, {4}, 32);
  EXPECT_THAT(ErrorOf(overlap.file(std::string(64, '\0'))), HasSubstr("overlap those of 's'"));
  GgufBuilder aligned;
  aligned.add_int("general.alignment", 24);
  EXPECT_THAT(ErrorOf(aligned.file()), HasSubstr("power of two"));
}

TEST(Gguf, NamesTheFilesOfASplitModel) {
  EXPECT_THAT(*GgufFiles("a/b.gguf"), ElementsAre("a/b.gguf"));
  EXPECT_THAT(*GgufFiles("a/b-00002-of-00002.gguf"),
              ElementsAre("a/b-00001-of-00002.gguf", "a/b-00002-of-00002.gguf"));
  EXPECT_THAT(*GgufFiles("a/b-0001-of-00002.gguf"), ElementsAre("a/b-0001-of-00002.gguf"));
  EXPECT_FALSE(GgufFiles("b-00003-of-00002.gguf").ok());
  EXPECT_FALSE(GgufFiles("b-00000-of-00002.gguf").ok());
}

/// Metadata of a llama with two heads of 4 and one layer.
GgufBuilder TinyLlama() {
  GgufBuilder builder;
  builder.add_string("general.architecture", "llama");
  builder.add_int("llama.block_count", 1);
  builder.add_int("llama.context_length", 128);
  builder.add_int("llama.embedding_length", 8);
  builder.add_int("llama.feed_forward_length", 16);
  builder.add_int("llama.attention.head_count", 2);
  builder.add_float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  return builder;
}

absl::StatusOr<GgufModel> ModelOf(const GgufBuilder& builder, std::string_view data) {
  const std::string file = builder.file(data);
  const auto bytes = std::as_bytes(std::span(file));
  ASSIGN_OR_RETURN(const GgufHeader header, ParseGguf(bytes, "x.gguf"));
  return ModelOfGguf({header.metadata, header.tensors, bytes}, "x.gguf");
}

TEST(GgufModel, GivesConfigAndNamesOfHuggingFace) {
  GgufBuilder builder = TinyLlama();
  builder.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  builder.add_tensor("blk.0.attn_q.weight", 0, {8, 8}, 160);
  builder.add_tensor("blk.0.ffn_norm.weight", 0, {8}, 416);
  const auto model = ModelOf(builder, std::string(448, '\0'));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  const auto config = nlohmann::json::parse(model->config_json);
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["vocab_size"], 5);
  EXPECT_EQ(config["head_dim"], 4);
  EXPECT_EQ(config["num_key_value_heads"], 2);
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_EQ(model->names[0].name, "model.embed_tokens.weight");
  EXPECT_EQ(model->names[1].name, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(model->names[1].permuted_heads, 2);
  EXPECT_EQ(model->names[2].name, "model.layers.0.post_attention_layernorm.weight");
  EXPECT_EQ(model->names[2].permuted_heads, 0);
}

TEST(GgufModel, RefusesTensorsAndArchitecturesThatItDoesNotKnow) {
  GgufBuilder unknown = TinyLlama();
  unknown.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  unknown.add_tensor("blk.0.attn_sinks.weight", 0, {8}, 160);
  EXPECT_THAT(Message(ModelOf(unknown, std::string(192, '\0')).status()),
              HasSubstr("blk.0.attn_sinks.weight"));
  GgufBuilder other;
  other.add_string("general.architecture", "mamba");
  EXPECT_THAT(Message(ModelOf(other, "").status()), HasSubstr("known: llama"));
  GgufBuilder missing;
  missing.add_string("general.architecture", "llama");
  missing.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  EXPECT_THAT(Message(ModelOf(missing, std::string(160, '\0')).status()),
              HasSubstr("llama.embedding_length"));
}

/// The config of a model of four layers whose `key` has a number for each.
absl::StatusOr<nlohmann::json> ConfigOfLayers(const std::string& arch, const std::string& key,
                                              const std::vector<int32_t>& numbers) {
  GgufBuilder builder;
  builder.add_string("general.architecture", arch);
  builder.add_ints(arch + key, numbers);
  builder.add_float(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  for (const auto& [usual, value] :
       {std::pair(".block_count", 4), std::pair(".context_length", 128), std::pair(".embedding_length", 8),
        std::pair(".feed_forward_length", 16), std::pair(".attention.head_count", 2),
        std::pair(".attention.head_count_kv", 2)}) {
    if (key != usual) builder.add_int(arch + usual, static_cast<uint32_t>(value));
  }
  builder.add_int(arch + ".attention.sliding_window", 4);
  builder.add_ints(arch + ".attention.sliding_window_pattern", {0, 1, 1, 0});
  builder.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  ASSIGN_OR_RETURN(const GgufModel model, ModelOf(builder, std::string(160, '\0')));
  return nlohmann::json::parse(model.config_json);
}

TEST(GgufModel, LayersThatDifferAreRefusedUnlessTheyHaveNone) {
  for (const auto& [key, hub] : {std::pair(".attention.head_count", "num_attention_heads"),
                                 std::pair(".attention.head_count_kv", "num_key_value_heads"),
                                 std::pair(".feed_forward_length", "intermediate_size")}) {
    const auto config = ConfigOfLayers("llama", key, {0, 2, 0, 2});
    ASSERT_TRUE(config.ok()) << ToString(config.status());
    EXPECT_EQ((*config)[hub], 2);
    EXPECT_THAT(
        Message(ConfigOfLayers("llama", key, {0, 2, 2, 4}).status()),
        HasSubstr(std::string("'llama") + key +
                  "': expected the same number for all layers, or 0, found 2 for layer 1 and 4 for layer 3"));
  }
}

TEST(GgufModel, LayersThatDifferByKindMustAgreeWithinEach) {
  EXPECT_THAT(
      Message(ConfigOfLayers("mimo2", ".attention.head_count_kv", {1, 2, 1, 1}).status()),
      HasSubstr("'mimo2.attention.head_count_kv': expected 2 as in the layers before, which have a window, "
                "too, found 1 for layer 2"));
}

TEST(GgufModel, RefusesMoreLayersThanAnyModelHas) {
  GgufBuilder builder;
  builder.add_string("general.architecture", "gpt-oss");
  builder.add_int("gpt-oss.embedding_length", 8);
  builder.add_int("gpt-oss.block_count", 2'000'000'000);
  builder.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  EXPECT_THAT(Message(ModelOf(builder, std::string(160, '\0')).status()),
              HasSubstr("'gpt-oss.block_count': expected an integer from 1 to 4096"));
}

/// Metadata of a DeepSeek-V3 of one layer in a file of 2024, whose `edit` comes last; token_embd is its
/// tensor.
absl::StatusOr<nlohmann::json> DeepseekConfig(const std::function<void(GgufBuilder&)>& edit = {},
                                              bool large = false) {
  GgufBuilder builder;
  const auto set = [&](const char* key, uint32_t value) {
    builder.add_int(std::string("deepseek2.") + key, value);
  };
  builder.add_string("general.architecture", "deepseek2");
  set("block_count", large ? 61 : 1);
  set("context_length", 128);
  set("embedding_length", large ? 7168 : 8);
  set("feed_forward_length", 16);
  set("attention.head_count", 2);
  set("attention.key_length", 24);
  set("attention.value_length", 16);
  set("attention.kv_lora_rank", 32);
  set("rope.dimension_count", 8);
  set("expert_count", large ? 256 : 4);
  set("expert_used_count", 2);
  set("expert_feed_forward_length", 8);
  builder.add_float("deepseek2.attention.layer_norm_rms_epsilon", 1e-6f);
  builder.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  if (edit) edit(builder);
  ASSIGN_OR_RETURN(const GgufModel model, ModelOf(builder, std::string(320, '\0')));
  return nlohmann::json::parse(model.config_json);
}

TEST(GgufModel, DeepseekIsOfTheVersionWhoseScoresItHas) {
  const auto old = DeepseekConfig();
  ASSERT_TRUE(old.ok()) << ToString(old.status());
  EXPECT_EQ((*old)["model_type"], "deepseek_v2");
  EXPECT_EQ((*old)["topk_method"], "greedy");
  EXPECT_EQ((*old)["qk_nope_head_dim"], 16);
  EXPECT_EQ((*old)["v_head_dim"], 16);
  EXPECT_FALSE(old->contains("q_lora_rank"));
  EXPECT_EQ((*old)["rms_norm_eps"], 1e-6);  // What stood in the config, not what f32 made of it.
  const auto sigmoid =
      DeepseekConfig([](GgufBuilder& builder) { builder.add_int("deepseek2.expert_gating_func", 2); });
  ASSERT_TRUE(sigmoid.ok()) << ToString(sigmoid.status());
  EXPECT_EQ((*sigmoid)["model_type"], "deepseek_v3");
  const auto corrected =
      DeepseekConfig([](GgufBuilder& builder) { builder.add_tensor("blk.0.exp_probs_b.bias", 0, {4}, 160); });
  ASSERT_TRUE(corrected.ok()) << ToString(corrected.status());
  EXPECT_EQ((*corrected)["model_type"], "deepseek_v3");
  const auto contradiction = DeepseekConfig([](GgufBuilder& builder) {
    builder.add_int("deepseek2.expert_gating_func", 1);
    builder.add_tensor("blk.0.exp_probs_b.bias", 0, {4}, 160);
  });
  EXPECT_THAT(Message(contradiction.status()), HasSubstr("blk.0.exp_probs_b.bias"));
}

TEST(GgufModel, GroupsOfExpertsAreThoseOfTheFileOrOfTheModelsSizes) {
  EXPECT_EQ((*DeepseekConfig())["n_group"], 1);
  const auto large = DeepseekConfig({}, true);
  ASSERT_TRUE(large.ok()) << ToString(large.status());
  EXPECT_EQ((*large)["n_group"], 8);
  EXPECT_EQ((*large)["topk_group"], 4);
  const auto said = DeepseekConfig(
      [](GgufBuilder& builder) {
        builder.add_int("deepseek2.expert_group_count", 2);
        builder.add_int("deepseek2.expert_group_used_count", 1);
      },
      true);
  EXPECT_EQ((*said)["n_group"], 2);
  EXPECT_EQ((*said)["topk_group"], 1);
}

TEST(GgufModel, RefusesKeysThatChangeTheArithmetic) {
  for (const char* key : {"attention.temperature_scale", "final_logit_softcapping", "logit_scale"}) {
    const std::string full = std::string("deepseek2.") + key;
    const auto config = DeepseekConfig([&](GgufBuilder& builder) { builder.add_float(full, 0.5f); });
    EXPECT_THAT(Message(config.status()), HasSubstr(full));
  }
  EXPECT_TRUE(DeepseekConfig([](GgufBuilder& b) { b.add_float("deepseek2.logit_scale", 1); }).ok());
  const auto all_further =
      DeepseekConfig([](GgufBuilder& builder) { builder.add_int("deepseek2.nextn_predict_layers", 1); });
  EXPECT_THAT(Message(all_further.status()), HasSubstr("nextn_predict_layers"));
  const auto normalized =
      DeepseekConfig([](GgufBuilder& builder) { builder.add_bool("deepseek2.expert_weights_norm", true); });
  EXPECT_THAT(Message(normalized.status()), HasSubstr("expert_weights_norm"));
  const auto rotary = DeepseekConfig([](GgufBuilder& builder) {
    builder.add_int("deepseek2.attention.key_length_mla", 8);
    builder.add_int("deepseek2.attention.value_length_mla", 8);
  });
  EXPECT_THAT(Message(rotary.status()), HasSubstr("more than the 8 that are rotated"));
}

TEST(GgufModel, ExpertsOneByOneAreTensorsOfTheirOwn) {
  GgufBuilder builder = TinyLlama();
  builder.add_int("llama.expert_count", 2);
  builder.add_int("llama.expert_used_count", 1);
  builder.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  builder.add_tensor("blk.0.ffn_up.1.weight", 0, {8, 2}, 160);
  const auto model = ModelOf(builder, std::string(256, '\0'));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  EXPECT_EQ(model->names[1].name, "model.layers.0.block_sparse_moe.experts.1.w3.weight");
  builder.add_tensor("blk.0.ffn_norm.1.weight", 0, {8}, 224);  // Only experts have a number.
  EXPECT_THAT(Message(ModelOf(builder, std::string(256, '\0')).status()), HasSubstr("ffn_norm.1"));
}

/// Ten pairs at theta 500000 as Llama 3.1 has them (factor 8), `edit` times the last.
absl::StatusOr<GgufModel> WithRopeFactors(float edit) {
  GgufBuilder builder = TinyLlama();
  builder.add_int("llama.attention.key_length", 20);
  builder.add_float("llama.rope.freq_base", 500000);
  builder.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  builder.add_tensor("rope_freqs.weight", 0, {10}, 160);
  std::string data(160, '\0');
  for (int i = 0; i < 10; ++i) {
    const double wavelength = 2 * 3.14159265358979 * std::pow(500000.0, i / 10.0);
    const double smooth = (8192 / wavelength - 1) / 3;
    const double factor = wavelength < 2048 ? 1 : wavelength > 8192 ? 8 : 1 / ((1 - smooth) / 8 + smooth);
    data += Number::number(static_cast<float>(factor * (i == 8 ? edit : 1)));
  }
  return ModelOf(builder, data);
}

TEST(GgufModel, FindsLlama3sRopeBehindItsFactors) {
  const auto model = WithRopeFactors(1);
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  const auto rope = nlohmann::json::parse(model->config_json)["rope_scaling"];
  EXPECT_EQ(rope["rope_type"], "llama3");
  EXPECT_EQ(rope["factor"], 8.0);
  EXPECT_EQ(model->names[1].name, "");
  EXPECT_THAT(Message(WithRopeFactors(0.9f).status()), HasSubstr("factor 8: expected 8"));
}

TEST(Checkpoint, OpensAGgufByItsPathAndByAFolderThatHasNothingElse) {
  const std::string folder = GoldenModel("qwen3/tied-gguf-q8_0");
  const auto by_folder = Checkpoint::Open(folder);
  const auto by_path = Checkpoint::Open(folder + "/model.gguf");
  ASSERT_TRUE(by_folder.ok()) << ToString(by_folder.status());
  ASSERT_TRUE(by_path.ok()) << ToString(by_path.status());
  EXPECT_EQ((*by_folder)->hash(), (*by_path)->hash());
  EXPECT_EQ((*by_path)->generation().bos_token_id, 1);
  EXPECT_THAT((*by_path)->generation().eos_token_ids, ElementsAre(2));
  const TensorInfo* q = (*by_path)->find("model.layers.0.self_attn.q_proj.weight");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->blocks, BlockType::kQ8_0);
  EXPECT_EQ(q->permuted_heads, 0);  // Qwen's rows are as on the hub.
  // Its bytes are no floats: only whoever asks for blocks gets them.
  EXPECT_THAT(Message((*by_path)->view(q->name, kFloatWeights, q->shape).status()),
              HasSubstr("found Q8_0 ["));
}

TEST(Checkpoint, OpensASplitGgufAndRefusesOneThatLacksAPart) {
  const TemporaryFolder folder;
  const auto part = [](bool first) {
    GgufBuilder builder = first ? TinyLlama() : GgufBuilder();
    builder.add_int("split.count", 2);
    builder.add_tensor(first ? "token_embd.weight" : "output_norm.weight", 0,
                       first ? std::vector<uint64_t>{8, 5} : std::vector<uint64_t>{8}, 0);
    return builder.file(std::string(160, '\0'));
  };
  folder.write("m-00001-of-00002.gguf", part(true));
  EXPECT_THAT(Message(Checkpoint::Open(folder.path()).status()), HasSubstr("m-00002-of-00002.gguf"));
  folder.write("m-00002-of-00002.gguf", part(false));
  const auto checkpoint = Checkpoint::Open(folder / "m-00002-of-00002.gguf");
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_TRUE((*checkpoint)->has("model.embed_tokens.weight"));
  EXPECT_TRUE((*checkpoint)->has("model.norm.weight"));
  folder.write("alone.gguf", part(true));
  EXPECT_THAT(Message(Checkpoint::Open(folder / "alone.gguf").status()), HasSubstr("says 2 files, found 1"));
  EXPECT_THAT(Message(Checkpoint::Open(folder.path()).status()),
              HasSubstr("expected one GGUF model, found 2"));
}

TEST(Checkpoint, TowersDraftersAndSecondNamesBesideAGgufModelDoNotCount) {
  const TemporaryFolder folder;
  GgufBuilder model = TinyLlama();
  model.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  model.add_tensor("blk.0.attn_norm.weight", 0, {8}, 160);
  folder.write("model-q8.gguf", model.file(std::string(192, '\0')));
  for (const std::string architecture : {"clip", "eagle3"}) {
    GgufBuilder beside;
    beside.add_string("general.architecture", architecture);
    beside.add_tensor("v.patch_embd.weight", 0, {8}, 0);
    folder.write("a-" + architecture + ".gguf", beside.file(std::string(32, '\0')));
  }
  std::filesystem::create_symlink("model-q8.gguf", folder / "latest.gguf");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
  EXPECT_TRUE((*checkpoint)->has("model.embed_tokens.weight"));
}

TEST(Checkpoint, PartsOfASplitGgufMayBeLinksAndTheFirstMayHaveNoTensors) {
  const TemporaryFolder folder;
  GgufBuilder first = TinyLlama();
  first.add_int("split.count", 2);
  GgufBuilder second;
  second.add_int("split.count", 2);
  // llama.cpp's converter needs the embedding in no part in particular.
  second.add_tensor("token_embd.weight", 0, {8, 5}, 0);
  folder.write("blob-a", first.file());
  folder.write("blob-b", second.file(std::string(160, '\0')));
  std::filesystem::create_symlink("blob-a", folder / "m-00001-of-00002.gguf");
  std::filesystem::create_symlink("blob-b", folder / "m-00002-of-00002.gguf");
  for (const std::string& path : {folder.path(), folder / "m-00001-of-00002.gguf"}) {
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint.ok()) << ToString(checkpoint.status());
    EXPECT_TRUE((*checkpoint)->has("model.embed_tokens.weight"));
  }
}

}  // namespace
}  // namespace shoal
