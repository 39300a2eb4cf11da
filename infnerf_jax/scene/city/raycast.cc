// The city's ray caster for one CPU: what layout.py, raycast.py, hashing.py and
// materials.py say, ray by ray, with the lots that rays share kept in a small
// cache. Those modules are the definition and hold the reasons; a test compares
// both.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr float kLot = 12.0f, kStorey = 3.0f, kMaxHeight = 25.0f;
constexpr float kRoadHalf = 3.5f, kTrunkHalf = 0.14f, kFarUp = 1e4f;
constexpr float kInf = INFINITY;
constexpr uint32_t kX = 0x9E3779B1u, kY = 0x85EBCA77u, kStream = 0xC2B2AE35u;
enum Kind { STREET, BUILDING, PARK };
enum Shape { NOTHING, BODY, BOX, CROWN0, CROWN1, TRUNK0, TRUNK1, GROUND };

struct Vec { float x, y, z; };
inline Vec operator*(Vec a, float s) { return {a.x * s, a.y * s, a.z * s}; }
inline Vec operator+(Vec a, float s) { return {a.x + s, a.y + s, a.z + s}; }
inline Vec blend(Vec a, Vec b, float t) {
  return {a.x + (b.x - a.x) * t, a.y + (b.y - a.y) * t, a.z + (b.z - a.z) * t};
}
inline float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline float clip(float v, float low, float high) {
  return std::min(std::max(v, low), high);
}
inline int mod(int a, int b) { int r = a % b; return r < 0 ? r + b : r; }
inline int floor_div(int a, int b) { return (a - mod(a, b)) / b; }

inline uint32_t mix(uint32_t v) {
  v ^= v >> 16; v *= 0x7FEB352Du; v ^= v >> 15; v *= 0x846CA68Bu;
  return v ^ (v >> 16);
}
inline uint32_t cell_hash(int x, int y, uint32_t seed) {
  return mix(uint32_t(x) * kX + uint32_t(y) * kY + seed);
}
inline float uniform(uint32_t value, int stream) {
  return float(mix(value + uint32_t(stream + 1) * kStream) >> 8) * 0x1p-24f;
}

// ---------------------------------------------------------------- layout.py

struct Tree { float x, y, z, radius, tall; };
struct Lot {
  int x = INT32_MIN, y = INT32_MIN, kind;
  uint32_t word;
  float cx, cy, hx, hy, eave, sx, sy, tx, ty;
  float bx, by, bhx, bhy, blow, btop;
  Tree tree[2];
  float top;  // nothing of the lot is higher
};

void fill_building(Lot& l, uint32_t seed) {
  auto u = [&](int s) { return uniform(l.word, s); };
  int a = mod(l.x, 5), b = mod(l.y, 5);
  float yard = 2.4f + 1.4f * u(1);
  float low_x = a == 4 ? yard : 0.3f + 0.8f * u(2);
  float high_x = kLot - (a == 1 ? yard : 0.3f + 0.8f * u(3));
  float low_y = b == 4 ? yard : 0.3f + 0.8f * u(4);
  float high_y = kLot - (b == 1 ? yard : 0.3f + 0.8f * u(5));
  l.cx = (low_x + high_x) / 2; float hx = (high_x - low_x) / 2;
  l.cy = (low_y + high_y) / 2; float hy = (high_y - low_y) / 2;
  uint32_t block = cell_hash(floor_div(l.x, 5), floor_div(l.y, 5), seed + 991u);
  float height = 1.2f + 3.0f * uniform(block, 0) + 3.8f * u(6) * u(6);
  float storeys = clip(std::floor(height), 1, 7);
  bool pitched = u(7) < 0.55f && storeys < 5.5f, hip = u(8) < 0.4f;
  l.eave = storeys * kStorey + 0.7f;
  float slope = pitched ? 0.45f + 0.4f * u(9) : 0.0f;
  bool along_x = hx > hy + 1e-3f, falls_x = hip || !along_x, falls_y = hip || along_x;
  l.sx = falls_x ? slope : 0; l.sy = falls_y ? slope : 0;
  float high = pitched ? kFarUp : l.eave;
  l.tx = falls_x ? l.eave + l.sx * hx : high;
  l.ty = falls_y ? l.eave + l.sy * hy : high;
  float ridge = l.eave + slope * std::min(hx, hy);
  float share = pitched ? 0.07f : 0.3f + 0.4f * u(10);
  float offset = pitched ? 0.35f : (u(11) - 0.5f) * 0.5f;
  l.bx = l.cx + offset * hx;
  l.by = l.cy + (pitched ? 0.2f : offset) * hy;
  l.blow = 0;
  l.btop = pitched ? ridge + 0.5f : l.eave + 2.0f + 1.2f * u(12);
  bool built = l.kind == BUILDING;
  l.hx = built ? hx : -1; l.hy = built ? hy : -1;
  l.bhx = built ? share * hx : -1; l.bhy = built ? share * hy : -1;
  l.top = built ? std::max(ridge, l.btop) : 0;
}

