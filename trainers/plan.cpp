#include "trainers/plan.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <ostream>

#include "trainers/metrics.h"

namespace omni {
namespace {

constexpr std::int64_t kProbes = 16;  // micro-batches that are looked at to learn about the data

std::string bytes_text(std::int64_t bytes) {
  char text[64];
  const double mib = static_cast<double>(bytes) / (1 << 20);
  std::snprintf(text, sizeof text, mib < 1024 ? "%.0f MiB" : "%.1f GiB", mib < 1024 ? mib : mib / 1024);
  return text;
}

}  // namespace

ParameterCounts count_parameters(const ThinkerConfig& c) {
  const std::int64_t queries = c.num_attention_heads * c.head_dim, keys = c.num_key_value_heads * c.head_dim;
  const std::int64_t attention = c.hidden_size * (2 * queries + 2 * keys), norms = 2 * c.hidden_size + 2 * c.head_dim;
  const std::int64_t expert = 3 * c.hidden_size * (c.use_moe ? c.moe_intermediate_size : c.intermediate_size);
  const std::int64_t router = c.use_moe ? c.hidden_size * c.num_experts : 0;
  ParameterCounts out;
  out.head = c.vocab_size * c.hidden_size;
  out.per_token = c.num_hidden_layers * (attention + router + expert * (c.use_moe ? c.num_experts_per_tok : 1));
  out.all = c.num_hidden_layers * (attention + norms + router + expert * (c.use_moe ? c.num_experts : 1)) +
            c.hidden_size + out.head * (c.tie_word_embeddings ? 1 : 2);
  return out;
}

double training_flops(const ThinkerConfig& config, const Batch& batch) {
  const ParameterCounts counts = count_parameters(config);
  const double attention =
      12.0 * static_cast<double>(config.num_hidden_layers * config.num_attention_heads * config.head_dim);
  return 6.0 * static_cast<double>(counts.per_token) * static_cast<double>(batch.tokens) +
         6.0 * static_cast<double>(counts.head) * static_cast<double>(batch.labelled[0]) +
         attention * static_cast<double>(batch.attention_pairs);
}

std::int64_t activation_bytes(const ThinkerConfig& c, DType dtype, std::int64_t rows, std::int64_t length,
                              std::int64_t labelled, bool recompute) {
  const std::int64_t queries = c.num_attention_heads * c.head_dim, keys = c.num_key_value_heads * c.head_dim;
  const std::int64_t chosen = c.use_moe ? c.num_experts_per_tok : 1;
  const std::int64_t inner = chosen * (c.use_moe ? c.moe_intermediate_size : c.intermediate_size);
  // Per token and layer: the two sums of the residual stream; q, k and v before their norm and the mix of v; gate and
  // up. Experts also keep the norm's result, their sorted rows in and out, and the product of gate and up. To recompute
  // means not to keep gate and up, with experts nothing but a block's input, and one block at a time again.
  const std::int64_t attention = 2 * c.hidden_size + 2 * queries + 2 * keys;
  const std::int64_t block = attention + (c.use_moe   ? (2 + 2 * chosen) * c.hidden_size + 3 * inner
                                          : recompute ? 0
                                                      : 2 * inner);
  const std::int64_t layer = c.use_moe && recompute ? c.hidden_size : block;
  const std::int64_t again = c.use_moe && recompute ? block : 0;
  const std::int64_t gradients =
      again + 4 * c.hidden_size + 2 * (queries + 2 * keys) + 3 * inner;  // alive at the same time
  const std::int64_t head = 2 * c.hidden_size + c.vocab_size;            // per labelled position
  return static_cast<std::int64_t>(size_of(dtype)) *
         (rows * length * (c.num_hidden_layers * layer + gradients) + labelled * head);
}

std::int64_t available_memory() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  for (std::int64_t kilobytes = 0; in >> key >> kilobytes; in.ignore(100, '\n'))
    if (key == "MemAvailable:") return kilobytes * 1024;
  return 0;
}

