"""A scene that is rendered from a node store, in bounded memory."""

import time
from typing import Any, Iterator

import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import progressive, render_image, render_rays
from infnerf_jax.storage import node_store
from infnerf_jax.streaming import budget as budget_lib
from infnerf_jax.streaming import pager as pager_lib
from infnerf_jax.streaming import view_tiles, working_set

# Bytes of a pixel on the host: all outputs in float32 and a copy of the rays'.
_PIXEL_BYTES = 96
_MIN_PICTURE = 320 * 240 * _PIXEL_BYTES


class StoreScene:
  """Renders like a LoadedScene, from what it reads of a store as it goes.

  Attributes:
    workdir: the store's location.
    store: open.
    spec: static facts of the model.
    octree: the nodes from the root to one worth looking at, no more.
    options: sampling, as in training.
    background: rgb of evaluation.
    downscale: full-size pixels per pixel of training.
    max_memory_gb: cap of all bytes held, None is none.
    evict_above: see `Pager`.
    frame_report: of the last picture: `level_bias` in octaves, nodes, rows
      read, nodes and pages that were damaged or out of reach, seconds that
      reads were waited for.
  """

  def __init__(
      self,
      store: node_store.NodeStore,
      *,
      options: render_rays.RenderOptions,
      background=(0.0, 0.0, 0.0),
      max_memory_gb: float | None = None,
      evict_above: float = 1.0,
      implementation: str | None = None,
  ):
    """Reads nothing but what the arguments say."""
    self.store, self.options = store, options
    self.workdir = store.location
    self.background = tuple(background)
    self.max_memory_gb, self.evict_above = max_memory_gb, evict_above
    header = store.header
    self.spec = header.model_spec(implementation)
    self.octree = header.focus_octree()
    self.downscale = header.downscale
    self.frame_report: dict[str, Any] = {}
    self._views = None
    self._pager: pager_lib.Pager | None = None
    self._pager_key = None

  @property
  def num_nodes(self) -> int:
    """Of the whole tree."""
    return self.store.header.num_nodes

  @property
  def config(self) -> dict[str, Any]:
    """The run's, as JSON has it."""
    return self.store.header.config

  @property
  def views(self) -> dict[str, np.ndarray]:
    """Arrays of the photos, read when they are first asked for."""
    if self._views is None:
      self._views = self.store.read_views()
    return self._views

  @property
  def cameras(self) -> cameras_lib.Cameras:
    """Table [P] of the photos."""
    names = cameras_lib.Cameras._fields
    return cameras_lib.Cameras(*(self.views[f'camera_{n}'] for n in names))

  @property
  def photo_names(self) -> tuple[str, ...]:
    return tuple(str(name) for name in self.views['names'])

  @property
  def split(self) -> dict[str, np.ndarray]:
    """Rows of photos: `train`, `validation`, `test`."""
    parts = ('train', 'validation', 'test')
    return {p: self.views.get(f'split_{p}', np.zeros(0, int)) for p in parts}

  def photo_row(self, name: str) -> int:
    """Row of a photo by its name."""
    if name not in self.photo_names:
      raise errors.InputError(
          f'photo: got {name!r}, expected one of the'
          f' {len(self.photo_names)} photos of {self.workdir}'
      )
    return self.photo_names.index(name)

  def appearance(self, photo: str | None = None) -> np.ndarray:
    """[A] embedding of a photo, or the mean over training photos."""
    table = np.asarray(self.views['appearance'], np.float32)
    if photo not in (None, 'mean'):
      return table[self.photo_row(photo)]
    rows = self.split['train']
    return (table[rows] if len(rows) else table).mean(axis=0)

  def frame(self, options=None) -> working_set.Frame:
    """Where the tree lies, and how `options` choose levels."""
    box = np.asarray(self.store.header.sample_aabb)
    options = options or self.options
    return working_set.make_frame(self.octree, self.spec, options, box)

  def pager(self, options=None, picture_bytes: int = 0) -> pager_lib.Pager:
    """The pager of the present cap and options; made where they change."""
    options = options or self.options
    held = _MIN_PICTURE
    while held < picture_bytes:
      held *= 2
    if not self.max_memory_gb:
      held = 0
    key = (self.max_memory_gb, options, held, self.evict_above)
    if key != self._pager_key:
      self.close()
      budget = budget_lib.plan(
          self.store.header, self.spec, options,
          1e9 * (self.max_memory_gb or 0), picture_bytes=held,
      )  # fmt: skip
      self._pager = pager_lib.Pager(
          self.store, self.frame(options), budget, evict_above=self.evict_above
      )
      self._pager_key = key
    return self._pager

  def close(self) -> None:
    """Gives all rows back."""
    if self._pager is not None:
      self._pager.close()
    self._pager = self._pager_key = None

  def memory_report(self) -> dict[str, Any]:
    """See `Pager.memory_report`."""
    return (self._pager or self.pager()).memory_report()

  def resident_keys(self) -> np.ndarray:
    """[num_slots] int64 keys of the nodes by slot, 0 where one is free."""
    return (self._pager or self.pager()).keys_by_slot()

  def prefetch(self, camera, *, pixel_size: float = 1.0) -> None:
    """Begins to read what a view to come needs, now.

    Along a path `render(..., following=)` is better: what the next view needs
    is read once the present one has all that it needs itself.

    Args:
      camera: a single row.
      pixel_size: width of a picture's pixel in full-size pixels.
    """
    if self._pager is not None:
      stride = self._pager_key[1].largest_stride
      self._pager.prefetch(
          view_tiles.view_tiles(
              camera, pixel_size=pixel_size, proposal_stride=stride
          )
      )

  def render(
      self, camera: cameras_lib.Cameras | str, **options
  ) -> render_image.ImageOutputs:
    """Renders a view once all that it needs is resident.

    Args:
      camera: a single row, or the name of a photo.
      **options: `appearance` ([A], a photo's name, None for the mean),
        `max_memory_gb` (the cap of all bytes held), `options` (sampling),
        `following` (the camera of the next view, whose nodes are read while
        this one is computed) and those of `render_image.render_image`.

    Returns:
      ImageOutputs; `frame_report` says what it took.

    Raises:
      InputError: the cap does not hold the root.
    """
    (last,) = self._steps(camera, options, step=None)
    return last.image

  def render_progressively(
      self,
      camera: cameras_lib.Cameras | str,
      *,
      step: int = 16,
      preview_level: int = 0,
      **options,
  ) -> Iterator[progressive.Progress]:
    """A first picture from what is resident, then finer ones.

    While a picture is computed, what the next one needs is read. What stays
    out of reach does not hold up the final picture: its report says so, and
    the next view asks again.

    Args:
      camera: a single row, or the name of a photo.
      step: rows that are read between two pictures.
      preview_level: halvings of all pictures but the final one.
      **options: as `render` takes them.

    Yields:
      Progress; the last is final.
    """
    return self._steps(camera, options, step, preview_level)

  def _steps(self, camera, options, step, preview_level=0):
    start = time.perf_counter()
    if isinstance(camera, str):
      camera = cameras_lib.take(self.cameras, self.photo_row(camera))
    appearance = options.pop('appearance', None)
    if appearance is None or isinstance(appearance, str):
      appearance = self.appearance(appearance)
    if cap := options.pop('max_memory_gb', None):
      self.max_memory_gb = cap
    sampling = options.pop('options', self.options)
    options.setdefault('background', self.background)
    following = options.pop('following', None)
    level = options.pop('pyramid_level', 0)
    pixel = options.get('pixel_size', 1.0) * 2.0**level
    size = render_image.image_size(camera, pixel_size=pixel)
    pager = self.pager(sampling, int(np.prod(size)) * _PIXEL_BYTES)
    options.setdefault('ray_block', pager.budget.ray_block)
    tiles = view_tiles.view_tiles(
        camera, pixel_size=pixel, proposal_stride=sampling.largest_stride
    )
    reads = None if step is None else 0
    if self.store.tree.damage:
      self.store.follow()  # perhaps a later commit has other pages
    while True:
      view = pager.prepare(tiles, max_reads=reads)
      final = not view.missing
      if not final:
        pager.prefetch(tiles)
      elif following is not None:
        self.prefetch(following, pixel_size=pixel)
      options['pyramid_level'] = level + (0 if final else preview_level)
      image = self._render_view(view, camera, appearance, sampling, options)
      self.frame_report = _report(view, image, self.store.tree)
      seconds = time.perf_counter() - start
      yield progressive.Progress(image, self.frame_report, final, seconds)
      if final:
        return
      reads = step

  def _render_view(self, view, camera, appearance, sampling, options):
    box = scene_model.sample_aabb_in_root_units(
        self.octree, self.store.header.sample_aabb
    )
    model = scene_model.SceneModel(
        tree=view.tree,
        nodes=view.nodes,
        appearance=jnp.asarray(appearance)[None],
        sample_aabb=jnp.asarray(box),
    )
    return render_image.render_image(
        model, self.spec, camera, self.octree, appearance, sampling, **options
    )


def _report(view: pager_lib.ResidentView, image, tree) -> dict[str, Any]:
  """What a picture took."""
  return {
      'level_bias': view.bias,
      'nodes_needed': view.num_nodes,
      'nodes_resident': view.num_resident,
      'nodes_missing': len(view.missing),
      'rows_read': view.num_read,
      'read_seconds': view.read_seconds,
      'render_seconds': image.seconds,
      'damaged': {f'{k:x}': why for k, why in view.damaged.items()},
      'unreachable': [f'{k:x}' for k in view.unreachable],
      # Their subtrees were out of sight, wherever they lie.
      'damaged_pages': {f'{k:x}': why for k, why in tree.damage.items()},
      'unreachable_pages': [f'{k:x}' for k in tree.out_of_reach],
  }