void fill_car(Lot& l, bool crossing, bool along_y) {
  auto u = [&](int s) { return uniform(l.word, s); };
  bool parked = !crossing && u(1) < 0.6f;
  float across = u(2) < 0.5f ? 6 - 2.45f : 6 + 2.45f, along = 3.0f + 6.0f * u(3);
  float half_along = 1.95f + 0.35f * u(4), half_across = 0.85f + 0.1f * u(5);
  float hx = along_y ? half_across : half_along;
  float hy = along_y ? half_along : half_across;
  float height = 0.8f + 0.25f * u(6);
  l.cx = along_y ? across : along; l.cy = along_y ? along : across;
  l.hx = parked ? hx : -1; l.hy = parked ? hy : -1;
  l.eave = l.tx = l.ty = height;
  l.sx = l.sy = l.blow = 0;
  l.bx = l.cx - (along_y ? 0 : 0.15f); l.by = l.cy - (along_y ? 0.15f : 0);
  l.bhx = parked ? hx * (along_y ? 0.86f : 0.55f) : -1;
  l.bhy = parked ? hy * (along_y ? 0.55f : 0.86f) : -1;
  l.btop = height + 0.55f;
  l.top = parked ? l.btop : 0;
}

void fill_trees(Lot& l, bool crossing, bool along_y) {
  for (int i = 0; i < 2; i++) {
    auto v = [&](int s) { return uniform(l.word, 20 + 8 * i + s); };
    Tree& t = l.tree[i];
    bool exists;
    if (l.kind == PARK) {
      t.radius = 1.6f + 1.2f * v(0);
      t.x = t.radius + (kLot - 2 * t.radius) * v(1);
      t.y = t.radius + i * kLot / 2 + (kLot / 2 - 2 * t.radius) * v(2);
      exists = v(3) < 0.9f;
    } else if (l.kind == STREET) {
      t.radius = 1.0f + 0.2f * v(0);
      float side = 1.25f + i * (kLot - 2.5f), along = 2.0f + 8.0f * v(1);
      t.x = along_y ? side : along; t.y = along_y ? along : side;
      exists = !crossing && v(3) < 0.55f;
    } else {
      float g0 = l.cx - l.hx, g1 = kLot - l.cx - l.hx;
      float g2 = l.cy - l.hy, g3 = kLot - l.cy - l.hy;
      float gap_x = std::max(g0, g1), gap_y = std::max(g2, g3);
      float gap = std::max(gap_x, gap_y);
      t.radius = std::min(gap * 0.47f, 1.7f) * (0.7f + 0.3f * v(0));
      float spot = 2.0f + i * 5.0f + 3.0f * v(1);
      bool beside = gap_x > gap_y - 1e-3f;
      t.x = beside ? (g0 > g1 ? gap / 2 : kLot - gap / 2) : spot;
      t.y = beside ? spot : (g2 > g3 ? gap / 2 : kLot - gap / 2);
      exists = gap > 2.2f && v(3) < 0.7f;
    }
    t.tall = t.radius * (1.0f + 0.5f * v(4));
    t.z = t.tall + 1.4f + 1.2f * v(5);
    if (exists) l.top = std::max(l.top, t.z + t.tall);
    if (!exists) t.radius = -1;
  }
}

