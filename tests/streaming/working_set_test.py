"""The working set holds all that dense sampling touches, and little more."""

import jax
import numpy as np
import pytest

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import levels as levels_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.storage import tree_pages
from infnerf_jax.streaming import view_tiles, working_set

SIDE = 40.0
ROOT_MIN = np.array([300.0, -20.0, 5.0])
KINDS = {
    'perspective': cameras_lib.PERSPECTIVE,
    'fisheye': cameras_lib.FISHEYE,
    'orthographic': cameras_lib.ORTHOGRAPHIC,
}


def make_tree(seed=0, max_level=5) -> tree_lib.Octree:
  """A rolling surface of nodes with holes, as photos of ground leave it."""
  rng = np.random.default_rng(seed)
  points = rng.uniform(size=(6000, 3))
  points[:, 2] = 0.3 + 0.1 * np.sin(5 * points[:, 0]) * np.cos(4 * points[:, 1])
  points = points[(points[:, 0] - 0.4) ** 2 + (points[:, 1] - 0.6) ** 2 > 0.02]
  cells = [np.unique(np.floor(points * 2**level).astype(int), axis=0)
           for level in range(max_level + 1)]  # fmt: skip
  return tree_lib.from_coords(
      cells, center=ROOT_MIN + SIDE / 2, side=SIDE, grid_size=64
  )


def make_frame(octree, **changes) -> working_set.Frame:
  box = np.stack([ROOT_MIN - 8.0, ROOT_MIN + SIDE + 8.0])
  frame = working_set.Frame(
      octree.root_min, SIDE, octree.root_gsd, octree.num_levels - 1, box,
      near=0.3, far=2000.0,
  )  # fmt: skip
  return frame._replace(**changes)


def _shows_its_corners(distortion, radius) -> bool:
  """Whether a fisheye's angle grows up to a radius in units of its focal."""
  angle = np.linspace(0, np.pi, 1000)
  powers = angle[:, None] ** (2 * np.arange(1, 5))
  distorted = angle * (1 + powers @ distortion)
  return bool(np.all(np.diff(np.minimum(distorted, radius * 1.05)) >= 0)) and (
      distorted.max() >= radius * 1.05
  )


def random_camera(rng, kind) -> cameras_lib.Cameras:
  center = ROOT_MIN + SIDE / 2
  distance = SIDE * 2.0 ** rng.uniform(-5, 3)
  target = center + rng.uniform(-0.5, 0.5, 3) * SIDE * [1, 1, 0.2]
  offset = rng.normal(size=3)
  offset[2] = abs(offset[2])
  position = target + distance * offset / np.linalg.norm(offset)
  width, height = int(rng.integers(40, 200)), int(rng.integers(40, 200))
  focal, distortion = width * 2.0 ** rng.uniform(-1.3, 2), ()
  if kind == 'orthographic':
    focal = width / (SIDE * 2.0 ** rng.uniform(-5, 1))
  elif kind == 'fisheye':
    # What a lens does not see has no footprint: keep the corners within.
    width = height = max(width, height)
    focal = width / np.radians(rng.uniform(60, 150))
    distortion = rng.uniform(-0.002, 0.002, 4)
    if not _shows_its_corners(distortion, np.hypot(width, height) / 2 / focal):
      distortion = ()
  elif rng.uniform() < 0.5:
    distortion = (-0.1, 0.02, 0.001, -0.001)
    focal = max(focal, 0.8 * max(width, height))
  return cameras_lib.make_camera(
      focal=focal, width=width, height=height, distortion=distortion,
      projection=KINDS[kind],
      cam_to_world=cameras_lib.look_at(position, target),
  )  # fmt: skip


