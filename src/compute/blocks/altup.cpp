#include "compute/blocks/altup.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/row_ops.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// The least mean of squares by which the reference divides.
constexpr double kLeastSquare = 1e-5;

absl::StatusOr<std::vector<Linear>> LoadLinears(const WeightLoader& loader,
                                                const std::vector<LinearSpec>& specs, ThreadPool& pool) {
  if (specs.empty()) return std::vector<Linear>();
  std::vector<const LinearSpec*> parts;
  for (const LinearSpec& spec : specs) parts.push_back(&spec);
  return Linear::LoadTogether(loader, parts, pool);
}

int64_t BytesOfEach(std::span<const Linear> linears) {
  int64_t bytes = 0;
  for (const Linear& linear : linears) bytes += linear.bytes();
  return bytes;
}

/// One chain over ascending columns.
double MeanSquare(const float* x, int64_t size) {
  double sum = 0;
  for (int64_t c = 0; c < size; ++c) sum += double{x[c]} * x[c];
  return sum / static_cast<double>(size);
}

/// x, as long as a row with that mean of squares.
void MakeAsLong(double mean_square, float* x, int64_t size) {
  const double own = std::max(MeanSquare(x, size), kLeastSquare);
  const auto factor = static_cast<float>(std::sqrt(mean_square) / std::sqrt(own));
  for (int64_t c = 0; c < size; ++c) x[c] *= factor;
}

/// out[j] = sum over k of matrix[j, k] x[k], one chain over ascending k.
void ApplySmall(const float* matrix, const float* x, int64_t cols, std::span<float> out) {
  for (size_t j = 0; j < out.size(); ++j) {
    float sum = 0;
    for (int64_t k = 0; k < cols; ++k) sum += matrix[static_cast<int64_t>(j) * cols + k] * x[k];
    out[j] = sum;
  }
}

}  // namespace

AltUpRows::AltUpRows(const ModelSpec& spec)
    : width(spec.width),
      streams(spec.altup->streams),
      layer_width(spec.altup->layer_width),
      layers(spec.layer_count()) {}

// ---- Begin ----

absl::StatusOr<AltUpBegin> AltUpBegin::Load(const WeightLoader& loader, const ModelSpec& spec,
                                            ThreadPool& pool) {
  const AltUpSpec& altup = *spec.altup;
  AltUpBegin begin;
  begin.rows_ = AltUpRows(spec);
  ASSIGN_OR_RETURN(begin.spread_, LoadLinears(loader, altup.spread, pool));
  ASSIGN_OR_RETURN(begin.layer_embedding_, Linear::Load(loader, altup.layer_embedding, pool));
  ASSIGN_OR_RETURN(begin.layer_projection_, Linear::Load(loader, altup.layer_projection, pool));
  ASSIGN_OR_RETURN(begin.layer_norm_, Norm::Load(loader, altup.layer_norm));
  begin.layer_embedding_scale_ = altup.layer_embedding_scale;
  return begin;
}

int64_t AltUpBegin::bytes() const {
  return BytesOfEach(spread_) + layer_embedding_.bytes() + layer_projection_.bytes() + layer_norm_.bytes();
}

absl::Status AltUpBegin::run(const ComputeContext& context, std::span<const int32_t> tokens,
                             MatView<float> x) const {
  const ArenaScope scope(*context.arena);
  LinearInput input(rows_.stream_of(x, 0));
  const std::span<LinearTask> tasks =
      context.arena->allocate<LinearTask>(static_cast<int64_t>(spread_.size()) + 1);
  for (size_t i = 0; i < spread_.size(); ++i) {
    tasks[i] = {&spread_[i], rows_.stream_of(x, static_cast<int64_t>(i) + 1), input.all_rows()};
  }
  tasks.back() = {&layer_projection_, rows_.inputs_of(x), input.all_rows()};
  RETURN_IF_ERROR(RunLinears(context, input, tasks));
  const MatView<float> embedded = context.arena->allocate_rows<float>(x.rows, layer_embedding_.cols());
  const MatView<float> shared = rows_.shared_kv_of(x);
  context.for_rows(x.rows, x.cols, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      const int32_t token = tokens[static_cast<size_t>(t)];
      layer_embedding_.weight().unpack_row(token < layer_embedding_.rows() ? token : 0, embedded.row(t));
      finish_row(*context.kernels, embedded.row(t), x.row(t));
      std::fill_n(shared.row(t), shared.cols, 0.0f);
    }
  });
  return absl::OkStatus();
}

void AltUpBegin::finish_row(const Kernels& kernels, const float* embedded, float* row) const {
  const double length = MeanSquare(row, rows_.width);
  for (int64_t i = 1; i < rows_.streams; ++i) MakeAsLong(length, row + i * rows_.width, rows_.width);
  const MatView<float> inputs(row + rows_.streams * rows_.width, rows_.layers, rows_.layer_width);
  const Range all{0, inputs.rows};
  Multiply(inputs, static_cast<float>(1 / std::sqrt(static_cast<double>(rows_.width))), all);
  layer_norm_.apply(kernels, inputs, inputs, all);
  const auto half_root = static_cast<float>(1 / std::sqrt(2.0));
  for (int64_t c = 0; c < inputs.rows * inputs.cols; ++c) {
    inputs.data[c] = (inputs.data[c] + embedded[c] * layer_embedding_scale_) * half_root;
  }
}