struct World {
  uint32_t seed; int radius; Vec sun;
  std::vector<Lot> cache = std::vector<Lot>(1024);
  long steps = 0;

  const Lot& lot(int x, int y) {
    Lot& l = cache[(x & 31) | ((y & 31) << 5)];
    if (l.x == x && l.y == y) return l;
    l.x = x; l.y = y;
    l.word = cell_hash(x, y, seed);
    int a = mod(x, 5), b = mod(y, 5);
    bool rim = a == 1 || a == 4 || b == 1 || b == 4, street = a == 0 || b == 0;
    bool built = uniform(l.word, 0) < (rim ? 0.9f : 0.2f);
    l.kind = street ? STREET : built ? BUILDING : PARK;
    bool crossing = a == 0 && b == 0;
    if (street) fill_car(l, crossing, a == 0); else fill_building(l, seed);
    fill_trees(l, crossing, a == 0);
    return l;
  }
  bool inside(int x, int y) const {
    return std::abs(x) <= radius && std::abs(y) <= radius;
  }
};

// --------------------------------------------------------------- raycast.py

inline float nudge(float d) { return std::fabs(d) < 1e-9f ? 1e-9f : d; }
inline double nudge(double d) { return std::fabs(d) < 1e-9 ? 1e-9 : d; }

template <class T>
inline void slab(T o, T inv, T low, T high, T& near, T& far) {
  T first = (low - o) * inv, second = (high - o) * inv;
  near = std::max(near, std::min(first, second));
  far = std::min(far, std::max(first, second));
}

float body_distance(Vec o, Vec d, Vec inv, const Lot& l) {
  float x = o.x - l.cx, y = o.y - l.cy, near = 0, far = kInf;
  slab(x, inv.x, -l.hx, l.hx, near, far);
  slab(y, inv.y, -l.hy, l.hy, near, far);
  if (!(near < far)) return kInf;
  const float axes[2][4] = {{x, d.x, l.sx, l.tx}, {y, d.y, l.sy, l.ty}};
  for (auto& a : axes)
    for (float sign : {1.0f, -1.0f}) {
      float height = o.z + sign * a[2] * a[0] - a[3];
      float fall = nudge(d.z + sign * a[2] * a[1]);
      float t = -height / fall;
      if (fall < 0) near = std::max(near, t); else far = std::min(far, t);
    }
  return near < far && near > 0 ? near : kInf;
}

float column_distance(Vec o, Vec inv, float x, float y, float hx, float hy,
                      float low, float top) {
  float near = 0, far = kInf;
  slab(o.x - x, inv.x, -hx, hx, near, far);
  slab(o.y - y, inv.y, -hy, hy, near, far);
  slab(o.z, inv.z, low, top, near, far);
  return near < far && near > 0 ? near : kInf;
}

float crown_distance(Vec o, Vec d, const Tree& t) {
  float across = 1 / t.radius, up = 1 / t.tall;
  Vec p = {(o.x - t.x) * across, (o.y - t.y) * across, (o.z - t.z) * up};
  Vec e = {d.x * across, d.y * across, d.z * up};
  float a = dot(e, e), along = dot(p, e) / a;
  Vec q = {p.x - along * e.x, p.y - along * e.y, p.z - along * e.z};
  float rest = 1 - dot(q, q);
  if (!(rest > 0)) return kInf;
  float near = -along - std::sqrt(rest / a);
  return near > 0 ? near : kInf;
}

