"""Traversal: every backend against a brute-force walk in NumPy, float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import traverse
from tests.kernels import common

BACKENDS = [name for name in common.ALL if name != "native"]
SIDE = 17.0


def _tree(rng):
  """Levels 0 to 2 with gaps, and levels below one of them."""
  children = np.full((1 + 8 + 64, 8), -1, np.int32)
  children[0] = np.arange(1, 9)
  children[1:9] = np.arange(9, 73).reshape(8, 8)
  children[0, 3] = children[2, 5] = -1
  slot_of_node = rng.permutation(73).astype(np.int32)
  slot_of_node[rng.uniform(size=73) < 0.2] = -1
  slot_of_node[0] = 0
  return children, slot_of_node


def _scene(num_rays=10, share=0.5, seed=0):
  """Arguments of traverse, by name; of one size where tests share a program."""
  rng = np.random.default_rng(seed)
  children, slot_of_node = _tree(rng)
  origins = rng.uniform(-0.2, 1.2, (num_rays, 3))
  high = origins.astype(np.float32)
  directions = rng.normal(size=(num_rays, 3))
  directions[:1] = [1, 0, 0]  # along an axis
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  column = lambda low, high: rng.uniform(low, high, (num_rays, 1))
  full = rng.uniform(size=(73, 4, 4, 4)) < share
  return dict(
      origins=high,
      origins_lo=(origins - high).astype(np.float32),
      directions=directions.astype(np.float32),
      near=column(0.05, 2).astype(np.float32),
      far=column(8, 25).astype(np.float32),
      base_radius=column(0, 0.05).astype(np.float32),
      cone_slope=column(0.01, 0.1).astype(np.float32),
      level_footprints=np.float32([0.8, 0.4, 0.2]),
      children=children,
      slot_of_node=slot_of_node,
      occupancy=full,
      phase=column(0, 1).astype(np.float32),
  )


# In the interpreter a step of all rays takes a twentieth of a second.
_COARSE = 5 if common.INTERPRETING else 1
_STEPS = 150 // _COARSE
RULE = dict(
    root_side=SIDE,
    min_step=0.11 * _COARSE,
    step_slope=0.03 * _COARSE,
    max_steps=_STEPS,
)


def _run(scene, implementation, **rule):
  scene = dict(scene)
  if scene["occupancy"] is not None:
    scene["occupancy"] = traverse.pack_occupancy(scene["occupancy"])
  scene = {k: None if v is None else jnp.asarray(v) for k, v in scene.items()}
  rule = {**RULE, "max_samples_per_ray": _STEPS, **rule}
  return _jitted(implementation, tuple(sorted(rule.items())))(scene)


@functools.cache
def _jitted(implementation, rule):
  """One program a rule: op by op they would be compiled one by one."""
  rule = dict(rule, implementation=implementation)
  return jax.jit(lambda scene: traverse.traverse(**scene, **rule))


@functools.cache
def _whole(implementation):
  """The samples of `_scene()`, all of them."""
  return _run(_scene(), implementation)


def _sample(scene, r, t):
  """(kept, node, slot, position, margin) of one sample, by the definition."""
  get = lambda name: np.asarray(scene[name][r], np.float64)
  origin = get("origins") + get("origins_lo")
  x = origin + t * get("directions") / SIDE
  footprint = get("base_radius")[0] + t * get("cone_slope")[0]
  q = (x - 0.5) * 2
  m = max(1.0, np.abs(q).max())
  position = ((2 - 1 / m) * q / m + 2) / 4
  margin = np.abs(np.abs(q) - 1).min()
  node, slot = 0, int(scene["slot_of_node"][0])
  best, kept, corner = 0, True, np.zeros(3)
  if not np.all((x >= 0) & (x < 1)):
    return slot >= 0, best, slot, position, margin
  for level in range(4):
    local = x * 2.0**level - corner
    margin = min(margin, np.abs(4 * local - np.round(4 * local)).min() / 4)
    if scene["occupancy"] is not None:
      kept &= bool(scene["occupancy"][(node, *(4 * local).astype(int))])
    if level and scene["slot_of_node"][node] >= 0:
      best, slot, position = node, int(scene["slot_of_node"][node]), local
    if level == 3:
      break
    finest = scene["level_footprints"][level]
    margin = min(margin, abs(footprint / finest - 1))
    if footprint >= finest:
      break
    upper = local >= 0.5
    node = scene["children"][node, upper @ [4, 2, 1]]
    if node < 0:
      break
    corner = 2 * corner + upper
  return kept and slot >= 0, best, slot, position, margin


def _oracle(scene, r, rule):
  """Samples of a ray by looking at every interval; None where it is close."""
  near, far = float(scene["near"][r, 0]), float(scene["far"][r, 0])
  ends, step = [near], rule["min_step"]
  t = near
  phase = 0.0 if scene["phase"] is None else float(scene["phase"][r, 0])
  share = 1 - phase  # of the first step
  growth = np.log1p(rule["step_slope"])
  for _ in range(rule["max_steps"]):
    # Part of a step that is uniform, then what is left of it grows.
    bend = step / rule["step_slope"] if growth else np.inf
    flat = min(max((bend - t) / step, 0.0), share)
    t = (t + flat * step) * np.exp((share - flat) * growth)
    share = 1.0
    ends.append(min(t, far))
  found = []
  for t0, t1 in zip(ends[:-1], ends[1:]):
    if t1 > t0:
      middle = 0.5 * (t0 + t1)
      kept, *at, margin = _sample(scene, r, middle)
      found.append((kept, middle, t1 - t0, *at, margin))
  return found, ends[-1]


def _compare(got, scene, rule):
  """Every ray that stays clear of faces equals the oracle's."""
  clear = 0
  for r in range(scene["near"].shape[0]):
    found, reached = _oracle(scene, r, rule)
    if min(f[-1] for f in found) < 2e-5:
      continue
    clear += 1
    kept = [f for f in found if f[0]][: rule["max_samples_per_ray"]]
    mine = slice(int(got.ray_offsets[r]), int(got.ray_offsets[r + 1]))
    np.testing.assert_array_equal(got.node_id[mine], [f[3] for f in kept])
    np.testing.assert_array_equal(got.slot[mine], [f[4] for f in kept])
    np.testing.assert_array_equal(got.ray_idx[mine], r)
    np.testing.assert_allclose(got.t[mine], [f[1] for f in kept], rtol=2e-5)
    np.testing.assert_allclose(got.delta[mine], [f[2] for f in kept], atol=1e-4)
    position = np.reshape([f[5] for f in kept], (-1, 3))
    np.testing.assert_allclose(got.position[mine], position, atol=5e-5)
    if len(kept) == rule["max_samples_per_ray"]:
      reached = kept[-1][1] + kept[-1][2] / 2
    np.testing.assert_allclose(got.reached[r], reached, rtol=2e-5)
  return clear


