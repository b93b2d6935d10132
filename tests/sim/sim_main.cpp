// Runs seeds, each in a process of its own: what a seed does depends on nothing but the seed.
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "convert/synth_model.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "mutation.h"
#include "turns.h"
#include "world.h"

namespace shoal::sim {
namespace {

constexpr const char* kUsage =
    R"(cluster_sim [--seeds FIRST-LAST | --seed N] [--jobs N] [--twice] [--log LEVEL]
            [--mutation NAME [--all]]
  Runs the cluster once for each seed. --twice: two times each, which must be the same to the last turn.
  --mutation: with that fault planted; succeeds where a seed finds it, with the first one unless --all.
)";

/// Small: what a row costs is what a seed costs.
constexpr const char* kConfig = R"({
  "model_type": "qwen3_moe", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 6,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
  "rms_norm_eps": 1e-06, "bos_token_id": 1, "eos_token_id": 2, "intermediate_size": 64,
  "moe_intermediate_size": 32, "num_experts": 7, "num_experts_per_tok": 2, "norm_topk_prob": true,
  "decoder_sparse_step": 1, "mlp_only_layers": [2], "hidden_act": "silu", "rope_theta": 1000000.0,
  "rope_scaling": null, "tie_word_embeddings": false, "attention_bias": false, "use_sliding_window": false,
  "sliding_window": null})";

struct Options {
  uint64_t first = 0;
  uint64_t last = 0;
  int jobs = 1;
  bool twice = false;
  bool all = false;
  std::string mutation;
  std::string log = "error";
};

bool ParseNumber(std::string_view text, uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool ParseRange(std::string_view text, Options& options) {
  const size_t dash = text.find('-');
  return dash != std::string_view::npos && ParseNumber(text.substr(0, dash), options.first) &&
         ParseNumber(text.substr(dash + 1), options.last) && options.first <= options.last;
}

std::optional<Options> Parse(const std::vector<std::string_view>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view name = arguments[i];
    if (name == "--twice" || name == "--all") {
      (name == "--all" ? options.all : options.twice) = true;
      continue;
    }
    if (++i == arguments.size()) return std::nullopt;
    const std::string_view value = arguments[i];
    uint64_t number = 0;
    if (name == "--seed" && ParseNumber(value, number)) {
      options.first = options.last = number;
    } else if (name == "--jobs" && ParseNumber(value, number) && number > 0) {
      options.jobs = static_cast<int>(number);
    } else if (name == "--mutation") {
      options.mutation = value;
    } else if (name == "--log") {
      options.log = value;
    } else if (name != "--seeds" || !ParseRange(value, options)) {
      return std::nullopt;
    }
  }
  return options;
}

/// In a process of its own. Writes what became of it to `out`.
[[noreturn]] void RunSeed(uint64_t seed, const OpenedModel& model, int out) {
  Tally tally;
  Turns turns(seed);
  turns.run([&] {
    World world(seed, model);
    tally = world.run();
    // As the process ends here, nothing need be taken down.
    SHOAL_CHECK_EQ(write(out, &tally, sizeof tally), static_cast<ssize_t>(sizeof tally));
    _exit(0);
  });
  _exit(1);
}

class Runner {
 public:
  Runner(Options options, const OpenedModel& model) : options_(std::move(options)), model_(model) {}

  /// How many seeds failed.
  int run() {
    for (uint64_t seed = options_.first; seed <= options_.last && !enough(); ++seed) {
      start(seed);
      if (options_.twice) start(seed);
      while (std::ssize(running_) >= options_.jobs) collect();
    }
    while (!running_.empty()) collect();
    return failed_;
  }
  const Tally& sum() const { return sum_; }

 private:
  struct Running {
    uint64_t seed = 0;
    int in = -1;
  };

  /// One that finds the planted fault is.
  bool enough() const { return !options_.mutation.empty() && !options_.all && failed_ > 0; }

  void start(uint64_t seed) {
    int ends[2];
    SHOAL_CHECK_EQ(pipe(ends), 0);
    const pid_t child = fork();
    SHOAL_CHECK_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      RunSeed(seed, model_, ends[1]);
    }
    close(ends[1]);
    running_[child] = {seed, ends[0]};
  }

  void collect() {
    int status = 0;
    const pid_t child = wait(&status);
    SHOAL_CHECK(running_.contains(child));
    const Running ended = running_.at(child);
    running_.erase(child);
    Tally tally;
    const bool told = read(ended.in, &tally, sizeof tally) == static_cast<ssize_t>(sizeof tally);
    close(ended.in);
    if (!told || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return fail(ended.seed, "failed");
    const auto [first, fresh] = traces_.emplace(ended.seed, tally.trace);
    if (!fresh && first->second != tally.trace) fail(ended.seed, "gives another run when it is run again");
    add(tally);
  }

  void fail(uint64_t seed, const char* what) {
    ++failed_;
    std::fflush(stdout);
    std::fprintf(stderr, "seed %lu %s. Again, with a log: build/release/bin/%s --seed %lu --log info%s%s\n",
                 seed, what, program_invocation_short_name, seed,
                 options_.mutation.empty() ? "" : " --mutation ", options_.mutation.c_str());
  }

  void add(const Tally& tally) {
    sum_.finished += tally.finished;
    sum_.cancelled += tally.cancelled;
    sum_.late += tally.late;
    sum_.lost += tally.lost;
    sum_.asked_again += tally.asked_again;
    sum_.restored += tally.restored;
    sum_.faults += tally.faults;
    if (options_.first == options_.last) sum_.trace = tally.trace;
  }

  const Options options_;
  const OpenedModel& model_;
  std::map<pid_t, Running> running_;
  std::map<uint64_t, uint64_t> traces_;
  int failed_ = 0;
  Tally sum_;
};

int Main(const Options& options) {
  SHOAL_CHECK(SetLogLevel(options.log));
  Mutate(options.mutation);
  const TempFolder folder;
  const absl::Status made =
      SynthesizeModel({.config_json = kConfig, .out = folder.path(), .seed = 7, .with_tokenizer = false});
  if (!made.ok()) CheckFailed(__FILE__, __LINE__, Message(made));
  const auto model = OpenModel(folder.path());
  if (!model.ok()) CheckFailed(__FILE__, __LINE__, Message(model.status()));
  Runner runner(options, *model);
  const int failed = runner.run();
  const Tally& sum = runner.sum();
  std::printf(
      "%d faults; %d requests with the right tokens, %d cancelled, %d late, %d lost, %d asked again; "
      "%ld blocks from buddies; trace %016lx\n",
      sum.faults, sum.finished, sum.cancelled, sum.late, sum.lost, sum.asked_again, sum.restored, sum.trace);
  if (options.mutation.empty()) return failed == 0 ? 0 : 1;
  std::printf("%d seeds find '%s'\n", failed, options.mutation.c_str());
  return failed > 0 ? 0 : 1;
}

}  // namespace

void FailSeed(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  _exit(1);
}

}  // namespace shoal::sim

int main(int argc, char** argv) {
  const auto options = shoal::sim::Parse({argv + 1, argv + argc});
  if (!options.has_value()) {
    std::fputs(shoal::sim::kUsage, stderr);
    return 2;
  }
  return shoal::sim::Main(*options);
}