int nearest_in_lot(Vec o, Vec d, Vec inv, const Lot& l, float& nearest) {
  int shape = NOTHING;
  nearest = kInf;
  auto offer = [&](float t, int s) { if (t < nearest) nearest = t, shape = s; };
  if (l.hx > 0) {
    offer(body_distance(o, d, inv, l), BODY);
    offer(column_distance(o, inv, l.bx, l.by, l.bhx, l.bhy, l.blow, l.btop),
          BOX);
  }
  for (int i = 0; i < 2; i++) {
    const Tree& t = l.tree[i];
    if (t.radius <= 0) continue;
    offer(crown_distance(o, d, t), CROWN0 + i);
    offer(column_distance(o, inv, t.x, t.y, kTrunkHalf, kTrunkHalf, 0, t.z),
          TRUNK0 + i);
  }
  return shape;
}

// Walks lots from (x, y) for at most `end` metres; x, y become the hit's lot.
int walk(World& w, int& x, int& y, Vec start, Vec d, float end, float& distance) {
  d = {nudge(d.x), nudge(d.y), nudge(d.z)};
  const Vec inv = {1 / d.x, 1 / d.y, 1 / d.z};
  const int x0 = x, y0 = y;
  float entry = 0;
  while (true) {
    w.steps++;
    Vec o = {start.x + float(x0 - x) * kLot, start.y + float(y0 - y) * kLot,
             start.z};
    float exit_x = ((d.x > 0 ? kLot : 0.0f) - o.x) * inv.x;
    float exit_y = ((d.y > 0 ? kLot : 0.0f) - o.y) * inv.y;
    float leave = std::min(exit_x, exit_y);
    const Lot& l = w.lot(x, y);
    // Most lots are passed above their tallest shape.
    float lowest = o.z + d.z * (d.z > 0 ? entry : std::min(leave, end));
    if (lowest <= l.top + 1e-2f) {
      int shape = nearest_in_lot(o, d, inv, l, distance);
      if (shape != NOTHING && distance < end) return shape;
    }
    if (!(leave < end)) return NOTHING;
    (exit_x <= exit_y ? x : y) += (exit_x <= exit_y ? d.x : d.y) > 0 ? 1 : -1;
    entry = leave;
  }
}

struct Hit { double distance; int shape, x, y; Vec p; };

void split(double v, int& lot, float& local) {
  double shifted = v / 12.0 + 0.5;
  double whole = std::min(std::max(std::floor(shifted), -0x1p30), 0x1p30);
  lot = int(whole);
  local = float(std::min(std::max((shifted - whole) * 12.0, 0.0), 12.0));
}

Hit cast(World& w, const double o[3], const double d[3]) {
  double half = (w.radius + 0.5) * 12.0, inv[3], near = 0, far = INFINITY;
  for (int i = 0; i < 3; i++) inv[i] = 1 / nudge(d[i]);
  double ground = d[2] < 0 ? -o[2] * inv[2] : INFINITY;
  if (!(ground > 0)) ground = INFINITY;
  slab(o[0], inv[0], -half, half, near, far);
  slab(o[1], inv[1], -half, half, near, far);
  slab(o[2], inv[2], 0.0, double(kMaxHeight), near, far);
  Hit h = {ground, NOTHING, 0, 0, {0, 0, 0}};
  if (near < far) {
    int x, y; float lx, ly, walked;
    split(o[0] + near * d[0], x, lx);
    split(o[1] + near * d[1], y, ly);
    h.x = std::min(std::max(x, -w.radius), w.radius);
    h.y = std::min(std::max(y, -w.radius), w.radius);
    Vec start = {lx + float(x - h.x) * kLot, ly + float(y - h.y) * kLot,
                 float(o[2] + near * d[2])};
    Vec thin = {float(d[0]), float(d[1]), float(d[2])};
    h.shape = walk(w, h.x, h.y, start, thin, float(far - near), walked);
    if (h.shape != NOTHING) {
      h.distance = near + double(walked);
      h.p = {float(o[0] + h.distance * d[0] - (h.x - 0.5) * 12.0),
             float(o[1] + h.distance * d[1] - (h.y - 0.5) * 12.0),
             float(o[2] + h.distance * d[2])};
      return h;
    }
  }
  if (std::isfinite(ground)) {
    h.shape = GROUND;
    split(o[0] + ground * d[0], h.x, h.p.x);
    split(o[1] + ground * d[1], h.y, h.p.y);
    h.p.z = 0;
  }
  return h;
}

