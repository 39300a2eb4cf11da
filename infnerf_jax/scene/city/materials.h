// Colours of surfaces: materials.py and hashing.fractal, for one ray at a time.
// Included by raycast.cc inside its namespace.

struct Table { int num; Vec color[8]; };
constexpr Table kWalls = {8, {{.86f, .79f, .66f}, {.66f, .36f, .27f},
    {.82f, .62f, .44f}, {.70f, .70f, .68f}, {.88f, .85f, .80f},
    {.74f, .52f, .40f}, {.60f, .66f, .70f}, {.84f, .72f, .50f}}};
constexpr Table kRoofs = {4, {{.64f, .31f, .21f}, {.52f, .26f, .20f},
    {.36f, .37f, .41f}, {.58f, .40f, .28f}}};
constexpr Table kDecks = {4, {{.62f, .61f, .58f}, {.46f, .46f, .47f},
    {.70f, .66f, .58f}, {.50f, .56f, .46f}}};
constexpr Table kCars = {6, {{.82f, .82f, .84f}, {.16f, .17f, .20f},
    {.66f, .13f, .12f}, {.18f, .30f, .55f}, {.52f, .54f, .56f},
    {.86f, .70f, .22f}}};
constexpr Table kShops = {4, {{.66f, .20f, .18f}, {.18f, .42f, .36f},
    {.20f, .30f, .52f}, {.80f, .60f, .20f}}};

inline Vec choose(float value, const Table& t) {
  return t.color[std::min(int(value * t.num), t.num - 1)];
}

inline float fade(float width, float period) {
  return clip((2.0f - width / period) * (1 / 1.5f), 0, 1);
}
inline float edge(float inside, float width) {
  return clip(inside / width + 0.5f, 0, 1);
}
inline float pulse(float x, float low, float high, float width) {
  width = std::max(width, 2e-3f);
  auto integral = [&](float y) {
    float whole = std::floor(y);
    return whole * (high - low) + clip(y - whole - low, 0, high - low);
  };
  return (integral(x + width / 2) - integral(x - width / 2)) / width;
}

struct Surface {
  Hit hit; const Lot& lot; float width; Vec normal;
  bool wall_x, wall_y; uint32_t face;
  float u(int stream) const { return uniform(lot.word, stream); }
};

void set_walls(Surface& s, bool wall_x, bool wall_y, float x, float y) {
  s.wall_x = wall_x; s.wall_y = wall_y;
  if (wall_x) s.normal = {x < 0 ? -1.0f : 1.0f, 0, 0};
  if (wall_y) s.normal = {0, y < 0 ? -1.0f : 1.0f, 0};
}

void body_normal(Surface& s) {
  const Lot& l = s.lot;
  float x = s.hit.p.x - l.cx, y = s.hit.p.y - l.cy, z = s.hit.p.z;
  float lean_x = 1 / std::sqrt(1 + l.sx * l.sx);
  float lean_y = 1 / std::sqrt(1 + l.sy * l.sy);
  float g0 = std::fabs(x) - l.hx, g1 = std::fabs(y) - l.hy;
  float g2 = (z + l.sx * std::fabs(x) - l.tx) * lean_x;
  float g3 = (z + l.sy * std::fabs(y) - l.ty) * lean_y;
  float nearest = std::max(std::max(g0, g1), std::max(g2, g3));
  if (g2 == nearest)
    s.normal = {(x < 0 ? -1.0f : 1.0f) * l.sx * lean_x, 0, lean_x};
  else
    s.normal = {0, (y < 0 ? -1.0f : 1.0f) * l.sy * lean_y, lean_y};
  set_walls(s, g0 == nearest, g0 != nearest && g1 == nearest, x, y);
}

void column_normal(Surface& s, float x, float y, float hx, float hy, float top) {
  x = s.hit.p.x - x; y = s.hit.p.y - y;
  float gx = std::fabs(x) - hx, gy = std::fabs(y) - hy, gz = s.hit.p.z - top;
  bool wall_x = gx >= gy && gx >= gz;
  s.normal = {0, 0, 1};
  set_walls(s, wall_x, !wall_x && gy >= gz, x, y);
}

