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
from infnerf_jax.scene import cropping, joining, synthesize
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.scene import split as split_lib
from infnerf_jax.training import capacity as capacity_lib
from infnerf_jax.training import (
    extended_run,
    gradients,
    priors,
    run_files,
    settings,
)
from infnerf_jax.training import extension as extension_lib
from infnerf_jax.training import retraining as retraining_lib
from infnerf_jax.training import step_options as options_lib


class Plan(NamedTuple):
  """What reading a scene and building its tree gives; no pixels yet.

  Attributes:
    scene: all photos that exist.
    joined: it, and the scenes it is of.
    downscale: full-size pixels per training pixel.
    built: octree, box and report.
    spec: static facts of the model.
    num_slots: capacity of the node pool.
    capacity: of a run that pages its nodes, None: all are resident.
    extension: of a run that photos were added to, None: of another.
    base: that run as it was.
  """

  scene: scene_lib.Scene
  joined: joining.Joined
  downscale: float
  built: build.BuiltOctree
  spec: scene_model.ModelSpec
  num_slots: int
  capacity: capacity_lib.Capacity | None = None
  extension: extension_lib.Extension | None = None
  base: run_files.RunFiles | None = None


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
    retraining: what learns in a run that photos were added to.
  """

  plan: Plan
  pyramid: pyramid_lib.PhotoPyramid
  split: Any
  observations: observations_lib.Observations | None
  surroundings: gradients.Surroundings
  render_options: render_rays.RenderOptions
  step_options: options_lib.StepOptions
  report: dict[str, Any]
  retraining: retraining_lib.Retraining | None = None


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


def load_scenes(config, workdir) -> joining.Joined:
  """The scene of a config, with those that are joined with it."""
  return joining.load_scenes(
      scene_folder(config, workdir), extension_lib.extra_paths(config)
  )


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
  extension = extension_lib.find(config, workdir)
  joined = load_scenes(config, workdir)
  if config.data.boundary:
    joined = joining.map_parts(
        joined, lambda part: cropping.crop_points(part, config.data.boundary)
    )
  if extension is not None:
    base = run_files.read(extension.folder)
    return _plan_of_extension(config, joined, extension, base)
  downscale = settings.training_downscale(config, joined.scene.cameras)
  return _plan_of_scene(config, joined, downscale, num_shards)


def _plan_of_scene(config, joined, downscale, num_shards) -> Plan:
  built = build.build_octree(
      joined.scene, settings.build_options(config), pixel_size=downscale
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
  return Plan(joined.scene, joined, downscale, built, spec, num_slots, capacity)


def _plan_of_extension(config, joined, extension, base) -> Plan:
  built = extended_run.extend_tree(config, extension, base, joined)
  num_nodes = built.octree.num_nodes
  spec = settings.model_spec(config, built.octree)
  if capacity_lib.of_run(
      spec.field, num_nodes, max_memory_gb=config.max_memory_gb
  ):
    raise errors.InputError(
        f'config.max_memory_gb: got {config.max_memory_gb:g}, which does not'
        f' hold the {num_nodes} nodes that the run has with'
        ' config.data.extra_paths, expected a cap that does, or 0: none'
    )
  # Beyond the capacity of the run as it was: one more compilation.
  num_slots = max(config.num_slots, num_nodes)
  return Plan(
      joined.scene, joined, extension.downscale, built, spec, num_slots, None,
      extension, base,
  )  # fmt: skip


def make_surroundings(plan: Plan) -> gradients.Surroundings:
  """Uploads the tree and the cameras."""
  octree = plan.built.octree
  resident = min(octree.num_nodes, plan.num_slots)
  slots = np.full(octree.num_nodes, -1, np.int32)
  slots[:resident] = node_pool.identity_slots(resident, plan.num_slots)
  return gradients.Surroundings(
      tree=scene_model.tree_arrays(octree, slots),
      joins=jnp.asarray(_joins(plan), jnp.int32),
      cameras=scene_model.device_cameras(plan.scene.cameras, octree),
      inner=jnp.asarray(priors.inner_nodes(octree)),
      sample_aabb=jnp.asarray(
          scene_model.sample_aabb_in_root_units(octree, plan.built.sample_aabb)
      ),
  )


def _joins(plan: Plan) -> np.ndarray:
  """[N] entry of the growth schedule at which each node joins."""
  if plan.base is None:
    return plan.built.octree.level
  return extended_run.is_new(plan.built.octree, plan.base.octree)


def _observations(config, plan: Plan):
  """Sightings of sparse points, where losses or an extension want them."""
  wanted = config.lambda_depth or plan.extension
  if not wanted or plan.scene.points is None:
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
  if config.data.boundary:
    folder = pathlib.Path(workdir) / 'boundary_masks'
    plan = plan._replace(
        scene=cropping.mask_photos(plan.scene, config.data.boundary, folder)
    )
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
    joined = joining.select_photos(plan.joined, usable)
    if plan.extension is None:
      plan = _plan_of_scene(config, joined, plan.downscale, num_shards)
    else:
      plan = _plan_of_extension(config, joined, plan.extension, plan.base)
  split = _split(config, plan)
  report = {
      **plan.scene.report,
      'photos_damaged_when_decoded': [list(item) for item in damaged],
      'photos_usable': len(usable),
      'photos_train': len(split.train),
      'photos_test': len(split.test),
      'downscale': plan.downscale,
      'octree': plan.built.report,
  }
  run = Run(
      plan=plan,
      pyramid=pyramid,
      split=split,
      observations=_observations(config, plan),
      surroundings=make_surroundings(plan),
      render_options=settings.render_options(config),
      step_options=settings.step_options(config),
      report=report,
  )
  return run if plan.extension is None else _extended(config, run)


def _split(config, plan):
  """Rows of training, validation and test photos."""
  names, data = plan.scene.photos.names, config.data
  if plan.base is not None:
    path = data.path or 'config.data.city'
    extended_run.check_photos(plan.base, plan.scene, path)
    return extended_run.split_photos(config, plan.base, names)
  return split_lib.split_photos(
      names,
      test_every=data.test_every,
      train_list=data.train_list or None,
      test_list=data.test_list or None,
      validation_every=data.validation_every,
  )


def _extended(config, run: Run) -> Run:
  """A run that photos were added to: what learns, and for how long."""
  plan = run.plan
  found = extended_run.find_retraining(config, run)
  learners = gradients.Learners(
      jnp.asarray(found.learns), jnp.asarray(found.new_photos)
  )
  report = {
      **run.report,
      'extension': {
          **extension_lib.describe(plan.extension),
          **plan.built.report['extension'],
          'nodes_retrained': int(found.learns.sum()),
          'nodes_untouched': int((~found.learns).sum()),
      },
  }
  return run._replace(
      retraining=found,
      report=report,
      surroundings=run.surroundings._replace(learners=learners),
      step_options=extended_run.step_options(
          run.step_options, plan.extension, config
      ),
  )


def init_key(config) -> jax.Array:
  """PRNG key of the initial parameters."""
  return jax.random.key(config.seed)


def step_key(config) -> jax.Array:
  """PRNG key of the steps' draws.

  XLA's own generator: threefry would double the step's time to compile.
  """
  return jax.random.key(config.seed, impl='rbg')
