"""Trees of surveys with the samples that a step would put into their nodes."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.evaluation.complexity import captures
from infnerf_jax.models import node_field, node_pool, scene_model
from infnerf_jax.octree import build, levels
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.scene import city as city_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import readers, synthesize
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.training import expected_samples, gradients, priors

_TABLE_SIZE = 256
SHARES = (0.7, 0.14, 0.1, 0.06)  # of the rays, by pyramid level


class Surveyed(NamedTuple):
  """A tree, what a step needs of it, and where its samples will lie.

  Attributes:
    name: of the survey.
    octree: N nodes.
    surroundings: of a single device.
    spec: of small node fields.
    options: sampling.
    num_photos: of the survey.
    photo_size: pixels.
    samples: [N] expected samples of a ray.
  """

  name: str
  octree: tree_lib.Octree
  surroundings: gradients.Surroundings
  spec: scene_model.ModelSpec
  options: render_rays.RenderOptions
  num_photos: int
  photo_size: tuple[int, int]
  samples: np.ndarray


def city_scene(extent: float, num_photos: int) -> scene_lib.Scene:
  """The survey of a procedural city, without pixels.

  Args:
    extent: metres.
    num_photos: of the survey.
  """
  options = synthesize.SynthesisOptions(
      extent=extent, num_photos=num_photos, width=256, height=192
  )
  city, cameras = synthesize.make_cameras(options)
  points, visibility = city_lib.sparse_points(
      city, cameras, num_points=options.num_points, seed=options.seed
  )
  names = tuple(f'{row:05d}.png' for row in range(len(cameras.width)))
  return scene_lib.Scene(
      photos=scene_lib.Photos(
          names, tuple(map(pathlib.Path, names)), (None,) * len(names)
      ),
      cameras=cameras,
      points=points,
      visibility=visibility,
      frame={},
      report={},
  )


def _spec(octree, table_size) -> scene_model.ModelSpec:
  return scene_model.ModelSpec(
      field=node_field.field_spec(
          num_grid_scales=3,
          table_size=table_size,
          num_features=2,
          base_resolution=4,
          finest_resolution=octree.grid_size,
          hidden_width=16,
          num_geometry=15,
          appearance_dim=0,
      ),
      root_side=octree.side,
      root_gsd=octree.root_gsd,
      max_level=octree.num_levels - 1,
      appearance_dim=0,
  )


def survey(
    name: str,
    scene: scene_lib.Scene,
    options: build.BuildOptions,
    *,
    num_samples=(48, 24),
    pixel_size: float = 1.0,
) -> Surveyed:
  """Builds the tree of a scene and counts the samples of its nodes.

  Args:
    name: of the result.
    scene: with sparse points.
    options: of the tree.
    num_samples: of a ray, by sampling round.
    pixel_size: full-size pixels of pyramid level 0.
  """
  built = build.build_octree(scene, options, pixel_size=pixel_size)
  octree = built.octree
  slots = node_pool.identity_slots(octree.num_nodes, octree.num_nodes)
  surroundings = gradients.Surroundings(
      tree=scene_model.tree_arrays(octree, slots),
      joins=jnp.asarray(octree.level, jnp.int32),
      cameras=scene_model.device_cameras(scene.cameras, octree),
      inner=jnp.asarray(priors.inner_nodes(octree)),
      sample_aabb=jnp.asarray(
          scene_model.sample_aabb_in_root_units(octree, built.sample_aabb)
      ),
  )
  spec = _spec(octree, _TABLE_SIZE)
  sampling = render_rays.RenderOptions(
      num_samples=tuple(num_samples), level_policy=levels.BiasedPolicy(-1.0)
  )
  samples = expected_samples.expected_samples(
      observations_lib.point_observations(scene, built.sample_aabb),
      surroundings,
      spec,
      sampling,
      pixel_sizes=pixel_size * 2.0 ** np.arange(len(SHARES)),
      ray_shares=SHARES,
  )
  return Surveyed(
      name,
      octree,
      surroundings,
      spec,
      sampling,
      len(scene.photos.names),
      (int(scene.cameras.width[0]), int(scene.cameras.height[0])),
      samples,
  )


def larger_tables(surveyed: Surveyed, factor: int) -> Surveyed:
  """The same with hash tables of `factor` times as many rows."""
  return surveyed._replace(spec=_spec(surveyed.octree, factor * _TABLE_SIZE))


# Extents in metres, photos, and the depth that the tree aims at.
CITIES = ((72.0, 100, 4), (144.0, 200, 5), (288.0, 400, 6))


def city(extent: float, num_photos: int, depth: int, **more) -> Surveyed:
  """A city as `configs/quickstart.py` sees it, at any extent."""
  options = build.BuildOptions(
      target_depth=depth, max_depth=depth, root_octaves=1, box_margin=1.5
  )
  return survey(
      f'city {extent:g} m', city_scene(extent, num_photos), options, **more
  )


def all_surveys(*, tiny: bool = False) -> tuple[list[Surveyed], list[str]]:
  """(surveys, reasons why others are not among them)."""
  found = [city(*values) for values in (CITIES[:1] if tiny else CITIES)]
  missing = []
  for name in () if tiny else captures.CAPTURES:
    try:
      scene = readers.load_scene(captures.data_folder() / name)
      # At half size, as configs/aerial.py trains photos of 1000 pixels.
      found.append(
          survey(
              name, scene, build.BuildOptions(target_depth=3), pixel_size=2.0
          )
      )
    except errors.InputError as error:
      missing.append(str(error))
  return found, missing