@pytest.mark.parametrize("implementation", BACKENDS)
@pytest.mark.parametrize(
    "share,most", [(0.3, _STEPS), (None, _STEPS), (0.5, 7)]
)
def test_equals_brute_force(implementation, share, most):
  scene = _scene(share=share or 0.0)
  if share is None:
    scene["occupancy"] = None
  got = _run(scene, implementation, max_samples_per_ray=most)
  rule = {**RULE, "max_samples_per_ray": most}
  assert _compare(got, scene, rule) >= 5
  assert int(got.num_found) == int(got.ray_offsets[-1])
  behind = slice(int(got.num_found), None)
  assert np.all(got.slot[behind] == -1) and np.all(got.ray_idx[behind] == -1)
  assert np.all(got.delta[behind] == 0)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_uniform_steps_without_phase(implementation):
  scene = _scene()
  scene["phase"] = None
  rule = dict(
      step_slope=0.0, min_step=0.15 * _COARSE, max_samples_per_ray=_STEPS
  )
  got = _run(scene, implementation, **rule)
  assert _compare(got, scene, {**RULE, **rule}) >= 3


@pytest.mark.parametrize(
    "implementation", [b for b in common.ONCE[1:] if b != "native"]
)
@pytest.mark.parametrize("seed", range(3))
def test_leaping_loses_nothing(implementation, seed):
  """Backends that leap find what the reference's full search finds."""
  scene = _scene(64, 0.15, seed)
  got = _run(scene, implementation)
  want = _run(scene, "reference")
  counts = np.diff(got.ray_offsets) - np.diff(want.ray_offsets)
  assert np.mean(counts != 0) <= 0.05 and np.abs(counts).max() <= 1
  assert int(want.num_found) > 100
  same = np.flatnonzero(counts == 0)
  mine = [np.isin(np.asarray(x.ray_idx), same) for x in (got, want)]
  a, b = (np.asarray(x.t)[m] for x, m in zip((got, want), mine))
  np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_capacity_drops_the_last(implementation):
  whole = _whole(implementation)
  got = _run(_scene(), implementation, capacity=25)
  assert int(whole.num_found) > 25
  assert int(got.num_found) == int(whole.num_found)
  assert got.t.shape == (25,) and int(got.ray_offsets[-1]) == 25
  np.testing.assert_allclose(got.t, whole.t[:25], rtol=1e-6)
  np.testing.assert_array_equal(got.slot, whole.slot[:25])


