"""A trained run as a node store, and what its precision costs."""

import pathlib
from typing import Any, Callable

import jax
import numpy as np

from infnerf_jax import errors, json_files, provenance
from infnerf_jax import progress as progress_lib
from infnerf_jax.evaluation import metrics
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.products import surroundings
from infnerf_jax.render import render_image
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.storage import node_store, node_store_writer, row_codec
from infnerf_jax.training import setup
from infnerf_jax.training import workdir as workdir_lib

KINDS = (node_store.KIND,)


def _focus(cameras, octree: tree_lib.Octree) -> tuple[int, int, int, int]:
  """The finest node where paths look."""
  finest = np.flatnonzero(octree.level == octree.level.max())
  centers = tree_lib.node_aabb(octree, finest).mean(axis=-2)
  target = surroundings.surround(cameras, octree).target
  away = np.linalg.norm(centers - target, axis=-1)
  node_id = finest[np.argmin(away)]
  return int(octree.level[node_id]), *map(int, octree.coord[node_id])


def active_part(loaded) -> tuple[tree_lib.Octree, np.ndarray]:
  """The nodes of a run that have parameters of their own.

  Levels that have not joined yet in a growing run know nothing: a store
  without them shows what the run shows.

  Args:
    loaded: a LoadedScene.

  Returns:
    (Octree, [N] slots of its nodes).
  """
  slots = np.asarray(loaded.model.tree.slot_of_node)[: loaded.octree.num_nodes]
  octree = loaded.octree
  active = slots >= 0
  cells = [
      octree.coord[active & (octree.level == level)]
      for level in range(int(octree.level[active].max()) + 1)
  ]
  part = tree_lib.from_coords(
      cells, center=octree.center, side=octree.side, grid_size=octree.grid_size
  )
  # Rows run level by level in Morton order in both.
  return part, slots[active]


def _georeference(loaded) -> Any:
  """The scene's `scene.json`, None where there is none or it is gone."""
  try:
    folder = setup.scene_folder(loaded.config, loaded.workdir)
    return json_files.read_json(pathlib.Path(folder) / 'scene.json')
  except errors.InputError:
    return None


def store_header(
    loaded, precision: str, octree: tree_lib.Octree | None = None
) -> node_store.Header:
  """What the store of a run says of itself.

  Args:
    loaded: a LoadedScene.
    precision: of the parameters.
    octree: the part that is stored, None is all.

  Returns:
    Header; `create_store` fills in what follows from the tree.
  """
  field = loaded.spec.field
  shape = {name: getattr(field, name) for name in _FIELD_NAMES}
  shape['grid'] = {name: getattr(field.grid, name) for name in _GRID_NAMES}
  return node_store.Header(
      generation=0,
      views_version=0,
      num_nodes=0,
      nodes_by_level=(),
      center=(0.0, 0.0, 0.0),
      side=0.0,
      grid_size=0,
      sample_aabb=tuple(map(tuple, np.asarray(loaded.sample_aabb).tolist())),
      appearance_dim=loaded.spec.appearance_dim,
      field=shape,
      groups=(node_store.parameter_group(field, precision),),
      focus=_focus(loaded.cameras, octree or loaded.octree),
      config=workdir_lib.config_to_json(loaded.config),
      downscale=float(loaded.downscale),
      georeference=_georeference(loaded),
      provenance={**provenance.describe(), 'num_steps': loaded.num_steps},
  )


_FIELD_NAMES = ('hidden_width', 'num_geometry', 'ray_input_dim')
_GRID_NAMES = (
    'num_grid_scales', 'table_size', 'num_features', 'base_resolution',
    'finest_resolution',
)  # fmt: skip


def _views(loaded) -> dict[str, np.ndarray]:
  """Arrays of the photos as a store has them."""
  arrays = {f'camera_{k}': v for k, v in loaded.cameras._asdict().items()}
  arrays['names'] = np.array(loaded.photo_names, dtype=np.str_)
  arrays['appearance'] = np.asarray(loaded.model.appearance, np.float32)
  for part, rows in loaded.split.items():
    arrays[f'split_{part}'] = np.asarray(rows, np.int64)
  return arrays


def stored_nodes(loaded, group: row_codec.RowGroup):
  """The run's parameters as they come back from a store.

  Args:
    loaded: a LoadedScene.
    group: the parameters' precision.

  Returns:
    (stacked float32 parameters, bytes of all chunks).
  """
  nodes, num_bytes = jax.tree.map(np.array, loaded.model.nodes), 0
  _, slots = active_part(loaded)
  for slot in slots.tolist():
    row = node_store.params_to_row(nodes, slot)
    data = row_codec.encode_row(group, slot, row)
    num_bytes += len(data)
    params = node_store.row_to_params(row_codec.decode_row(group, slot, data))
    jax.tree.map(lambda all_rows, one: _put(all_rows, slot, one), nodes, params)  # noqa: B023
  return jax.tree.map(jax.numpy.asarray, nodes), num_bytes


def _put(stacked, slot, row):
  stacked[slot] = row


def _photo_or_none(loaded):
  """Reads (rgb, valid) of a photo's row; None where the photos are gone."""
  try:
    pyramid = loaded.open_pyramid()
  except errors.InputError:
    return None
  return lambda row: pyramid_lib.photo(pyramid, row, 0)


def _test_views(loaded, max_views: int) -> np.ndarray:
  """Rows of at most so many test photos, all photos where none are."""
  rows = loaded.split['test']
  rows = rows if len(rows) else np.arange(len(loaded.photo_names))
  rows = rows[np.linspace(0, len(rows) - 1, max_views).round().astype(int)]
  return np.unique(rows)