void find_normal(Surface& s) {
  const Lot& l = s.lot;
  int shape = s.hit.shape;
  if (shape == BODY) {
    body_normal(s);
  } else if (shape == BOX) {
    column_normal(s, l.bx, l.by, l.bhx, l.bhy, l.btop);
  } else if (shape == TRUNK0 || shape == TRUNK1) {
    const Tree& t = l.tree[shape - TRUNK0];
    column_normal(s, t.x, t.y, kTrunkHalf, kTrunkHalf, t.z);
  } else if (shape == CROWN0 || shape == CROWN1) {
    const Tree& t = l.tree[shape - CROWN0];
    float flat = t.radius / t.tall;
    Vec n = {s.hit.p.x - t.x, s.hit.p.y - t.y, (s.hit.p.z - t.z) * flat * flat};
    s.normal = n * (1 / std::sqrt(std::max(dot(n, n), 1e-12f)));
  } else {
    s.normal = {0, 0, 1};
  }
  s.face = uint32_t(shape) * 0x68BC21EBu + (s.wall_x ? 0x02E5BE93u : 0u) +
           (s.normal.x + s.normal.y > 0 ? 0x967A889Bu : 0u);
}

struct Cells { float level, joint; };
Cells cells(float u, float v, float size_u, float size_v, float stagger,
            float joint, uint32_t word, float width) {
  float row = v / size_v, whole = std::floor(row);
  float column = u / size_u + stagger * (whole - 2 * std::floor(whole / 2));
  word = cell_hash(int(std::floor(column)), int(whole), word);
  float level = (2 * uniform(word, 0) - 1) * fade(width, std::min(size_u, size_v));
  float solid = pulse(column, 0, 1 - joint / size_u, width / size_u) *
                pulse(row, 0, 1 - joint / size_v, width / size_v);
  return {level, 1 - solid};
}

Vec facade(const Surface& s) {
  const Lot& l = s.lot;
  float width = s.width, z = s.hit.p.z;
  float length = 2 * (s.wall_x ? l.hy : l.hx);
  float along = s.wall_x ? s.hit.p.y - l.cy + l.hy : s.hit.p.x - l.cx + l.hx;
  uint32_t word = l.word + s.face;
  Vec wall = choose(s.u(30), kWalls);
  bool brick = s.u(31) < 0.45f;
  Cells c = cells(along, z, brick ? 0.5f : 1.2f, brick ? 0.2f : 1.0f,
                  brick ? 0.5f : 0, brick ? 0.03f : 0.04f, word, width);
  Vec color = wall * (1 + (brick ? 0.16f : 0.05f) * c.level - 0.25f * c.joint);
  float pitch =
      length / std::max(std::nearbyint(length / (2.1f + s.u(32))), 1.0f);
  float bay = along / pitch, floor = z / kStorey;
  float bw = width / pitch, fw = width / kStorey;
  bool shop = s.u(33) < 0.4f && floor < 1;
  float margin = shop ? 0.07f : 0.2f + 0.1f * s.u(34);
  float low = shop ? 0.06f : 0.26f - (s.u(35) < 0.3f ? 0.16f : 0);
  float high = shop ? 0.72f : 0.80f;
  float rim_x = 0.07f / pitch, rim_z = 0.07f / kStorey;
  float opening =
      pulse(bay, margin, 1 - margin, bw) * pulse(floor, low, high, fw);
  float glass = (pulse(bay, margin + rim_x, 0.5f - rim_x / 2, bw) +
                 pulse(bay, 0.5f + rim_x / 2, 1 - margin - rim_x, bw)) *
                pulse(floor, low + rim_z, high - rim_z, fw);
  float there = edge(std::floor(l.eave / kStorey) * kStorey - z, width);
  float light = uniform(
      cell_hash(int(std::floor(bay)), int(std::floor(floor)), word), 1);
  float curtain = 0.25f + (light * light * light - 0.25f) * fade(width, 2);
  float sky = 0.12f * (floor - std::floor(floor) - 0.5f) * fade(width, 3);
  Vec pane = blend({.14f, .19f, .24f}, {.72f, .68f, .56f}, curtain) + sky;
  float trim = s.u(36) < 0.6f ? 0.90f : 0.34f;
  color = blend(color, {trim, trim, trim}, opening * there);
  float part = std::min(glass / std::max(opening, 1e-3f), 1.0f);
  color = blend(color, pane, part * opening * there);
  float ledge = z > 1.5f ? pulse(floor, 0, 0.055f, fw) * there : 0;
  color = blend(color, wall * 0.5f + 0.42f, ledge);
  float sign = shop ? pulse(floor, 0.78f, 0.93f, fw) : 0;
  color = blend(color, choose(s.u(37), kShops), sign);
  float cornice = edge(z - l.eave + 0.4f, width) * edge(l.eave - z, width);
  return blend(color, wall * 0.4f + 0.5f, 0.8f * cornice);
}