@pytest.mark.parametrize("implementation", BACKENDS)
def test_rays_without_samples(implementation):
  scene = _scene()
  scene["far"][1] = scene["near"][1]
  scene["far"][2] = scene["near"][2] - 1
  got = _run(scene, implementation)
  counts = np.diff(got.ray_offsets)
  assert counts[1] == 0 and counts[2] == 0 and counts.sum() > 0
  np.testing.assert_array_equal(got.reached[1:3], scene["far"][1:3, 0])
  scene["occupancy"] = np.zeros_like(scene["occupancy"])
  got = _run(scene, implementation)
  for r in range(10):  # only what lies outside of the root is left
    mine = slice(int(got.ray_offsets[r]), int(got.ray_offsets[r + 1]))
    assert np.all(np.asarray(got.node_id[mine]) == 0)
  scene["slot_of_node"][:] = -1
  few = {} if implementation != "triton" else dict(max_steps=3)
  assert int(_run(scene, implementation, **few).num_found) == 0
  none = _run(_scene(0), implementation)
  assert none.ray_offsets.tolist() == [0] and none.t.shape == (0,)


def test_no_gradient_flows_and_jit_works():
  scene = {k: jnp.asarray(v) for k, v in _scene(4).items()}
  words = traverse.pack_occupancy(scene.pop("occupancy"))

  @jax.jit
  def loss(far):
    out = traverse.traverse(
        **{**scene, "far": far},
        occupancy=words,
        **RULE,
        max_samples_per_ray=30,
    )
    return jnp.sum(out.t) + jnp.sum(far)

  np.testing.assert_array_equal(jax.grad(loss)(scene["far"]), 1.0)


def test_occupancy_words():
  flags = np.zeros((2, 4, 4, 4), bool)
  flags[0, 1, 2, 3] = flags[1, 3, 3, 3] = True
  words = np.asarray(traverse.pack_occupancy(flags)).astype(np.int64)
  words &= 2**32 - 1
  bits = words[:, 0] | words[:, 1] << 32
  assert bits.astype(np.uint64).tolist() == [1 << 16 + 8 + 3, 1 << 63]
  children = np.full((3, 8), -1, np.int32)
  children[0, 5], children[0, 2] = 1, 2  # octants with x, y, z = 4, 2, 1
  words = traverse.tree_occupancy(children)
  full = np.zeros((4, 4, 4), bool)
  full[2:, :2, 2:] = full[:2, 2:, :2] = True
  np.testing.assert_array_equal(
      words[0], traverse.pack_occupancy(full[None])[0]
  )
  np.testing.assert_array_equal(words[1:], -1)


def test_bad_arguments_are_refused():
  scene = _scene(3)
  scene["near"] = scene["near"][:, 0]
  with pytest.raises(ValueError, match="near"):
    _run(scene, "xla")
  run = functools.partial(_run, _scene(3), "xla")
  for bad in (dict(min_step=0.0), dict(max_steps=0), dict(step_slope=-1.0)):
    with pytest.raises(ValueError, match="traverse: got"):
      run(**bad)
  with pytest.raises(ValueError, match="2\\^31"):
    run(max_samples_per_ray=2**30)
  with pytest.raises(NotImplementedError, match="native"):
    _run(_scene(3), "native")
