"""From a config to everything that a run needs before its first step."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.octree import build
from infnerf_jax.render import render_rays
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import readers, synthesize
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.scene import split as split_lib
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import gradients, priors, settings
from infnerf_jax.training import step_options as options_lib


class Plan(NamedTuple):
  """What reading a scene and building its tree gives; no pixels yet.

  Attributes:
    scene: all photos that exist.
    downscale: full-size pixels per training pixel.
    built: octree, box and report.
    spec: static facts of the model.
    num_slots: capacity of the node pool.
    capacity: of a run that pages its nodes, None: all are resident.
  """

  scene: scene_lib.Scene
  downscale: float
  built: build.BuiltOctree
  spec: scene_model.ModelSpec
  num_slots: int
  capacity: capacity_lib.Capacity | None = None


class Run(NamedTuple):
  """A plan with photos decoded, split made and device arrays in place.

  Attributes:
    plan: see `Plan`; its scene holds the usable photos only.
    pyramid: their pixels.
    split: rows of training, validation and test photos.
    observations: where the photos see sparse points, or None.
    surroundings: device arrays that steps read.
    render_options: sampling.
    step_options: losses and optimiser.
    report: what `scene_report.json` says.
  """

  plan: Plan
  pyramid: pyramid_lib.PhotoPyramid
  split: Any
  observations: observations_lib.Observations | None
  surroundings: gradients.Surroundings
  render_options: render_rays.RenderOptions
  step_options: options_lib.StepOptions
  report: dict[str, Any]


def scene_folder(config, workdir) -> pathlib.Path:
  """The scene's folder; the embedded city is made where none is given."""
  if config.data.path:
    return pathlib.Path(config.data.path).expanduser()
  if 'city' not in config.data:
    raise errors.InputError(
        'config.data.path: got an empty path, expected a scene folder'
    )
  folder = pathlib.Path(workdir) / 'scene'
  synthesize.synthesize(
      folder, synthesize.SynthesisOptions(**config.data.city.to_dict())
  )
  return folder


def training_downscale(config, cameras) -> float:
  """Full-size pixels per training pixel, from the config or the photos."""
  if config.data.downscale:
    return float(config.data.downscale)
  widest = int(np.max(cameras.width))
  return float(max(1, round(widest / config.data.max_width)))


def make_plan(config, workdir, num_shards: int = 1) -> Plan:
  """Reads the scene and builds the octree; decodes no photo.

  Args:
    config: checked config.
    workdir: for the embedded city.
    num_shards: node shards that the tree is dealt out to.

  Returns:
    Plan.

  Raises:
    InputError: a scene or config that cannot work.
  """
  settings.check_config(config)
  scene = readers.load_scene(scene_folder(config, workdir))
  downscale = training_downscale(config, scene.cameras)
  return _plan_of_scene(config, scene, downscale, num_shards)


def _plan_of_scene(config, scene, downscale, num_shards) -> Plan:
  built = build.build_octree(
      scene, settings.build_options(config), pixel_size=downscale
  )
  num_nodes = built.octree.num_nodes
  spec = settings.model_spec(config, built.octree)
  capacity = capacity_lib.of_run(
      spec.field,
      num_nodes,
      max_memory_gb=config.max_memory_gb,
      num_slots=config.num_slots,
      num_shards=num_shards,
  )
  num_slots = capacity.num_slots if capacity else config.num_slots or num_nodes
  return Plan(scene, downscale, built, spec, num_slots, capacity)


def make_surroundings(plan: Plan) -> gradients.Surroundings:
  """Uploads the tree and the cameras."""
  octree = plan.built.octree
  resident = min(octree.num_nodes, plan.num_slots)
  slots = np.full(octree.num_nodes, -1, np.int32)
  slots[:resident] = node_pool.identity_slots(resident, plan.num_slots)
  return gradients.Surroundings(
      tree=scene_model.tree_arrays(octree, slots),
      node_level=jnp.asarray(octree.level, jnp.int32),
      cameras=scene_model.device_cameras(plan.scene.cameras, octree),
      inner=jnp.asarray(priors.inner_nodes(octree)),
      sample_aabb=jnp.asarray(
          scene_model.sample_aabb_in_root_units(octree, plan.built.sample_aabb)
      ),
  )


def _observations(config, plan: Plan):
  """Sightings of sparse points, where the losses want them."""
  if not config.lambda_depth or plan.scene.points is None:
    return None
  return observations_lib.point_observations(plan.scene, plan.built.sample_aabb)


def prepare_run(config, workdir, num_shards: int = 1) -> Run:
  """Everything before the first step.

  Args:
    config: checked config.
    workdir: the photo cache lies in it.
    num_shards: node shards that the tree is dealt out to.

  Returns:
    Run.

  Raises:
    InputError: bad scene, photos or config.
  """
  plan = make_plan(config, workdir, num_shards)
  pyramid, usable, damaged = pyramid_lib.build(
      plan.scene,
      pathlib.Path(workdir) / 'cache',
      downscale=plan.downscale,
      num_levels=config.num_pyramid_levels,
      cache_gb=config.data.cache_gb,
      max_damaged_fraction=config.data.max_damaged_fraction,
  )
  if len(usable) < len(plan.scene.photos.names):
    # The damaged photos' cameras must not shape the tree either.
    scene = scene_lib.select_photos(plan.scene, usable)
    plan = _plan_of_scene(config, scene, plan.downscale, num_shards)
  split = split_lib.split_photos(
      plan.scene.photos.names,
      test_every=config.data.test_every,
      train_list=config.data.train_list or None,
      test_list=config.data.test_list or None,
      validation_every=config.data.validation_every,
  )
  report = {
      **plan.scene.report,
      'photos_damaged_when_decoded': [list(item) for item in damaged],
      'photos_usable': len(usable),
      'photos_train': len(split.train),
      'photos_test': len(split.test),
      'downscale': plan.downscale,
      'octree': plan.built.report,
  }
  return Run(
      plan=plan,
      pyramid=pyramid,
      split=split,
      observations=_observations(config, plan),
      surroundings=make_surroundings(plan),
      render_options=settings.render_options(config),
      step_options=settings.step_options(config),
      report=report,
  )


def init_key(config) -> jax.Array:
  """PRNG key of the initial parameters."""
  return jax.random.key(config.seed)


def step_key(config) -> jax.Array:
  """PRNG key of the steps' draws.

  XLA's own generator: threefry would double the step's time to compile.
  """
  return jax.random.key(config.seed, impl='rbg')
