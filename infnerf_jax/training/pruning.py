"""Nodes of a trained run in which there is nothing: measured, hidden, reported.

Rays of the training photos, of all pyramid levels, are rendered once more: what
each node's densities give to each of them is measured, and what its parent's
would give in its place. `pruned.json` of a workdir lists the nodes of which
both is next to nothing, for the checkpoint of one step. Whoever renders, scores
or exports that checkpoint does without them: their nearest ancestor stands in,
as for any node that is not resident. The checkpoint itself keeps every row, so
that the run can go on.
"""

import functools
import pathlib
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import node_evaluation, node_pool, scene_model
from infnerf_jax.octree import prune
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays

REPORT = 'pruned.json'
_NUM_RAYS = 1 << 14
# Rays at once, times nodes.
_MAX_CELLS = 1 << 23


class Views(NamedTuple):
  """Rays that say what is seen of the nodes; R rays.

  Attributes:
    cameras: on the device.
    photo: [R] int32 rows of the cameras.
    pix: [R, 2] float32 full-size pixels.
    pixel_size: [R] float32 full-size pixels.
  """

  cameras: cameras_lib.DeviceCameras
  photo: np.ndarray
  pix: np.ndarray
  pixel_size: np.ndarray


def spread_views(
    device_cameras: cameras_lib.DeviceCameras,
    cameras: cameras_lib.Cameras,
    photo_rows,
    pixel_sizes: Sequence[float],
    *,
    num_rays: int = _NUM_RAYS,
) -> Views:
  """Rays spread evenly over photos, their areas and pyramid levels.

  Args:
    device_cameras: the table, on the device.
    cameras: the table [P].
    photo_rows: of the photos that are meant.
    pixel_sizes: full-size pixels of each pyramid level.
    num_rays: about how many.
  """
  rows = np.asarray(photo_rows)
  each = max(1, num_rays // (len(rows) * len(pixel_sizes)))
  # Two irrational steps fill a square evenly (Roberts' R2 sequence).
  place = np.arange(each)[:, None] * np.array([0.7548776662, 0.5698402910]) % 1
  size = np.stack([cameras.width, cameras.height], axis=-1)[rows]  # [M, 2]
  pix = (place[None] * size[:, None]).reshape(-1, 2)
  photo = np.repeat(rows, each)
  levels = len(pixel_sizes)
  return Views(
      device_cameras,
      np.tile(photo, levels).astype(np.int32),
      np.tile(pix, (levels, 1)).astype(np.float32),
      np.repeat(pixel_sizes, len(photo)).astype(np.float32),
  )


@functools.partial(jax.jit, static_argnames=('spec', 'options'))
def _shares(model, views, parent, octant, *, spec, options):
  """([N] own, [N] stand-in, [N] seen) of the rays of some views."""
  rays = cameras_lib.camera_rays(
      views.cameras, views.photo, views.pix, views.pixel_size,
      root_side=spec.root_side,
  )  # fmt: skip
  samples = render_rays.sampling_rounds(None, model, spec, rays, options)[-1]
  shape = samples.t.shape
  above = parent[samples.node_id]  # [R, S]
  slots = model.tree.slot_of_node
  slot_above = jnp.where(
      (above >= 0) & (samples.slot >= 0), slots[jnp.maximum(above, 0)], -1
  )
  position = 0.5 * (samples.position + octant[samples.node_id])
  is_root = (above == 0)[..., None]
  position = jnp.where(is_root, 0.25 + 0.5 * position, position)
  delta = jnp.diff(samples.tdist, axis=-1)

  def alpha(slot, position):
    raw = node_evaluation.node_density(
        model.nodes,
        model.tree,
        position.reshape(-1, 3),
        slot.reshape(-1),
        node_evaluation.ray_of_samples(samples.t),
        spec=spec,
    )
    density = scene_model.density(raw.reshape(shape), spec)
    value = -jnp.expm1(-density * delta)
    if options.opaque_end:
      value = value.at[:, -1].set(1.0)
    return jnp.where(slot >= 0, value, 0.0)

  own = alpha(samples.slot, samples.position)
  light = jnp.cumprod(1 - own, axis=-1)
  light = jnp.concatenate([jnp.ones_like(light[:, :1]), light[:, :-1]], -1)
  num_rays, num_nodes = shape[0], parent.shape[0]
  # Node N: of samples that no node evaluates.
  node = jnp.where(samples.slot >= 0, samples.node_id, num_nodes)
  ray = jnp.arange(num_rays)[:, None]

  def largest(share):
    by_node = jnp.zeros((num_rays, num_nodes + 1)).at[ray, node].add(share)
    return jnp.max(by_node, axis=0)[:-1]

  seen = jnp.zeros(num_nodes + 1, bool).at[node].set(True)[:-1]
  stand_in = alpha(slot_above, position)
  return largest(light * own), largest(light * stand_in), seen


def measure_shares(
    octree: tree_lib.Octree,
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    views: Views,
    gone,
) -> prune.Shares:
  """What nodes give to rays.

  Args:
    octree: tree.
    model: trained.
    spec: static facts.
    options: sampling.
    views: the rays.
    gone: [N] bool nodes that are left out.

  Returns:
    Shares.
  """
  slots = jnp.where(jnp.asarray(gone), -1, model.tree.slot_of_node)
  model = model._replace(tree=model.tree._replace(slot_of_node=slots))
  parent = jnp.asarray(octree.parent, jnp.int32)
  octant = jnp.asarray(octree.coord & 1, jnp.float32)
  total = len(views.photo)
  size = min(total, 4096, max(64, _MAX_CELLS // octree.num_nodes))
  found = prune.Shares(
      np.zeros(octree.num_nodes),
      np.zeros(octree.num_nodes),
      np.zeros(octree.num_nodes, bool),
  )
  for first in range(0, total, size):
    # The last ones overlap: all programs have one shape.
    part = slice(min(first, total - size), None)
    block = views._replace(
        photo=views.photo[part][:size],
        pix=views.pix[part][:size],
        pixel_size=views.pixel_size[part][:size],
    )
    new = _shares(model, block, parent, octant, spec=spec, options=options)
    found = prune.Shares(*map(np.maximum, found, map(np.asarray, new)))
  return found


def find_empty(
    octree: tree_lib.Octree,
    model: scene_model.SceneModel,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    views: Views,
    *,
    max_share: float,
    step: int,
) -> dict[str, Any]:
  """Measures what is seen of the nodes, and says which may go.

  Args:
    octree: tree.
    model: trained; nodes without a slot have no field of their own.
    spec: static facts.
    options: sampling.
    views: rays of training photos.
    max_share: a node that gives less of its colour to every ray is empty.
    step: of the model.

  Returns:
    What `pruned.json` says.
  """
  slots = np.asarray(model.tree.slot_of_node)[: octree.num_nodes]
  measure = functools.partial(
      measure_shares, octree, model, spec, options, views
  )
  gone, shares = prune.empty_nodes(
      octree, measure, max_share=max_share, candidates=slots >= 0
  )
  keys = tree_lib.node_key(octree.level, octree.coord)
  rows = np.flatnonzero(gone)
  asked = ~np.isnan(shares.own)
  empty = asked & shares.seen & (shares.own < max_share) & ~gone
  return {
      'step': step,
      'max_share': max_share,
      'num_rays': len(views.photo),
      'num_nodes': octree.num_nodes,
      'num_pruned': len(rows),
      'pruned_by_level': (
          np.bincount(octree.level[rows], minlength=octree.num_levels).tolist()
      ),
      'bytes_saved': len(rows) * node_pool.row_bytes(spec.field)['parameters'],
      'num_empty_but_parent_is_not': int(empty.sum()),
      'num_not_seen': int((asked & ~shares.seen).sum()),
      'pruned': [
          {
              'node_key': int(keys[row]),
              'level': int(octree.level[row]),
              'share': float(shares.own[row]),
              'parent_share': float(shares.stand_in[row]),
          }
          for row in rows
      ],
  }


def write(workdir, report: dict[str, Any]) -> None:
  """Puts the report of `find_empty` into a run's folder."""
  json_files.write_json_atomic(pathlib.Path(workdir) / REPORT, report)


def forget(workdir) -> None:
  """Takes the report away: all nodes of the run are there again."""
  (pathlib.Path(workdir) / REPORT).unlink(missing_ok=True)


def without_pruned(
    workdir, tree: scene_model.TreeArrays, octree: tree_lib.Octree, step: int
) -> scene_model.TreeArrays:
  """The tree of a checkpoint without the nodes that its report lists.

  Args:
    workdir: folder of the run.
    tree: of the checkpoint.
    octree: the same on the host.
    step: of the checkpoint; reports of other steps say nothing of it.

  Returns:
    TreeArrays.

  Raises:
    InputError: a file that is no such report.
  """
  path = pathlib.Path(workdir) / REPORT
  if not path.is_file():
    return tree
  try:
    report = json_files.read_json(path)
    if int(report['step']) != step:
      return tree
    gone = [int(node['node_key']) for node in report['pruned']]
  except (KeyError, TypeError, ValueError) as error:
    raise errors.InputError(
        f'{path}: got {error}, expected the report of pruned nodes'
    ) from None
  keys = tree_lib.node_key(octree.level, octree.coord)
  hidden = jnp.asarray(np.isin(keys, gone))
  slots = jnp.where(hidden, -1, tree.slot_of_node)
  return tree._replace(slot_of_node=slots)
