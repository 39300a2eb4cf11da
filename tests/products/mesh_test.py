"""Meshes of known densities; a field's answers against its kernels."""

import types

import jax.numpy as jnp
import numpy as np
import plyfile
import pytest

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry import map_frame
from infnerf_jax.octree import levels
from infnerf_jax.products import field_query, mesh
from infnerf_jax.products import region as region_lib
from infnerf_jax.render import render_rays
from kernels.node_field import api as node_field
from tests import tiny_model

_CENTER = np.array([103.0, -48.0, 5.0])
_RADIUS = 1.1


class Ball:
  """A ball whose opacity a cell falls evenly through its surface."""

  def __init__(self, spacing):
    self.spacing = spacing
    self.asked = 0

  def density(self, points):
    self.asked = max(self.asked, len(points))
    outside = np.linalg.norm(points - _CENTER, axis=-1) - _RADIUS
    alpha = np.clip(0.5 - outside / (4 * self.spacing), 0.0, 0.999)
    return -np.log1p(-alpha) / self.spacing

  def colors(self, points, directions):
    inward = (_CENTER - points) / _RADIUS
    np.testing.assert_allclose(directions, inward, atol=0.15)
    return 0.5 + 0.5 * inward


def _region(spacing, size=30):
  low = _CENTER - size / 2 * spacing
  return region_lib.Region(low, np.full(3, size), spacing, 2)


def _read(path):
  content = plyfile.PlyData.read(str(path))
  rows = content['vertex']
  vertices = np.stack([rows[a] for a in 'xyz'], -1).astype(np.float64)
  colors = np.stack([rows[c] for c in ('red', 'green', 'blue')], -1)
  faces = np.array(content['face']['vertex_indices'].tolist())
  return vertices, colors, faces, content.comments


def test_ball_is_one_closed_surface_over_tiles(tmp_path):
  spacing = 0.1
  source = Ball(spacing)
  path = tmp_path / 'deep' / 'ball.ply'
  done = []
  report = mesh.write_mesh(
      source, _region(spacing), path,
      comments=['two\nlines'], progress=done.append, tile=8,
  )  # fmt: skip
  vertices, colors, faces, comments = _read(path)
  assert comments == ['two lines']
  assert (report['vertices'], report['faces']) == (len(vertices), len(faces))
  assert done == list(range(1, 65)) and source.asked == 9**3
  # Opacity is linear across the surface, so interpolation along a grid's edge
  # misses the ball by its curvature alone: h^2 / (8 r) and less.
  radius = np.linalg.norm(vertices - _CENTER, axis=-1)
  np.testing.assert_allclose(radius, _RADIUS, atol=2e-3)
  # Closed: each edge once in each direction; one sphere: V - E + F = 2.
  edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
  forth = {tuple(e) for e in edges.tolist()}
  assert len(forth) == len(edges)
  assert all((b, a) in forth for a, b in forth)
  assert len(vertices) - len(edges) / 2 + len(faces) == 2
  # Outward, and the volume of a ball.
  corners = vertices[faces] - _CENTER
  volume = np.linalg.det(corners).sum() / 6
  assert volume == pytest.approx(4 / 3 * np.pi * _RADIUS**3, rel=0.01)
  expected = 127.5 + 127.5 * (_CENTER - vertices) / _RADIUS
  np.testing.assert_allclose(colors, expected, atol=1.0)
  assert [p.name for p in path.parent.iterdir()] == ['ball.ply']


def test_one_tile_gives_the_same_surface(tmp_path):
  spacing = 0.2
  found = []
  for tile in (64, 5):
    path = tmp_path / f'{tile}.ply'
    mesh.write_mesh(Ball(spacing), _region(spacing, 15), path, tile=tile)
    vertices, _, faces, _ = _read(path)
    found.append((np.unique(vertices.round(4), axis=0), len(faces)))
  np.testing.assert_array_equal(found[0][0], found[1][0])
  assert found[0][1] == found[1][1]


def test_nothing_there_leaves_no_file(tmp_path):
  region = _region(0.1)._replace(low=_CENTER + 50)
  with pytest.raises(errors.InputError, match='without a surface'):
    mesh.write_mesh(Ball(0.1), region, tmp_path / 'a.ply')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').touch()
  with pytest.raises(errors.InputError, match='--out: .*can be written'):
    mesh.write_mesh(Ball(0.1), region, tmp_path / 'file' / 'a.ply')
  with pytest.raises(errors.InputError, match='expected FILE.ply'):
    mesh.write_mesh(Ball(0.1), region, tmp_path / 'a.obj')