// ---- End ----

absl::StatusOr<AltUpEnd> AltUpEnd::Load(const WeightLoader& loader, const ModelSpec& spec, ThreadPool& pool) {
  AltUpEnd end;
  end.rows_ = AltUpRows(spec);
  ASSIGN_OR_RETURN(end.gather_, LoadLinears(loader, spec.altup->gather, pool));
  return end;
}

int64_t AltUpEnd::bytes() const { return BytesOfEach(gather_); }

absl::Status AltUpEnd::run(const ComputeContext& context, MatView<const float> x, MatView<float> y) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> others =
      context.arena->allocate_rows<float>(x.rows, (rows_.streams - 1) * rows_.width);
  for (int64_t i = 1; i < rows_.streams; ++i) {
    LinearInput input(x.cols_between(i * rows_.width, (i + 1) * rows_.width));
    const LinearTask task[] = {
        {&gather_[static_cast<size_t>(i - 1)], rows_.stream_of(others, i - 1), input.all_rows()}};
    RETURN_IF_ERROR(RunLinears(context, input, task));
  }
  context.for_rows(x.rows, x.cols, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      const double length = MeanSquare(x.row(t), rows_.width);
      float* const out = y.row(t);
      std::copy_n(x.row(t), rows_.width, out);
      for (int64_t i = 0; i + 1 < rows_.streams; ++i) {
        float* const other = others.row(t) + i * rows_.width;
        MakeAsLong(length, other, rows_.width);
        for (int64_t c = 0; c < rows_.width; ++c) out[c] += other[c];
      }
      for (int64_t c = 0; c < rows_.width; ++c) out[c] /= static_cast<float>(rows_.streams);
    }
  });
  return absl::OkStatus();
}

// ---- A layer ----

absl::StatusOr<LayerInput> LayerInput::Load(const WeightLoader& loader, const LayerInputSpec& spec,
                                            ThreadPool& pool) {
  LayerInput input;
  ASSIGN_OR_RETURN(input.gate_, Linear::Load(loader, spec.gate, pool));
  ASSIGN_OR_RETURN(input.up_, Linear::Load(loader, spec.up, pool));
  ASSIGN_OR_RETURN(input.norm_, Norm::Load(loader, spec.norm));
  return input;
}

absl::StatusOr<MatView<float>> LayerInput::run(const ComputeContext& context, MatView<const float> x,
                                               MatView<const float> layer_input) const {
  Arena& arena = *context.arena;
  const MatView<float> added = arena.allocate_rows<float>(x.rows, up_.rows());
  const ArenaScope scope(arena);
  const MatView<float> gate = arena.allocate_rows<float>(x.rows, gate_.rows());
  LinearInput input(x);
  const LinearTask down[] = {{&gate_, gate, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, down));
  LinearInput gated(gate);
  RETURN_IF_ERROR(gated.fill(context, up_.activation_group(context.activations), [&](Range rows) {
    context.kernels->gelu_mul({.gate = gate, .up = layer_input, .out = gate, .rows = rows});
  }));
  const LinearTask up[] = {{&up_, added, gated.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, gated, up));
  context.for_rows(added.rows, added.cols,
                   [&](Range rows) { norm_.apply(*context.kernels, added, added, rows); });
  return added;
}

absl::StatusOr<AltUpLayer> AltUpLayer::Load(const WeightLoader& loader, const AltUpLayerSpec& spec,
                                            ThreadPool& pool) {
  AltUpLayer layer;
  ASSIGN_OR_RETURN(layer.router_norm_, Norm::Load(loader, spec.router_norm));
  ASSIGN_OR_RETURN(layer.router_, Linear::Load(loader, spec.router, pool));
  ASSIGN_OR_RETURN(layer.prediction_, loader.read_vector(spec.prediction));
  ASSIGN_OR_RETURN(layer.correction_, loader.read_vector(spec.correction));
  if (spec.output_scale) {
    ASSIGN_OR_RETURN(layer.output_scale_, loader.read_vector(*spec.output_scale));
  }
  ASSIGN_OR_RETURN(layer.bypass_down_, Linear::Load(loader, spec.bypass_down, pool));
  ASSIGN_OR_RETURN(layer.bypass_up_, Linear::Load(loader, spec.bypass_up, pool));
  ASSIGN_OR_RETURN(layer.bypass_norm_, Norm::Load(loader, spec.bypass_norm));
  ASSIGN_OR_RETURN(layer.input_, LayerInput::Load(loader, spec.input, pool));
  return layer;
}

int64_t AltUpLayer::bytes() const {
  int64_t bytes = router_norm_.bytes() + bypass_norm_.bytes() + input_.bytes();
  for (const Linear* linear : {&router_, &bypass_down_, &bypass_up_}) bytes += linear->bytes();
  const size_t vectors = prediction_.size() + correction_.size() + output_scale_.size();
  return bytes + static_cast<int64_t>(vectors * sizeof(float));
}