Vec roof(const Surface& s) {
  const Lot& l = s.lot;
  float width = s.width, x = s.hit.p.x - l.cx, y = s.hit.p.y - l.cy;
  float nx = std::fabs(s.normal.x), ny = std::fabs(s.normal.y);
  bool pitched = nx + ny > 1e-3f, falls_x = nx > ny;
  float down = std::fabs(falls_x ? x : y) / s.normal.z;
  float along = (falls_x ? y : x) + 64.0f;
  Cells c = cells(pitched ? along : x + 64.0f, pitched ? down : y + 64.0f,
                  pitched ? 0.32f : 1.9f, pitched ? 0.38f : 1.9f,
                  pitched ? 0.5f : 0, pitched ? 0.05f : 0.06f,
                  l.word + s.face + 7u, width);
  Vec color = pitched ? choose(s.u(38), kRoofs) : choose(s.u(39), kDecks);
  color = color * (1 + (pitched ? 0.24f : 0.07f) * c.level - 0.35f * c.joint);
  if (pitched) return color;
  float inside = std::min(l.hx - std::fabs(x), l.hy - std::fabs(y));
  color = blend(color, {.78f, .76f, .72f}, 0.85f * edge(0.35f - inside, width));
  if (!(s.u(40) < 0.45f)) return color;
  float solar = edge(inside - 1.2f, width) *
                pulse(x / 1.1f, 0.03f, 0.97f, width / 1.1f) *
                pulse(y / 1.9f, 0.03f, 0.80f, width / 1.9f);
  float grid = pulse(x / 0.1833f, 0, 0.1f, width / 0.1833f);
  Vec cell = blend({.10f, .14f, .27f}, {.38f, .42f, .52f}, grid);
  return blend(color, cell, solar);
}

Vec car(const Surface& s) {
  const Lot& l = s.lot;
  float z = s.hit.p.z;
  Vec color = choose(s.u(41), kCars);
  bool upright = s.wall_x || s.wall_y, cabin = s.hit.shape == BOX;
  if (upright && cabin && z > l.eave + 0.06f && z < l.btop - 0.1f)
    color = {.10f, .12f, .15f};
  if (upright && !cabin && z < 0.3f) color = blend(color, {.08f, .08f, .09f}, .9f);
  return color;
}

float markings(const Surface& s, int a, int b) {
  float width = s.width;
  bool along_y = a == 0;
  float across = (along_y ? s.hit.p.x : s.hit.p.y) - 6;
  float along = along_y ? s.hit.p.y : s.hit.p.x;
  int position = along_y ? b : a;
  if (a == 0 && b == 0) return 0;
  float dash = edge(0.08f - std::fabs(across), width) *
               pulse(along / 4, 0.25f, 0.75f, width / 4);
  float line = edge(0.06f - std::fabs(std::fabs(across) - 3.25f), width);
  float end = position == 1 ? along : kLot - along;
  float band = position == 1 || position == 4
                   ? edge(1.3f - std::fabs(end - 2.0f), width) : 0;
  float stripes = pulse(across, 0.25f, 0.75f, width) *
                  edge(3.1f - std::fabs(across), width);
  return std::max(dash, line) * (1 - band) + band * stripes;
}