@pytest.fixture(scope='module')
def loaded():
  model, spec, octree = tiny_model.make_model()
  return types.SimpleNamespace(
      model=model, spec=spec, octree=octree, workdir='run',
      appearance=lambda photo: np.zeros(spec.appearance_dim),
      options=render_rays.RenderOptions(),
      sample_aabb=np.stack(
          [tiny_model.ROOT_MIN, tiny_model.ROOT_MIN + tiny_model.SIDE]
      ),
  )  # fmt: skip


@pytest.mark.parametrize('level', [0, 1, 2])
def test_field_is_asked_at_the_level(loaded, level, monkeypatch):
  monkeypatch.setattr(field_query, '_BLOCK', 64)
  rng = np.random.default_rng(level)
  points = tiny_model.ROOT_MIN + rng.uniform(0.01, 3.99, (200, 3))
  octree = loaded.octree
  slots, inside = [], []
  for point in points:
    # By hand: the deepest node down to the level whose box holds the point.
    unit = (point - octree.root_min) / octree.side
    for depth in range(level, -1, -1):
      cell = np.floor(unit * 2**depth)
      rows = (octree.level == depth) & (octree.coord == cell).all(axis=-1)
      if rows.any():
        break
    slots.append(int(np.flatnonzero(rows)[0]))
    own = unit * 2**depth - cell
    inside.append(own if depth else 0.25 + 0.5 * own)
  assert max(octree.level[slots]) == level
  directions = rng.normal(size=(200, 3))
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  inputs = render_rays.ray_inputs(
      cameras_lib.Rays(
          None, None, jnp.asarray(directions, jnp.float32), None, None, None
      ),
      jnp.zeros((200, loaded.spec.appearance_dim)),
  )
  raw, rgb = node_field.node_field(
      loaded.model.nodes, jnp.asarray(inside, jnp.float32),
      jnp.asarray(slots, jnp.int32), jnp.arange(200, dtype=jnp.int32), inputs,
      spec=loaded.spec.field, implementation='reference',
  )  # fmt: skip
  source = field_query.FieldPoints(loaded, level=level)
  density = np.exp(np.asarray(raw)) / (tiny_model.SIDE / 2)
  assert density.std() > 0.01 * density.mean()
  np.testing.assert_allclose(source.density(points), density, rtol=1e-3)
  np.testing.assert_allclose(source.colors(points, directions), rgb, atol=1e-4)


@pytest.mark.parametrize('bias', [0.0, -1.0, 0.5])
def test_spacing_asks_for_its_level(loaded, bias):
  loaded = types.SimpleNamespace(
      **{
          **vars(loaded),
          'options': types.SimpleNamespace(
              level_policy=levels.BiasedPolicy(bias)
          ),
      }
  )
  for level in range(3):
    spacing = region_lib.level_spacing(loaded, level)
    footprint = np.float32(spacing / np.sqrt(np.pi))
    found = loaded.options.level_policy(
        footprint, root_gsd=loaded.spec.root_gsd, max_level=2
    )
    assert int(found) == level
    finer = loaded.options.level_policy(
        footprint / 1.01, root_gsd=loaded.spec.root_gsd, max_level=2
    )
    assert int(finer) == min(level + 1, 2)


def test_regions_lie_within_the_scene(loaded):
  frame = map_frame.make_frame(
      {'offset': np.array([500000.0, 1000.0, 10.0]), 'rotation': np.eye(3)}
  )
  low = tiny_model.ROOT_MIN
  region = region_lib.make_region(
      loaded, frame, bounds=(500101, 0, 500102.0, 951.5, 0, 14.0), level=1
  )
  np.testing.assert_allclose(region.low, [101.0, low[1], low[2]])
  assert (region.high - region.spacing <= [102.0, -48.5, 4.0]).all()
  assert (region.high >= [102.0, -48.5, 4.0]).all()
  cells = np.zeros(region.size, int)
  for first, count in region.tiles(3):
    cells[tuple(slice(f, f + c) for f, c in zip(first, count))] += 1
  assert (cells == 1).all()
  for bounds in ((0, 0, 1, 1), (500101, 0, 500102, 960, 100, 110)):
    with pytest.raises(errors.InputError, match='outside the scene'):
      region_lib.make_region(loaded, frame, bounds=bounds)
  with pytest.raises(errors.InputError, match='--level: got 3'):
    region_lib.make_region(loaded, frame, level=3)


@pytest.mark.parametrize(
    'text', ['1,2,3', '3,0,1,1', '0,0,1,1,5,2', '0,0,1,1,a,b', '0,0,1,nan']
)
def test_bounds_that_are_none(text):
  with pytest.raises(errors.InputError, match='--bounds: got'):
    region_lib.parse_bounds(text)
