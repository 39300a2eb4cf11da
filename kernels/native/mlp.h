// The two MLPs of a node, forward and backward, on blocks of samples.
#ifndef INFNERF_MLP_H_
#define INFNERF_MLP_H_

#include <vector>

#include "gemm.h"
#include "grid.h"

#ifndef HIDDEN
#define HIDDEN 64
#endif
#ifndef GEOMETRY
#define GEOMETRY 15
#endif
#ifndef RAY_DIM
#define RAY_DIM 48
#endif

namespace infnerf {

constexpr int round8(int n) { return (n + 7) / 8 * 8; }

constexpr int H = HIDDEN;
constexpr int G = GEOMETRY;
constexpr int D = RAY_DIM;
constexpr int IN = L * F;         // encoded features
constexpr int INP = round8(IN);
constexpr int OUT = 1 + G;        // raw density, geometry
constexpr int OUTP = round8(OUT);
constexpr int DP = round8(D);
constexpr int BLOCK = GRID_BLOCK;  // samples; activations of a layer fit L1
static_assert(H % 8 == 0 && BLOCK % ROWS == 0 && BLOCK % LANES == 0);
static_assert(ROWS * 8 % LANES == 0);

// Weights of one slot as the parameters hold them.
struct Weights {
  const float* w0;  // [IN, H]
  const float* w1;  // [H, OUT]
  const float* c0;  // [G + D, H]
  const float* c1;  // [H, H]
  const float* c2;  // [H, 3]
};

// Widths of the last layers padded to vectors, and the transposes that the
// backward pass multiplies with. Kept by a worker from chunk to chunk.
struct Packed {
  int32_t slot = -1;
  alignas(64) float w1[H * OUTP], c2[H / 2 * LANES];
  alignas(64) float w0t[H * INP], w1t[OUTP * H], c1t[H * H], c2t[3 * H];
  alignas(64) float c0gt[H * OUTP];  // column 0 (raw density) is zero
  alignas(64) float c0rt[H * DP];

  void pack(const Weights& w, bool color, bool backward) {
    for (int h = 0; h < H; ++h) {
      for (int o = 0; o < OUTP; ++o) {
        w1[h * OUTP + o] = o < OUT ? w.w1[h * OUT + o] : 0.0f;
      }
    }
    if (color) {
      for (int h = 0; h < H; ++h) {
        float* pair = c2 + h / 2 * LANES + h % 2;  // see gemm_narrow
        for (int o = 0; o < LANES / 2; ++o) {
          pair[2 * o] = o < 3 ? w.c2[h * 3 + o] : 0.0f;
        }
      }
    }
    if (!backward) return;
    transpose(w.w0, IN, H, w0t, INP);
    transpose(w1, H, OUTP, w1t, H);
    if (!color) return;
    transpose(w.c1, H, H, c1t, H);
    transpose(w.c2, H, 3, c2t, H);
    transpose(w.c0 + G * H, D, H, c0rt, DP);
    for (int h = 0; h < H; ++h) {
      for (int o = 0; o < OUTP; ++o) {
        const bool geometry = o >= 1 && o < OUT;
        c0gt[h * OUTP + o] = geometry ? w.c0[(o - 1) * H + h] : 0.0f;
      }
    }
  }

 private:
  static void transpose(const float* a, int rows, int columns, float* out,
                        int ld) {
    for (int c = 0; c < columns; ++c) {
      for (int r = 0; r < ld; ++r) {
        out[c * ld + r] = r < rows ? a[r * columns + c] : 0.0f;
      }
    }
  }
};

// Gradients of one chunk; `all` adds and clears them as one array.
struct WeightGrads {
  static constexpr int kW0 = 0, kW1 = kW0 + IN * H, kC0 = kW1 + H * OUTP,
                       kC1 = kC0 + (G + D) * H, kC2 = kC1 + H * H,
                       kSize = kC2 + H * 8;
};

// Consecutive samples of one ray share the ray's part of the colour network.
struct Runs {
  int count = 0;
  int32_t ray[BLOCK];
  int of_sample[BLOCK];
  alignas(64) float inputs[BLOCK * DP];
  alignas(64) float hidden[BLOCK * H];