Plan make_plan(const TrainingTask& task, const Recipe& recipe, const Schedule& schedule, const MachineLimits& limits) {
  Plan plan;
  const BatchSource& source = task.source();
  plan.parameters = task.parameters();
  plan.schedule = schedule;
  plan.rows = source.max_rows();
  plan.length = source.length();
  plan.processes = source.shard().ranks;
  const std::int64_t probes = std::min(kProbes, schedule.micro_batches);
  std::int64_t most_labelled = 0, samples = 0, truncated = 0;
  for (std::int64_t i = 0; i < probes; ++i) {
    // Within one epoch, so that a single permutation is drawn.
    const std::int64_t span = std::min(schedule.micro_batches, source.micro_batches_per_epoch());
    const Batch batch = source.batch(i * span / probes);
    const double share = static_cast<double>(schedule.micro_batches * plan.processes) / static_cast<double>(probes);
    plan.tokens += share * static_cast<double>(batch.tokens);
    plan.labelled += share * static_cast<double>(batch.predictions());
    plan.flops += share * task.flops(batch);
    most_labelled = std::max(most_labelled, batch.predictions());
    samples += batch.rows;
    truncated += batch.truncated;
  }
  plan.truncated = samples == 0 ? 0 : static_cast<double>(truncated) / static_cast<double>(samples);
  plan.weight_bytes = plan.parameters.all * (recipe.dtype == DType::bf16 ? 6 : 4);
  plan.gradient_bytes = plan.parameters.all * 4;
  plan.moment_bytes = plan.parameters.all * 8;
  plan.activation_bytes = task.activation_bytes(plan.rows, most_labelled);
  // Gradients lend their memory in the first pass of a step. The last block's serve nobody, and pieces are left over.
  if (recipe.accumulation_steps == 1 && task.rows_per_pass() >= plan.rows)
    plan.lent_bytes = std::min(plan.activation_bytes / 2, plan.gradient_bytes * 2 / 3);
  plan.available_bytes = available_memory();
  plan.peak_flops_per_s = peak_of(limits, recipe.dtype) * static_cast<double>(plan.processes);
  return plan;
}

void print_plan(std::ostream& out, const Plan& plan, const Recipe& recipe) {
  const auto number = [](auto value) { return count_text(static_cast<double>(value)); };
  out << "model    " << number(plan.parameters.all) << " parameters, "
      << number(plan.parameters.per_token + plan.parameters.head) << " of them in matrices a token meets\n"
      << "memory   " << (plan.processes > 1 ? "per process " : "") << bytes_text(plan.total_bytes()) << ": weights "
      << bytes_text(plan.weight_bytes) << ", gradients " << bytes_text(plan.gradient_bytes) << ", moments "
      << bytes_text(plan.moment_bytes) << ", activations about " << bytes_text(plan.activation_bytes)
      << (plan.lent_bytes > 0 ? " (" + bytes_text(plan.lent_bytes) + " of them where gradients come later)" : "")
      << "; available " << bytes_text(plan.available_bytes) << "\n"
      << "work     " << plan.schedule.steps << " steps of " << recipe.accumulation_steps << " x " << plan.rows
      << (plan.processes > 1 ? " (on each of " + std::to_string(plan.processes) + " processes)" : "")
      << " samples of up to " << plan.length << " tokens (" << plan.schedule.steps_per_epoch()
      << " steps per epoch), about " << number(plan.tokens) << " tokens, " << number(plan.labelled) << " predictions, "
      << number(plan.flops) << "FLOP\n";
  const double least = plan.flops / plan.peak_flops_per_s;
  out << "time     at least " << duration_text(least) << " at this machine's " << number(plan.peak_flops_per_s)
      << "FLOP/s in " << name_of(recipe.dtype) << " matrix products; about " << duration_text(2 * least)
      << " at half of it\n";
  if (plan.truncated > 0) {
    char percent[32];
    std::snprintf(percent, sizeof percent, "%.1f", 100 * plan.truncated);
    out << "warning: " << percent << "% of the samples are longer than max_seq_len " << plan.length
        << " and lose their ends\n";
  }
  if (plan.available_bytes > 0 && plan.total_bytes() > plan.available_bytes)
    out << "warning: the run needs more memory than the machine has free; a smaller batch_size or max_seq_len lowers "
           "the "
           "activations\n";
}

}  // namespace omni