Vec ground(const Surface& s, bool in_city) {
  const Lot& l = s.lot;
  float width = s.width, x = s.hit.p.x, y = s.hit.p.y;
  if (!in_city) {
    uint32_t field = cell_hash(s.hit.x >> 2, s.hit.y >> 1, 4242u);
    float crop = 0.5f + (uniform(field, 0) - 0.5f) * fade(width, 24);
    return blend({.30f, .40f, .17f}, {.60f, .55f, .30f}, crop);
  }
  int a = mod(s.hit.x, 5), b = mod(s.hit.y, 5);
  bool street = l.kind == STREET;
  bool lawn = !street && (l.kind == PARK || (l.word & 3u) == 0);
  float road_x = a == 0 ? kRoadHalf - std::fabs(x - 6) : -99.0f;
  float road_y = b == 0 ? kRoadHalf - std::fabs(y - 6) : -99.0f;
  float inside = std::max(road_x, road_y);
  bool on_road = street && inside > 0;
  Cells c = cells(x, y, on_road ? 3.0f : street ? 0.6f : 0.4f,
                  on_road ? 2.0f : street ? 0.6f : 0.4f, street ? 0 : 0.5f,
                  on_road ? 0.012f : 0.03f, l.word, width);
  Vec paved = street ? Vec{.66f, .64f, .60f} : Vec{.60f, .50f, .42f};
  Vec color = paved * (1 + 0.09f * c.level - 0.28f * c.joint);
  if (lawn) color = {.33f, .44f, .20f};
  if (l.kind == PARK)
    color = blend(color, {.70f, .62f, .48f},
                  edge(0.6f - std::fabs(x - 6 - 0.25f * (y - 6)), width));
  if (!street) return color;
  float tar = 1 + 0.10f * c.level - 0.3f * c.joint;
  color = blend(color, Vec{.30f, .30f, .32f} * tar, edge(inside, width));
  color = blend(color, {.76f, .75f, .72f},
                edge(0.16f - std::fabs(inside + 0.08f), width));
  return blend(color, {.90f, .90f, .87f}, markings(s, a, b));
}

// Sixteen octaves at once (thirteen count), so that lanes are octaves.
void fractal(int cell_u, int cell_v, float frac_u, float frac_v, uint32_t seed,
             float width, float& first, float& second) {
  constexpr int kLanes = 16, kOctaves = 13;
  float gain[kLanes], sum_a[kLanes], sum_b[kLanes];
  for (int k = 0; k < kLanes; k++) {
    float wavelength = 48.0f / float(1 << k);
    float f = k < kOctaves ? fade(width, wavelength) : 0;
    static const float fall[kLanes] = {
        1, 1, 1, 1, 1, 1, .757858283f, .574349177f, .435275282f, .329876978f,
        .25f, .189464571f, .143587294f, 0, 0, 0};
    gain[k] = f * fall[k];
  }
  const int lanes = gain[8] > 0 ? kLanes : 8;
#pragma omp simd
  for (int k = 0; k < lanes; k++) {
    int scale = 1 << k;
    float u = frac_u * float(scale), v = frac_v * float(scale);
    float fu = std::floor(u), fv = std::floor(v);
    u -= fu; v -= fv;
    uint32_t base = uint32_t(cell_u * scale + int(fu)) * kX +
                    uint32_t(cell_v * scale + int(fv)) * kY + seed +
                    uint32_t(k) * kStream;
    u = u * u * (3 - 2 * u); v = v * v * (3 - 2 * v);
    uint32_t h00 = mix(base), h10 = mix(base + kX), h01 = mix(base + kY),
             h11 = mix(base + kX + kY);
    auto low = [](uint32_t h) { return float(int(h & 0xFFFFu)) * 0x1p-15f - 1; };
    auto high = [](uint32_t h) { return float(int(h >> 16)) * 0x1p-15f - 1; };
    float a0 = low(h00) + (low(h10) - low(h00)) * u;
    float a1 = low(h01) + (low(h11) - low(h01)) * u;
    float b0 = high(h00) + (high(h10) - high(h00)) * u;
    float b1 = high(h01) + (high(h11) - high(h01)) * u;
    sum_a[k] = gain[k] * (a0 * (1 - v) + a1 * v);
    sum_b[k] = gain[k] * (b0 * (1 - v) + b1 * v);
  }
  first = second = 0;
  for (int k = 0; k < lanes; k++) first += sum_a[k], second += sum_b[k];
}