def touched(octree, frame, camera, rng, *, octaves=(0.0,), pixel_size=1.0):
  """Keys that dense samples of the view's rays ask for: plain NumPy."""
  num = 20
  size = np.array([float(camera.width), float(camera.height)])
  pix = np.stack(np.meshgrid(*(np.linspace(0.5, n - 0.5, num) for n in size)),
                 axis=-1).reshape(-1, 2)  # fmt: skip
  rows = len(pix)
  table = cameras_lib.Cameras(*(np.asarray(x)[None] for x in camera))
  device = cameras_lib.to_device(table, np.zeros(3), 1.0)
  with jax.default_device(jax.devices('cpu')[0]):
    rays = _rays(device, np.zeros(rows, np.int32), pix.astype(np.float32),
                 np.full(rows, pixel_size, np.float32))  # fmt: skip
  origins = np.asarray(rays.origins, float) + np.asarray(rays.origins_lo, float)
  directions = np.asarray(rays.directions, float)
  with np.errstate(divide='ignore', invalid='ignore'):
    first = (frame.sample_aabb[0] - origins) / directions
    second = (frame.sample_aabb[1] - origins) / directions
  enter = np.nanmax(np.minimum(first, second), axis=-1)
  leave = np.nanmin(np.maximum(first, second), axis=-1)
  enter = np.maximum(enter, frame.near)
  hit = leave > enter
  if not hit.any():
    return {1}
  origins, directions = origins[hit], directions[hit]
  share = np.linspace(0, 1, 250) ** rng.choice([1, 2])
  t = enter[hit, None] + share * (leave - enter)[hit, None]
  slope = np.asarray(rays.cone_slope, float)[hit]
  footprint = np.asarray(rays.base_radius, float)[hit] + t * slope
  x = origins[:, None] + t[..., None] * directions[:, None] - octree.root_min
  x = (x / SIDE).reshape(-1, 3)
  inside = np.all((x >= 0) & (x < 1), axis=-1)
  keys = {1}
  for octave in octaves:
    ratio = frame.root_gsd / (footprint.reshape(-1) * 2.0**octave)
    target = np.clip(np.ceil(np.log2(ratio)), 0, frame.max_level)
    node = np.zeros(len(x), int)
    cell = np.zeros((len(x), 3), int)
    going = inside.copy()
    for level in range(1, frame.max_level + 1):
      upper = np.floor(x * 2.0**level).astype(int) - 2 * cell
      upper = np.clip(upper, 0, 1)
      child = octree.children[node, upper @ [4, 2, 1]]
      going &= (child >= 0) & (target >= level)
      node = np.where(going, child, node)
      cell = np.where(going[:, None], 2 * cell + upper, cell)
    ids = np.unique(node)
    found = tree_lib.node_key(octree.level[ids], octree.coord[ids])
    keys |= set(found.tolist())
  return keys


_rays = jax.jit(lambda *a: cameras_lib.camera_rays(*a, root_side=1.0))


