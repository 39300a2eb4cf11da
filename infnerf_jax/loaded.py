"""A trained scene from its workdir, ready to render."""

import dataclasses
import functools
import pathlib
from typing import Any, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from infnerf_jax import errors, stored_run
from infnerf_jax.evaluation import evaluate as evaluate_lib
from infnerf_jax.evaluation import fitting, photo_scores
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_pool, scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import (
  occupancy,
  progressive,
  render_image,
  render_rays,
)  # fmt: skip
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.storage import checkpoint, node_store
from infnerf_jax.streaming import store_scene
from infnerf_jax.training import (
    extended_run,
    growth,
    out_of_core,
    pruning,
    settings,
)
from infnerf_jax.training import extension as extension_lib
from infnerf_jax.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class LoadedScene:
  """A trained scene.

  Attributes:
    workdir: folder of the run.
    config: of the run.
    model: node fields, appearance, tree; on the device.
    spec: static facts of the model.
    octree: the host's tree.
    sample_aabb: [2, 3] float64, metres; rays are clipped to it.
    cameras: table [P] of all usable photos.
    photo_names: P names.
    split: rows of photos: `train`, `validation`, `test`.
    options: sampling, as in training.
    background: rgb of evaluation.
    num_steps: training steps done.
    downscale: full-size pixels per pixel that training and evaluation see.
    extra_paths: scenes that the run had when it had done these steps, beside
      `config.data.path`.
  """

  workdir: pathlib.Path
  config: ml_collections.ConfigDict
  model: scene_model.SceneModel
  spec: scene_model.ModelSpec
  octree: tree_lib.Octree
  sample_aabb: np.ndarray
  cameras: cameras_lib.Cameras
  photo_names: tuple[str, ...]
  split: dict[str, np.ndarray]
  options: render_rays.RenderOptions
  background: tuple[float, float, float]
  num_steps: int
  downscale: float
  extra_paths: tuple[str, ...] = ()

  def photo_row(self, name: str) -> int:
    """Row of a photo by its name."""
    if name not in self.photo_names:
      raise errors.InputError(
          f'photo: got {name!r}, expected one of the'
          f' {len(self.photo_names)} photos of {self.workdir}, such as'
          f' {self.photo_names[0]!r}'
      )
    return self.photo_names.index(name)

  def appearance(self, photo: str | None = None) -> np.ndarray:
    """[A] embedding of a photo, or the mean over training photos."""
    if photo in (None, 'mean'):
      return fitting.mean_appearance(self.model.appearance, self.split['train'])
    return np.asarray(self.model.appearance[self.photo_row(photo)])

  def render(
      self,
      camera: cameras_lib.Cameras | str,
      *,
      appearance: Any = None,
      **options,
  ) -> render_image.ImageOutputs:
    """Renders a view.

    Args:
      camera: a single row, or the name of a photo.
      appearance: [A] embedding, a photo's name, or None for the mean.
      **options: of `render_image.render_image`; `pixel_size` is 1 (the
        camera's own pixels) unless given, `background` and `max_memory_gb`
        are the run's.

    Returns:
      ImageOutputs.
    """
    if isinstance(camera, str):
      camera = cameras_lib.take(self.cameras, self.photo_row(camera))
    if appearance is None or isinstance(appearance, str):
      appearance = self.appearance(appearance)
    options.setdefault('background', self.background)
    options.setdefault('max_memory_gb', self.config.max_memory_gb or None)
    sampling = options.pop('options', self.options)
    return render_image.render_image(
        self.model,
        self.spec,
        camera,
        self.octree,
        appearance,
        sampling,
        **options,
    )

  def with_occupancy(self, **options) -> 'LoadedScene':
    """The scene with a grid of cells that are not empty; the rest is skipped.

    Args:
      **options: of `render.occupancy.make_occupancy`.
    """
    grid = occupancy.make_occupancy(self.model, self.spec, **options)
    return dataclasses.replace(self, model=self.model._replace(occupancy=grid))

  def render_progressively(
      self,
      camera: cameras_lib.Cameras | str,
      *,
      levels: tuple[int, ...] = progressive.LEVELS,
      pyramid_level: int = 0,
      **options,
  ) -> Iterator[progressive.Progress]:
    """A coarse picture at once, then finer ones.

    Args:
      camera: a single row, or the name of a photo.
      levels: halvings of each picture, falling to 0.
      pyramid_level: of the final picture.
      **options: as `render` takes them.

    Returns:
      Iterator of Progress; the last is final, and what `render` gives.
    """
    return progressive.coarse_to_fine(
        functools.partial(self.render, camera, **options),
        levels=levels,
        pyramid_level=pyramid_level,
    )

  def open_pyramid(self) -> pyramid_lib.PhotoPyramid:
    """Pixels of the photos, row by row as `cameras` has them.

    Raises:
      InputError: the scene's photos are no longer those of the run.
    """
    return stored_run.open_pyramid(
        self.config, self.workdir, self.downscale, self.photo_names,
        self.extra_paths,
    )  # fmt: skip

  def evaluate(
      self,
      split: str = 'test',
      *,
      appearance: Any = None,
      max_memory_gb: float | None = None,
      show_progress: bool = True,
      **protocol,
  ) -> dict[str, Any]:
    """Scores photos (see `evaluation.evaluate`).

    Args:
      split: `test`, `train` or `validation`.
      appearance: [A] embedding, a photo's name, or None for the mean.
      max_memory_gb: see `render_image`; None is the run's.
      show_progress: draw a progress bar.
      **protocol: other fields of `evaluate.Protocol`, such as `fit`.

    Returns:
      What `eval.json` says.

    Raises:
      InputError: the split has no photos.
    """
    rows = self.split.get(split, ())
    if not len(rows):
      raise errors.InputError(
          f'{self.workdir}/split.json: {split}: got no photos, expected some'
          ' to score'
      )
    if appearance is None or isinstance(appearance, str):
      appearance = self.appearance(appearance)
    subject = photo_scores.Subject(
        self.model, self.spec, self.octree, self.options, self.background,
        max_memory_gb or self.config.max_memory_gb or None,
    )  # fmt: skip
    fields = {'seed': self.config.seed, **protocol}
    return evaluate_lib.evaluate(
        subject,
        evaluate_lib.PhotoTable(
            self.photo_names, self.cameras, self.open_pyramid()
        ),
        rows,
        evaluate_lib.Protocol(
            train_rows=self.split['train'], appearance=appearance, **fields
        ),
        num_steps=self.num_steps,
        show_progress=show_progress,
    )


