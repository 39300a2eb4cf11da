"""Nodes that a view's rays meet: what rendering could address at all.

Rays all over the picture are sampled far more densely than a picture's are, and
every sample is located as rendering locates it. No densities are looked at: a
node that lies behind a wall counts. So this is a lower bound of what a pager
has to hold, and working sets are held against it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.render import ray_block, render_rays, sampling

_ACROSS = 64  # rays along a picture's longer side
_NUM_SAMPLES = 512


@functools.partial(jax.jit, static_argnames=('spec', 'options'))
def _touched(tree, aabb, cameras, pix, pixel_size, *, spec, options):
  """[N] bool nodes that rays of one camera meet."""
  num = len(pix)
  model = scene_model.SceneModel(tree, None, None, aabb)
  rays = cameras_lib.camera_rays(
      cameras, jnp.zeros(num, jnp.int32), pix, jnp.full(num, pixel_size),
      root_side=spec.root_side,
  )  # fmt: skip
  sdist = sampling.stratified(None, (num,), _NUM_SAMPLES)
  limits = render_rays.ray_limits(model, spec, rays, options)
  samples = render_rays.locate_round(
      None, model, spec, rays, sdist, limits, options, 0.0
  )
  samples = render_rays.with_coarse(
      samples, model, spec, rays, options.level_policy
  )
  return ray_block.touched_slots(
      (samples,), jnp.ones(num, bool), tree.slot_of_node.shape[0]
  )


class DenseRays:
  """Counts the nodes of one tree that views meet."""

  def __init__(self, octree: tree_lib.Octree, sample_aabb):
    """Uploads a tree.

    Args:
      octree: tree.
      sample_aabb: [2, 3] metres.
    """
    self._octree = octree
    self._tree = scene_model.tree_arrays(octree, np.arange(octree.num_nodes))
    self._aabb = jnp.asarray(
        scene_model.sample_aabb_in_root_units(octree, sample_aabb)
    )
    self._spec = scene_model.ModelSpec(
        field=None, root_side=octree.side, root_gsd=octree.root_gsd,
        max_level=octree.num_levels - 1, appearance_dim=0,
    )  # fmt: skip

  def touched(
      self,
      camera: cameras_lib.Cameras,
      options: render_rays.RenderOptions,
      *,
      pixel_size: float = 1.0,
  ) -> np.ndarray:
    """[N] bool: nodes that a view's samples ask for.

    Args:
      camera: a single row.
      options: whose near, far and levels count.
      pixel_size: width of a picture's pixel in full-size pixels.
    """
    size = np.array([float(camera.width), float(camera.height)])
    counts = np.ceil(_ACROSS * size / size.max()).astype(int)
    # From the middle of the first pixel to that of the last.
    ends = 0.5 * pixel_size
    axes = [np.linspace(ends, n - ends, k) for n, k in zip(size, counts)]
    pix = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    table = cameras_lib.Cameras(*(np.asarray(x)[None] for x in camera))
    return np.asarray(
        _touched(
            self._tree, self._aabb,
            scene_model.device_cameras(table, self._octree),
            jnp.asarray(pix, jnp.float32), np.float32(pixel_size),
            spec=self._spec, options=options,
        )
    )  # fmt: skip
