// Hyper-connections: layers that read a mixture of several residual streams and write to all of them.
#pragma once

#include <cstdint>

#include "models/weights.h"

namespace shoal {

/// What makes a row's coefficients from its S streams: with u the streams side by side over their root mean square,
///   base + scale * (matrix u), scale being one number for each kind of coefficient.
struct HyperMixSpec {
  LinearSpec matrix;  ///< [N, S * D]
  WeightRef base;     ///< [N]
  WeightRef scale;    ///< [1] or [3]
};

/// A model whose rows are `streams` residual streams of D numbers, each at first the embedding. A mixer or feed-forward f
/// of a layer reads and writes them as
///   x = norm(sum over i of read[i] stream[i]),  stream[j] = write[j] f(x) + sum over i of keep[i, j] stream[i],
/// with read = sigmoid(.) + eps [S], write = 2 sigmoid(.) [S], and keep [S, S] the softmax of each row + eps, whose
/// columns, then rows and columns in turn, are divided by their sum + eps, `rounds` times the columns. The output head
/// reads such a sum, too. Source: Xie et al. 2025, arXiv:2512.24880 ("mHC"); transformers `DeepseekV4HyperConnection`.
struct HyperSpec {
  int streams = 0;  ///< S
  int rounds = 0;
  float eps = 0;
  float norm_eps = 0;  ///< Of the root mean square.
  HyperMixSpec head;   ///< N = S

  void show_head_weights(const WeightWalk& walk) const { Show(head, walk); }
  static void Show(const HyperMixSpec& mix, const WeightWalk& walk) {
    walk.linear("projection", mix.matrix);
    walk.weight("projection", mix.base);
    walk.weight("scale", mix.scale);
  }
};

/// Of a layer: N = 2 S + S * S each, for read, write and keep.
struct HyperLayerSpec {
  HyperMixSpec mixer, feed_forward;

  void show_weights(const WeightWalk& walk) const {
    HyperSpec::Show(mixer, walk);
    HyperSpec::Show(feed_forward, walk);
  }
};

}  // namespace shoal