absl::StatusOr<MatView<float>> AltUpLayer::modalities(const ComputeContext& context,
                                                      MatView<const float> x) const {
  Arena& arena = *context.arena;
  const MatView<float> result = arena.allocate_rows<float>(x.rows, stream_count());
  const ArenaScope scope(arena);
  const MatView<float> normed = arena.allocate_rows<float>(x.rows, x.cols);
  LinearInput input(normed);
  RETURN_IF_ERROR(input.fill(context, router_.activation_group(context.activations),
                             [&](Range rows) { router_norm_.apply(*context.kernels, x, normed, rows); }));
  const LinearTask task[] = {{&router_, result, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, task));
  for (int64_t t = 0; t < result.rows; ++t) {
    for (int64_t c = 0; c < result.cols; ++c)
      result.at(t, c) = static_cast<float>(Tanh(double{result.at(t, c)}));
  }
  return result;
}

absl::Status AltUpLayer::predict(const ComputeContext& context, MatView<float> streams,
                                 MatView<float> active) const {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const int64_t width = active.cols;
  const int64_t count = stream_count();
  ASSIGN_OR_RETURN(const MatView<float> modes, modalities(context, streams.cols_between(0, width)));
  const MatView<float> coefficients = arena.allocate_rows<float>(streams.rows, count * count);
  const MatView<float> before = arena.allocate_rows<float>(streams.rows, streams.cols);
  context.for_rows(streams.rows, count * streams.cols, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      float* const coefficient = coefficients.row(t);
      ApplySmall(prediction_.data(), modes.row(t), count, {coefficient, static_cast<size_t>(count * count)});
      std::copy_n(streams.row(t), streams.cols, before.row(t));
      for (int64_t j = 0; j < count; ++j) {
        float* const out = streams.row(t) + j * width;
        std::fill_n(out, width, 0.0f);
        for (int64_t i = 0; i < count; ++i) {
          const float* from = before.row(t) + i * width;
          const float by = coefficient[j * count + i];
          for (int64_t c = 0; c < width; ++c) out[c] += by * from[c];
        }
        const float* from = before.row(t) + j * width;
        for (int64_t c = 0; c < width; ++c) out[c] += from[c];
      }
      std::copy_n(streams.row(t), width, active.row(t));
    }
  });
  return absl::OkStatus();
}

absl::Status AltUpLayer::bypass(const ComputeContext& context, MatView<const float> normed,
                                MatView<float> out) const {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const MatView<float> low = arena.allocate_rows<float>(normed.rows, bypass_down_.rows());
  LinearInput input(normed);
  const LinearTask down[] = {{&bypass_down_, low, input.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, input, down));
  LinearInput between(low);
  const LinearTask up[] = {{&bypass_up_, out, between.all_rows()}};
  RETURN_IF_ERROR(RunLinears(context, between, up));
  context.for_rows(out.rows, out.cols, [&](Range rows) {
    bypass_norm_.apply(*context.kernels, out, out, rows);
    context.kernels->add_rows({.x = normed, .y = out, .rows = rows});
  });
  return absl::OkStatus();
}

absl::Status AltUpLayer::correct(const ComputeContext& context, MatView<const float> updated,
                                 MatView<const float> layer_input, MatView<float> streams) const {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const int64_t width = updated.cols;
  const int64_t count = stream_count();
  ASSIGN_OR_RETURN(const MatView<float> modes, modalities(context, updated));
  const MatView<float> coefficients = arena.allocate_rows<float>(streams.rows, count);
  context.for_rows(streams.rows, streams.cols, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      float* const coefficient = coefficients.row(t);
      ApplySmall(correction_.data(), modes.row(t), count, {coefficient, static_cast<size_t>(count)});
      const float* const first = streams.row(t);
      for (int64_t i = count - 1; i >= 0; --i) {  // The first, which all read, is the last to change.
        float* const out = streams.row(t) + i * width;
        const float by = coefficient[i] + 1.0f;
        for (int64_t c = 0; c < width; ++c) out[c] += (updated.at(t, c) - first[c]) * by;
      }
    }
  });
  return add_input(context, layer_input, streams);
}

absl::Status AltUpLayer::add_input(const ComputeContext& context, MatView<const float> layer_input,
                                   MatView<float> streams) const {
  const int64_t width = streams.cols / stream_count();
  const MatView<float> scaled = context.arena->allocate_rows<float>(streams.rows, width);
  context.for_rows(scaled.rows, width, [&](Range rows) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      std::copy_n(streams.row(t), width, scaled.row(t));
      for (int64_t c = 0; c < width && !output_scale_.empty(); ++c)
        scaled.at(t, c) *= output_scale_[static_cast<size_t>(c)];
    }
  });
  ASSIGN_OR_RETURN(const MatView<float> added, input_.run(context, scaled, layer_input));
  context.for_rows(streams.rows, streams.cols, [&](Range rows) {
    for (int64_t i = 1; i < stream_count(); ++i) {
      context.kernels->add_rows(
          {.x = added, .y = streams.cols_between(i * width, (i + 1) * width), .rows = rows});
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal
