"""What learns when photos are added to a finished run, and from which rays.

New nodes learn, and old ones that rays of the new photos pass through or end
in, and the ancestors of both. All other nodes, and what was learned of the old
photos themselves, stay as they are to the bit.

New photos give a share of each batch. Of the rest, old photos replay: half
where nodes learn, so that what those showed before is not forgotten, half
anywhere, so that nothing appears before what stays.
"""

import dataclasses
import functools
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import render_rays
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import photo_groups, ray_batches
from infnerf_jax.training import coverage

_GRID = 16  # cells along a photo's sides whose rays are followed
_NUM_SAMPLES = 32  # along each of them
_BLOCK = 1 << 12
# A step's footprints are jittered by up to half an octave.
_JITTERS = (2**-0.5, 1.0, 2**0.5)
# Surfaces lie about where points do.
_BEYOND = 1.02
_SEED_STRIDE = 0xD1B54A32D192ED03


class Retraining(NamedTuple):
  """Who learns, and from which photos.

  Attributes:
    learns: [N] bool nodes.
    new_photos: [P] bool.
    new_rows: training photos that were added.
    old_rows: training photos of the run as it was.
    maps: in which nodes rays end.
  """

  learns: np.ndarray
  new_photos: np.ndarray
  new_rows: np.ndarray
  old_rows: np.ndarray
  maps: focus_lib.NodeMaps


def _passed(shown):
  """Jitted: [N] bool nodes that rays of (photo, pixel, size) pass through."""
  model, cameras = shown.model(), shown.surroundings.cameras

  @jax.jit
  def passed(found, photo, pix, pixel_size, distance):
    rays = cameras_lib.camera_rays(
        cameras, photo, pix, pixel_size, root_side=shown.spec.root_side
    )
    place = (jnp.arange(_NUM_SAMPLES) + 1.0) / _NUM_SAMPLES
    t = _BEYOND * distance[:, None] * place  # [B, S]
    node = render_rays.locate_samples(
        None, model, shown.spec, rays, t, policy=shown.policy
    )[0]
    # Nothing is known of photos without points.
    node = jnp.where(distance[:, None] > 0, node, 0)
    return found.at[node.reshape(-1)].set(True)

  return passed


def touched_nodes(shown: coverage.Photographed, photo_rows) -> np.ndarray:
  """Nodes that rays of photos pass through up to the surfaces they show.

  Args:
    shown: by all photos.
    photo_rows: of the photos that are meant.

  Returns:
    [N] bool.
  """
  photo, pix, distance = shown.cells(_GRID, np.asarray(photo_rows))
  passed = _passed(shown)
  found = jnp.zeros(shown.surroundings.joins.shape[0], bool)
  for pixel_size in shown.pixel_sizes:
    for jitter in _JITTERS:
      for start in range(0, len(photo), _BLOCK):
        block = functools.partial(_block, start=start)
        found = passed(
            found,
            block(photo.astype(np.int32)),
            block(pix.astype(np.float32)),
            np.full(_BLOCK, pixel_size * jitter, np.float32),
            block(distance),
        )
  return np.array(found)


def _block(x, *, start):
  """Rows from `start` on, filled up with the first to a block's length."""
  part = x[start : start + _BLOCK]
  fill = np.repeat(part[:1], _BLOCK - len(part), axis=0)
  return np.concatenate([part, fill])


def with_ancestors(octree: tree_lib.Octree, chosen) -> np.ndarray:
  """[N] bool nodes that are chosen or have a chosen descendant."""
  found = np.array(chosen, bool)
  for level in range(octree.num_levels - 1, 0, -1):
    rows = np.flatnonzero(found & (octree.level == level))
    found[octree.parent[rows]] = True
  return found


def ray_drawer(
    pyramid,
    retraining: Retraining,
    options: ray_batches.BatchOptions,
    observations: observations_lib.Observations | None,
    *,
    new_share: float,
    num_groups: int = 1,
) -> Callable[..., ray_batches.RayBatch]:
  """How batches are drawn.

  Args:
    pyramid: PhotoPyramid.
    retraining: see `Retraining`.
    options: of the whole batch.
    observations: where the photos see sparse points.
    new_share: of the rays, from photos that were added.
    num_groups: of photos, see `photo_groups`.

  Returns:
    (step, rays=None) to a RayBatch: some or all of a step's rays, a function
    of seed and step.
  """
  group = lambda rows: photo_groups.group_photos(rows, num_groups, options.seed)
  new, old = group(retraining.new_rows), group(retraining.old_rows)
  # A focus remembers the photos of its group.
  focuses = [
      focus_lib.Focus(retraining.maps, retraining.learns.astype(np.float64))
      for _ in old
  ]

  def draw(step: int, rays: slice | None = None) -> ray_batches.RayBatch:

    def of_group(g, options):
      counts = _counts(options.num_rays, new_share)
      sources = ((new[g], None), (old[g], focuses[g]), (old[g], None))
      return _mixed(pyramid, sources, counts, options, step, observations)

    return photo_groups.rays_of_groups(of_group, options, num_groups, rays)

  return draw


def _counts(num_rays, new_share):
  """Rays of new photos, of old ones where nodes learn, of old ones anywhere."""
  new = int(np.clip(round(new_share * num_rays), 1, num_rays))
  focused = (num_rays - new + 1) // 2
  return new, focused, num_rays - new - focused


def _mixed(pyramid, sources, counts, options, step, observations):
  """A batch of several sources' rays, dealt out evenly over its length."""
  parts, places = [], []
  for i, ((rows, focus), count) in enumerate(zip(sources, counts, strict=True)):
    if not count:
      continue
    seed = (options.seed + i * _SEED_STRIDE) % 2**64
    mine = dataclasses.replace(
        options,
        num_rays=count,
        seed=seed,
        # All sources share the memory for decoded photos.
        window_photos=max(1, options.window_photos // len(sources)),
    )
    parts.append(
        ray_batches.sample_batch(pyramid, rows, mine, step, observations, focus)
    )
    places.append((np.arange(count) + 0.5) / count)
  order = np.argsort(np.concatenate(places), kind='stable')
  fields = map(np.concatenate, zip(*parts, strict=True))
  return ray_batches.RayBatch(*(x[order] for x in fields))