def _check_parameters(params, spec, folder) -> None:
  """Refuses parameters of another model than the config and octree say."""
  try:
    table = params['nodes']['table']
    found = {
        'appearance': params['appearance'].shape[-1],
        'table': table.shape[1:],
    }
  except (KeyError, TypeError, IndexError):
    raise errors.InputError(
        f'{folder}: got no params/nodes and params/appearance, expected a'
        ' training state'
    ) from None
  grid = spec.field.grid
  expected = {
      'appearance': spec.appearance_dim,
      'table': (grid.num_rows, grid.num_features),
  }
  for name, value in expected.items():
    if found[name] != value:
      raise errors.InputError(
          f'{folder}: {name}: got {found[name]}, expected {value} as'
          ' config.json and octree.npz have it'
      )


def _with_tuples(value):
  """Lists of JSON as the tuples that a config has."""
  if isinstance(value, dict):
    return {k: _with_tuples(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_with_tuples(v) for v in value)
  return value


def open_store(
    location, kind: type[store_scene.StoreScene] = store_scene.StoreScene
) -> store_scene.StoreScene:
  """Opens an exported node store; what renders is read as it is needed.

  Args:
    location: folder, or an http, s3 or gs address.
    kind: of scene.

  Returns:
    StoreScene.

  Raises:
    InputError: not a store, or one of another version.
  """
  store = node_store.open_store(location)
  stored = store.header.config
  try:
    config = ml_collections.ConfigDict(_with_tuples(stored))
    options = settings.render_options(config)
    background = tuple(config.background)
  except (AttributeError, KeyError, TypeError) as error:
    raise errors.InputError(
        f'{location}: config: {str(error).splitlines()[0]}, expected the config'
        ' of a run'
    ) from None
  return kind(
      store,
      options=options,
      background=background,
      max_memory_gb=config.max_memory_gb or None,
      implementation=config.implementation or None,
  )


def load(
    workdir, *, step: int | None = None
) -> LoadedScene | store_scene.StoreScene:
  """Loads a trained scene.

  Args:
    workdir: folder of a run, or an exported node store (a folder or address).
    step: a checkpoint's step; None is the newest.

  Returns:
    LoadedScene, or a StoreScene, which renders alike.

  Raises:
    InputError: not a run's folder, or its files do not fit together.
  """
  if node_store.is_store(workdir):
    return open_store(workdir)
  workdir = pathlib.Path(workdir)
  if not (workdir / workdir_lib.CONFIG).is_file():
    raise errors.InputError(
        f'{workdir}: got no {workdir_lib.CONFIG}, expected the folder of a'
        ' trained run'
    )
  config = workdir_lib.load_config(workdir)
  if step is None and (stored := out_of_core.store_of(workdir)):
    scene = open_store(stored, stored_run.StoredRun)
    scene.folder = workdir
    scene.max_memory_gb = out_of_core.rendering_cap_gb(config.max_memory_gb)
    return scene
  folder = workdir / 'checkpoints'
  num_steps, state = checkpoint.CheckpointManager(folder).restore(step=step)
  stage = extension_lib.stage_of_step(config, workdir, num_steps)
  octree, cameras = stage.files.octree, stage.files.cameras
  try:
    spec = settings.model_spec(config, octree)
    options = settings.render_options(config)
    background = tuple(config.background)
    joins, growth_steps = extended_run.growth_of_stage(config, stage)
  except (AttributeError, KeyError) as error:
    raise errors.InputError(
        f'{workdir / workdir_lib.CONFIG}: {str(error).splitlines()[0]},'
        ' expected the config of a run'
    ) from None
  params = state.get('params', {})
  _check_parameters(params, spec, folder)
  num_slots = params['nodes']['table'].shape[0]
  slots = node_pool.identity_slots(octree.num_nodes, num_slots)
  # Levels that had not joined yet know nothing: ancestors stand in for them.
  tree = growth.active_tree(
      scene_model.tree_arrays(octree, slots),
      jnp.asarray(joins, jnp.int32),
      num_steps,
      growth_steps,
  )
  tree = pruning.without_pruned(workdir, tree, octree, num_steps)
  aabb = scene_model.sample_aabb_in_root_units(octree, stage.files.sample_aabb)
  model = scene_model.SceneModel(
      tree=tree,
      nodes=jax.tree.map(jnp.asarray, params['nodes']),
      appearance=jnp.asarray(params['appearance']),
      sample_aabb=jnp.asarray(aabb),
  )
  return LoadedScene(
      workdir=workdir,
      config=config,
      model=model,
      spec=spec,
      octree=octree,
      sample_aabb=stage.files.sample_aabb,
      cameras=cameras,
      photo_names=stage.files.photo_names,
      split=stage.files.split,
      options=options,
      background=background,
      num_steps=num_steps,
      downscale=stage.downscale or settings.training_downscale(config, cameras),
      extra_paths=stage.paths,
  )