void noise(const Surface& s, uint32_t seed, float& first, float& second) {
  const float kSize = 48.0f;
  float frac_x = (float(s.hit.x & 3) * kLot + s.hit.p.x) / kSize;
  float frac_y = (float(s.hit.y & 3) * kLot + s.hit.p.y) / kSize;
  float up = s.hit.p.z / kSize;
  bool crown = s.hit.shape == CROWN0 || s.hit.shape == CROWN1;
  float lean = crown ? up : 0;
  bool upright = s.wall_x || s.wall_y;
  int cell_x = s.hit.x >> 2, cell_y = s.hit.y >> 2;
  fractal(s.wall_x ? cell_y : cell_x, upright ? 0 : cell_y,
          s.wall_x ? frac_y : frac_x + 0.43f * lean,
          upright ? up : frac_y + 0.71f * lean, seed, s.width, first, second);
}

Vec albedo(const World& w, const Surface& s) {
  const Lot& l = s.lot;
  int shape = s.hit.shape;
  bool in_city = w.inside(s.hit.x, s.hit.y), on_ground = shape == GROUND;
  bool crown = shape == CROWN0 || shape == CROWN1;
  bool solid = shape == BODY || shape == BOX, is_car = solid && l.kind == STREET;
  Vec color;
  if (on_ground) {
    color = ground(s, in_city);
  } else if (crown) {
    float tree = s.u(45) * 0.5f + (shape == CROWN1 ? 0.5f * s.u(46) : 0);
    color = blend({.22f, .36f, .15f}, {.44f, .46f, .18f}, tree);
  } else if (!solid) {
    color = {.36f, .28f, .21f};
  } else {
    color = is_car ? car(s) : s.wall_x || s.wall_y ? facade(s) : roof(s);
  }
  float first, second;
  noise(s, w.seed + (on_ground ? 0u : l.word + s.face), first, second);
  bool soft = on_ground && (l.kind == PARK || !in_city);
  float gain = crown ? 0.17f : soft ? 0.085f : 0.055f;
  if (is_car) gain = 0.012f;
  float tint = (crown || soft ? 0.05f : 0.018f) * second;
  float tone = 1 + gain * first;
  return {color.x * (tone + tint), color.y * tone, color.z * (tone - tint)};
}

bool in_shadow(World& w, const Surface& s, float facing) {
  if (!(facing > 0) || !w.inside(s.hit.x, s.hit.y)) return false;
  Vec start = {s.hit.p.x + s.normal.x * 2e-3f, s.hit.p.y + s.normal.y * 2e-3f,
               s.hit.p.z + s.normal.z * 2e-3f};
  float end = (kMaxHeight - start.z) / w.sun.z;
  auto limit = [&](int lot, float local, float step) {
    float side = float(step > 0 ? w.radius + 1 - lot : lot + w.radius) * kLot;
    float room = step > 0 ? side - local : side + local;
    end = std::min(end, room / std::fabs(step));
  };
  limit(s.hit.x, start.x, w.sun.x);
  limit(s.hit.y, start.y, w.sun.y);
  int x = s.hit.x, y = s.hit.y;
  float distance;
  return end > 0 && walk(w, x, y, start, w.sun, end, distance) != NOTHING;
}

Vec shade(World& w, const Hit& hit, Vec d, float width) {
  if (hit.shape == NOTHING) {
    float up = clip(d.z, 0, 1), rest = 1 - up;
    return blend({.84f, .89f, .93f}, {.33f, .55f, .84f}, 1 - rest * rest * rest);
  }
  // A copy: the shadow's walk may push the lot out of the cache.
  const Lot lot = w.lot(hit.x, hit.y);
  Surface s = {hit, lot, width, {0, 0, 1}, false, false, 0};
  find_normal(s);
  s.width /= std::sqrt(clip(std::fabs(dot(s.normal, d)), 0.04f, 1));
  Vec color = albedo(w, s);
  float facing = dot(s.normal, w.sun);
  float sun = in_shadow(w, s, facing) ? 0 : std::max(facing, 0.0f);
  float rise = clip(hit.p.z * 0.1f, 0, 1);
  float open_sky = 0.72f + 0.28f * std::max(s.normal.z, rise);
  return color * (0.50f * open_sky + 0.58f * sun);
}