@pytest.mark.parametrize('kind', KINDS)
def test_a_tight_superset_of_what_is_touched(kind):
  octree = make_tree()
  tree = tree_pages.ResidentTree(octree)
  check_superset(octree, tree, kind, num_cameras=12, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('seed', (1, 2))
def test_a_thousand_cameras_of_a_kind(kind, seed):
  octree = make_tree(seed)
  tree = tree_pages.ResidentTree(octree)
  check_superset(octree, tree, kind, num_cameras=500, seed=seed)


# Half an octave of jitter either way, and a level above for blending.
WIDENED = dict(finer=0.5, coarser=1.5)
WIDENED_OCTAVES = (-0.499, 0.0, 0.5, 1.0, 1.499)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('seed', (3, 4))
def test_as_many_with_jitter_and_blending(kind, seed):
  octree = make_tree(seed)
  tree = tree_pages.ResidentTree(octree)
  check_superset(
      octree, tree, kind, num_cameras=500, seed=seed, octaves=WIDENED_OCTAVES,
      **WIDENED,
  )  # fmt: skip


def check_superset(
    octree, tree, kind, *, num_cameras, seed, octaves=(0.0,), **widened
):
  rng = np.random.default_rng((seed, list(KINDS).index(kind)))
  ratios = []
  for _ in range(num_cameras):
    camera = random_camera(rng, kind)
    frame = make_frame(octree, **widened)
    found = working_set.of_camera(tree, frame, camera)
    needed = touched(octree, frame, camera, rng, octaves=octaves)
    assert needed <= set(found.keys.tolist())
    assert len(set(found.keys.tolist())) == len(found.keys)
    ratios.append(len(found.keys) / len(needed))
  print(kind, np.percentile(ratios, [50, 90, 100]))
  assert np.median(ratios) <= 1.5


@pytest.mark.parametrize('kind', KINDS)
def test_jitter_and_blending_widen_it(kind):
  octree = make_tree(1)
  tree = tree_pages.ResidentTree(octree)
  rng = np.random.default_rng(5)
  ratios = []
  for _ in range(4):
    camera = random_camera(rng, kind)
    frame = make_frame(octree, **WIDENED)
    found = working_set.of_camera(tree, frame, camera, pixel_size=2.0)
    needed = touched(
        octree, frame, camera, rng, octaves=WIDENED_OCTAVES, pixel_size=2.0
    )
    assert needed <= set(found.keys.tolist())
    ratios.append(len(found.keys) / len(needed))
  assert np.median(ratios) <= 1.5


# Octaves at which samples of each round ask: of the policy's bias, half an
# octave of jitter either way, the level above within the share that blends.
OPTIONS = {
    'bias of trained runs': (
        dict(level_policy=levels_lib.BiasedPolicy(-1.0)), (-1.0,),
    ),
    'far coarser': (dict(level_policy=levels_lib.BiasedPolicy(7.0)), (7.0,)),
    'far finer': (dict(level_policy=levels_lib.BiasedPolicy(-6.0)), (-6.0,)),
    'bias and blending': (
        dict(level_policy=levels_lib.BlendedPolicy(0.25, -1.0)), (-1.0, -0.76),
    ),
    'proposals': (
        dict(level_policy=levels_lib.BlendedPolicy(0.5), proposal_bias=1.0),
        (0.0, 0.49, 1.0),
    ),
    'fine proposals': (dict(proposal_bias=-1.5), (-1.5, 0.0)),
    'jitter': (
        dict(level_policy=levels_lib.BiasedPolicy(-1.0)),
        (-1.499, -1.0, -0.501),
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', OPTIONS)
def test_what_options_ask_for_is_inside(name):
  """The options of trained runs and of films, as `make_frame` reads them."""
  changes, octaves = OPTIONS[name]
  octree = make_tree(2)
  tree = tree_pages.ResidentTree(octree)
  spec = scene_model.ModelSpec(
      field=None, root_side=octree.side, root_gsd=octree.root_gsd,
      max_level=octree.num_levels - 1, appearance_dim=0,
  )  # fmt: skip
  options = render_rays.RenderOptions(near=0.015, far=100.0, **changes)
  frame = working_set.make_frame(
      octree, spec, options, make_frame(octree).sample_aabb,
      level_jitter=0.5 * (name == 'jitter'),
  )  # fmt: skip
  rng, ratios = np.random.default_rng(11), []
  for i in range(6):
    camera = random_camera(rng, list(KINDS)[i % 3])
    found = working_set.of_camera(tree, frame, camera)
    needed = touched(octree, frame, camera, rng, octaves=octaves)
    assert needed <= set(found.keys.tolist())
    ratios.append(len(found.keys) / len(needed))
  assert np.median(ratios) <= 1.5


def test_any_monotone_policy_is_followed():
  def own(footprint, *, root_gsd, max_level):
    level = levels_lib.determine_lod_level(
        footprint, root_gsd=root_gsd, max_level=max_level
    )
    return level // 2 * 2  # every second level only

  octree = make_tree()
  tree = tree_pages.ResidentTree(octree)
  rng = np.random.default_rng(7)
  for _ in range(5):
    camera = random_camera(rng, 'perspective')
    found = working_set.of_camera(tree, make_frame(octree, policy=own), camera)
    plain = working_set.of_camera(tree, make_frame(octree), camera)
    level = tree_pages.key_level(found.keys)
    missing = np.setdiff1d(found.keys, plain.keys)
    # An odd level is asked for only where a child is missing.
    assert len(found.keys) <= len(plain.keys) + len(missing)
    assert set(level.tolist()) <= set(range(octree.num_levels))
  with pytest.raises(ValueError, match='rise with the footprint'):
    rising = lambda f, *, root_gsd, max_level: (f > root_gsd).astype(int)
    frame = make_frame(octree, policy=rising)
    working_set.of_camera(tree, frame, random_camera(rng, 'perspective'))


def test_the_smallest_bias_that_fits():
  octree = make_tree()
  tree = tree_pages.ResidentTree(octree)
  frame = make_frame(octree)
  camera = cameras_lib.make_camera(
      focal=100.0, width=160, height=120,
      cam_to_world=cameras_lib.look_at(
          ROOT_MIN + [20, 20, 20], ROOT_MIN + [20, 25, 12]),
  )  # fmt: skip
  tiles = view_tiles.view_tiles(camera)
  whole = working_set.find(tree, frame, tiles)
  assert working_set.find(tree, frame, tiles, max_nodes=10) is None
  previous = np.inf
  for budget in (len(whole.keys), len(whole.keys) // 2, 12, 3, 1):
    fitting = working_set.that_fits(tree, frame, tiles, budget)
    assert len(fitting.keys) <= budget and fitting.keys[0] == 1
    assert len(fitting.keys) <= previous
    previous = len(fitting.keys)
    if fitting.bias:
      finer = working_set.find(tree, frame, tiles, bias=fitting.bias - 1 / 16)
      assert len(finer.keys) > budget
  assert working_set.that_fits(tree, frame, tiles, 10**6).bias == 0


def test_a_camera_that_looks_away_needs_the_root():
  octree = make_tree()
  camera = cameras_lib.make_camera(
      focal=100.0, width=160, height=120,
      cam_to_world=cameras_lib.look_at(
          ROOT_MIN - 100, ROOT_MIN - 200),
  )  # fmt: skip
  found = working_set.of_camera(
      tree_pages.ResidentTree(octree), make_frame(octree), camera
  )
  assert found.keys.tolist() == [1]