  // sample: n places in ray_idx.
  void find(const int32_t* ray_idx, const int32_t* sample, int n,
            const float* ray_inputs, int64_t num_rays) {
    count = 0;
    for (int i = 0; i < n; ++i) {
      const int32_t r = ray_idx[sample[i]];
      if (i == 0 || r != ray[count - 1]) {
        ray[count] = r;
        float* row = inputs + count * DP;
        if (r >= 0 && r < num_rays) {
          std::memcpy(row, ray_inputs + int64_t(r) * D, D * 4);
        } else {
          std::memset(row, 0, D * 4);
        }
        ++count;
      }
      of_sample[i] = count - 1;
    }
  }
};

inline int padded(int n) { return (n + ROWS - 1) / ROWS * ROWS; }

struct BlockBuffers {
  alignas(64) float hidden[BLOCK * H], out[BLOCK * OUTP], in[BLOCK * OUTP];
  alignas(64) float h1[BLOCK * H], h2[BLOCK * H], rgb[BLOCK * 4];
  alignas(64) float d2[BLOCK * H], d1[BLOCK * H], d_hidden[BLOCK * H];
  alignas(64) float d_out[BLOCK * OUTP], d_rgb[BLOCK * 8];
  alignas(64) float d_features[BLOCK * INP], d_run[BLOCK * H];
  alignas(64) float d_ray[BLOCK * DP];
  Runs runs;
  BlockBuffers() { std::memset(static_cast<void*>(this), 0, sizeof *this); }
};

// `meanwhile` of the forward passes: see gemm.
template <typename Fn = const Nothing>
inline void density_forward(const float* features, int n, const Weights& w,
                            const Packed& p, bool geometry, BlockBuffers* b,
                            Fn& meanwhile = Fn()) {
  const int rows = padded(n);
  gemm<IN, H, Then::kRelu>(features, IN, w.w0, H, b->hidden, H, rows,
                           meanwhile);
  if (geometry) {
    gemm<H, OUTP>(b->hidden, H, p.w1, OUTP, b->out, OUTP, rows, meanwhile);
    return;
  }
  v8f column[H / 8];
  for (int h = 0; h < H; ++h) column[h / 8][h % 8] = w.w1[h * OUT];
  for (int i = 0; i < n; ++i) {
    v8f sum = {};
    for (int h = 0; h < H / 8; ++h) {
      sum += load<v8f>(b->hidden + i * H + 8 * h) * column[h];
    }
    b->out[i * OUTP] = ((sum[0] + sum[4]) + (sum[1] + sum[5])) +
                       ((sum[2] + sum[6]) + (sum[3] + sum[7]));
  }
}

// Fills in, h1, h2 from out; runs must be found.
template <typename Fn = const Nothing>
inline void color_hidden(int n, const Weights& w, BlockBuffers* b,
                         Fn& meanwhile = Fn()) {
  const int rows = padded(n);
  Runs& runs = b->runs;
  for (int i = 0; i < rows * OUTP; i += LANES) {
    store(b->in + i, sigmoid(load(b->out + i)));
  }
  gemm<D, H>(runs.inputs, DP, w.c0 + G * H, H, runs.hidden, H,
             padded(runs.count));
  const float* init[BLOCK];
  for (int i = 0; i < rows; ++i) {
    init[i] = runs.hidden + (i < n ? runs.of_sample[i] : 0) * H;
  }
  gemm<G, H, Then::kRelu, true>(b->in + 1, OUTP, w.c0, H, b->h1, H, rows,
                                meanwhile, init);
  gemm<H, H, Then::kRelu>(b->h1, H, w.c1, H, b->h2, H, rows, meanwhile);
}

template <typename Fn>
inline void color_forward(int n, const Weights& w, const Packed& p,
                          BlockBuffers* b, Fn& meanwhile) {
  color_hidden(n, w, b, meanwhile);
  const int rows = padded(n);
  gemm_narrow<H, 3>(b->h2, H, p.c2, b->rgb, rows, meanwhile);
  for (int i = 0; i < rows * 4; i += LANES) {
    store(b->rgb + i, sigmoid(load(b->rgb + i)));
  }
}

// From d_rgb (before the sigmoid) to d_out's geometry; adds to the gradients
// and leaves d_ray, one row a run.
inline void color_backward(int n, const Packed& p, float* grads,
                           BlockBuffers* b) {
  using W = WeightGrads;
  const int rows = padded(n);
  outer<H, 8>(b->h2, H, b->d_rgb, 8, grads + W::kC2, 8, n);
  const Nothing none;
  gemm<3, H, Then::kMask>(b->d_rgb, 8, p.c2t, H, b->d2, H, rows, none, nullptr,
                          b->h2, H);
  outer<H, H>(b->h1, H, b->d2, H, grads + W::kC1, H, n);
  gemm<H, H, Then::kMask>(b->d2, H, p.c1t, H, b->d1, H, rows, none, nullptr,
                          b->h1, H);
  outer<G, H>(b->in + 1, OUTP, b->d1, H, grads + W::kC0, H, n);
  Runs& runs = b->runs;
  std::memset(b->d_run, 0, sizeof(float) * padded(runs.count) * H);
  for (int i = 0; i < n; ++i) {
    float* sum = b->d_run + runs.of_sample[i] * H;
    for (int h = 0; h < H; h += 8) {
      store(sum + h, load<v8f>(sum + h) + load<v8f>(b->d1 + i * H + h));
    }
  }
  outer<D, H>(runs.inputs, DP, b->d_run, H, grads + W::kC0 + G * H, H,
              runs.count);
  gemm<H, DP>(b->d_run, H, p.c0rt, DP, b->d_ray, DP, padded(runs.count));
  gemm<H, OUTP>(b->d1, H, p.c0gt, OUTP, b->d_out, OUTP, rows);
  for (int i = 0; i < rows * OUTP; i += LANES) {
    const vf s = load(b->in + i);
    store(b->d_out + i, load(b->d_out + i) * (s * (1.0f - s)));
  }
}

// From d_out to the gradients and, if wanted, d_features.
inline void density_backward(const float* features, int n, const Packed& p,
                             bool geometry, bool want_features, float* grads,
                             BlockBuffers* b) {
  using W = WeightGrads;
  const int rows = padded(n);
  const Nothing none;
  if (geometry) {
    outer<H, OUTP>(b->hidden, H, b->d_out, OUTP, grads + W::kW1, OUTP, n);
    gemm<OUT, H, Then::kMask>(b->d_out, OUTP, p.w1t, H, b->d_hidden, H, rows,
                              none, nullptr, b->hidden, H);
  } else {
    outer<H, 8>(b->hidden, H, b->d_out, OUTP, grads + W::kW1, OUTP, n);
    gemm<1, H, Then::kMask>(b->d_out, OUTP, p.w1t, H, b->d_hidden, H, rows,
                            none, nullptr, b->hidden, H);
  }
  outer<IN, H>(features, IN, b->d_hidden, H, grads + W::kW0, H, n);
  if (!want_features) return;
  gemm<H, INP>(b->d_hidden, H, p.w0t, INP, b->d_features, INP, rows);
}

}  // namespace infnerf

#endif  // INFNERF_MLP_H_