def _pictures(loaded, model, rows) -> list[np.ndarray]:
  """The photos' views with a model's parameters."""
  return [
      render_image.render_image(
          model, loaded.spec, cameras_lib.take(loaded.cameras, row),
          loaded.octree, loaded.appearance(), loaded.options,
          background=loaded.background, pixel_size=loaded.downscale,
          outputs=('rgb',),
      ).rgb
      for row in rows
  ]  # fmt: skip


def compare_precisions(loaded, *, max_views: int = 8) -> dict[str, Any]:
  """Sizes of a run at every precision, and what each costs in pictures.

  Args:
    loaded: a LoadedScene.
    max_views: at most this many test photos' cameras.

  Returns:
    {precision: {`bytes`, `share_of_float32` (of the parameters in memory),
    `num_views`, `psnr_against_float32` (dB between renders, lowest of the
    views; None where they are equal), and, where the photos are at hand,
    `psnr` and `psnr_loss` (dB against the photos)}}.
  """
  rows, photo = _test_views(loaded, max_views), _photo_or_none(loaded)
  exact = _pictures(loaded, loaded.model, rows)
  score = lambda pictures: float(
      np.mean([metrics.psnr(p, *photo(r)) for p, r in zip(pictures, rows)])
  )
  num_nodes, found = len(active_part(loaded)[1]), {}
  for precision in row_codec.PRECISIONS:
    group = node_store.parameter_group(loaded.spec.field, precision)
    nodes, num_bytes = stored_nodes(loaded, group)
    if precision == 'float32':
      pictures = exact  # its rows come back as they were
    else:
      pictures = _pictures(loaded, loaded.model._replace(nodes=nodes), rows)
    error = max(
        np.mean(np.square(a - b), dtype=np.float64)
        for a, b in zip(exact, pictures)
    )
    found[precision] = {
        'bytes': num_bytes,
        'share_of_float32': num_bytes / (group.nbytes * num_nodes),
        'num_views': len(rows),
        'psnr_against_float32': float(-10 * np.log10(error)) if error else None,
    }
    if photo is not None:
      found[precision]['psnr'] = score(pictures)
      found[precision]['psnr_loss'] = score(exact) - score(pictures)
  return found


def _check_out(out) -> None:
  """Refuses a folder that cannot be made; addresses answer for themselves."""
  if '://' in str(out):
    return
  try:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.InputError(
        f'--out: {out}: {error.strerror}, expected a folder that can be written'
    ) from None


def export_store(
    loaded,
    out,
    *,
    precision: str = 'bfloat16',
    max_views: int = 8,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
  """Writes a run as a node store.

  Args:
    loaded: a LoadedScene.
    out: folder, or an address of a bucket.
    precision: out of `row_codec.PRECISIONS`.
    max_views: pictures that measure what precisions cost; 0 is none.
    progress: called with the number of nodes written.

  Returns:
    Size and cost of the precision; `precisions` has those of all.

  Raises:
    InputError: another precision, or something else at `out`.
    OSError: the disk is full.
  """
  if precision not in row_codec.PRECISIONS:
    raise errors.InputError(
        f'--precision: got {precision!r}, expected one of'
        f' {", ".join(row_codec.PRECISIONS)}'
    )
  _check_out(out)
  octree, slots = active_part(loaded)
  header = store_header(loaded, precision, octree)
  group = header.group()
  nodes = jax.tree.map(np.asarray, loaded.model.nodes)
  try:
    num_bytes = node_store_writer.create_store(
        out,
        header,
        octree,
        lambda i: {group.name: node_store.params_to_row(nodes, slots[i])},
        views=_views(loaded),
        progress=progress,
    )
  except ValueError as e:
    raise errors.InputError(f'{loaded.workdir}: {e}') from e
  full = group.nbytes * octree.num_nodes
  report = {
      'kind': node_store.KIND,
      'precision': precision,
      'num_nodes': octree.num_nodes,
      'bytes': num_bytes,
      'float32_bytes': full,
      'share_of_float32': num_bytes / full,
  }
  if max_views:
    compared = compare_precisions(loaded, max_views=max_views)
    report = {**compared[precision], **report, 'precisions': compared}
  return report


def export_with_progress(loaded, out, **options) -> dict[str, Any]:
  """`export_store` under a progress bar."""
  if not hasattr(loaded, 'model'):
    raise errors.InputError(
        f'--workdir: got the store {loaded.workdir}, expected the folder of a'
        ' trained run'
    )
  total = loaded.octree.num_nodes
  with progress_lib.Progress(total, description='export (nodes)') as bar:
    return export_store(loaded, out, progress=bar.update, **options)


def verify_store(location) -> str:
  """Reads all of a store.

  Args:
    location: folder, or an address of a bucket.

  Returns:
    A line that says that nothing is damaged.

  Raises:
    InputError: something is; each is listed on stdout before.
  """
  store = node_store.open_store(location)
  with progress_lib.Progress(
      store.header.num_nodes * len(store.header.groups),
      description='verify (chunks)',
  ) as bar:
    damage = node_store.verify(store, bar.update)
  for item in damage:
    print(f'damaged: {item["chunk"]}: {item["reason"]}')
  if damage:
    raise errors.InputError(
        f'{location}: found {len(damage)} damaged values, expected none'
    )
  return f'{location}: {store.header.num_nodes} nodes, nothing is damaged'