#include "materials.h"

}  // namespace

namespace {

// Distance of a ray and, where rgb is wanted, its clipped colour.
double trace(World& w, const double o[3], const double d[3], double base,
             double slope, float* rgb) {
  Hit h = cast(w, o, d);
  if (!rgb) return h.distance;
  double reach = std::isfinite(h.distance) ? h.distance : 1.0;
  double width = (base + slope * reach) * 1.7724538509055159;
  Vec color = shade(w, h, {float(d[0]), float(d[1]), float(d[2])},
                    float(std::max(width, 1e-5)));
  rgb[0] = clip(color.x, 0, 1);
  rgb[1] = clip(color.y, 0, 1);
  rgb[2] = clip(color.z, 0, 1);
  return h.distance;
}

}  // namespace

// Casts n rays; rgb may be null. Returns the lots walked by all rays.
extern "C" long city_cast(long n, const double* origin, const double* direction,
                          const double* base, const double* slope,
                          uint32_t seed, int radius, const float* sun,
                          float* rgb, double* distance) {
  World w{seed, radius, {sun[0], sun[1], sun[2]}};
  for (long i = 0; i < n; i++)
    distance[i] = trace(w, origin + 3 * i, direction + 3 * i, base[i], slope[i],
                        rgb ? rgb + 3 * i : nullptr);
  return w.steps;
}

// Renders n pixels of a pinhole or orthographic camera from k * k samples at
// `offsets`: mean colour and distance of the middle one.
extern "C" long city_pixels(long n, const int32_t* pixels, double size, int k,
                            const double* offsets, const double* intrinsics,
                            const double* pose, int orthographic, uint32_t seed,
                            int radius, const float* sun, float* mean,
                            double* distance) {
  World w{seed, radius, {sun[0], sun[1], sun[2]}};
  const int num = k * k;
  const double disc = 0.5641895835477563 * size / k /
                      std::sqrt(intrinsics[0] * intrinsics[1]);
  for (long i = 0; i < n; i++) {
    float sum[3] = {0, 0, 0}, rgb[3];
    for (int j = 0; j < num; j++) {
      double v[3], o[3], d[3];
      for (int a = 0; a < 2; a++)
        v[a] = ((pixels[2 * i + a] + offsets[2 * j + a]) * size -
                intrinsics[2 + a]) / intrinsics[a];
      double norm = std::sqrt(1 + v[0] * v[0] + v[1] * v[1]);
      for (int a = 0; a < 3; a++) {
        const double* row = pose + 4 * a;
        double plane = row[0] * v[0] + row[1] * v[1];
        o[a] = orthographic ? row[3] + plane : row[3];
        d[a] = orthographic ? row[2] : (plane + row[2]) / norm;
      }
      double slope = disc / (norm * std::sqrt(norm));
      double t = trace(w, o, d, orthographic ? disc : 0, orthographic ? 0 : slope,
                       rgb);
      if (j == num / 2) distance[i] = t;
      for (int c = 0; c < 3; c++) sum[c] += rgb[c];
    }
    for (int c = 0; c < 3; c++) mean[3 * i + c] = sum[c] / float(num);
  }
  return w.steps;
}
