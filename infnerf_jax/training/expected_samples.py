"""How many of a step's samples each node will get, before any training.

For balancing the node shards: rays through sparse points as the photos see
them, the first sampling round spread along the ray, all later ones where
the point lies.
"""

import functools
from typing import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.models import scene_model
from infnerf_jax.render import render_rays, sampling
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.training import gradients, growth


def _some_rows(observations, num_rays):
  """([K] photo, [K] row) of at most `num_rays` sightings, evenly spread."""
  total = len(observations.distance)
  rows = np.arange(0, total, max(1, -(-total // num_rays)))
  photo = np.searchsorted(observations.offsets, rows, side='right') - 1
  return photo, rows


def _count(node_id, wanted, num_nodes):
  node_id, wanted = np.asarray(node_id), np.asarray(wanted)
  return np.bincount(node_id[wanted], minlength=num_nodes)


def expected_samples(
    observations: observations_lib.Observations,
    surroundings: gradients.Surroundings,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    *,
    pixel_sizes: Sequence[float],
    ray_shares: Sequence[float],
    num_rays: int = 4096,
) -> np.ndarray:
  """Samples of each node, as a mean over rays.

  Args:
    observations: sightings of sparse points.
    surroundings: tree, cameras and box, of a single device.
    spec: static facts.
    options: sampling.
    pixel_sizes: full-size pixels of each pyramid level.
    ray_shares: of the rays, by pyramid level; any unit.
    num_rays: sightings looked at.

  Returns:
    [N] float64, samples of a ray in each node; zeros without sightings.
  """
  num_nodes = surroundings.tree.slot_of_node.shape[0]
  photo, rows = _some_rows(observations, num_rays)
  expected = np.zeros(num_nodes)
  if not len(rows):
    return expected
  distance = jnp.asarray(observations.distance[rows, None])
  shares = np.asarray(ray_shares, np.float64) / np.sum(ray_shares)
  for pixel_size, share in zip(pixel_sizes, shares, strict=True):
    along, at_point = _nodes(
        surroundings,
        jnp.asarray(photo, jnp.int32),
        jnp.asarray(observations.pix[rows]),
        jnp.full(len(rows), pixel_size, jnp.float32),
        distance,
        spec=spec,
        options=options,
    )
    expected += share * _count(*along, num_nodes)
    later = sum(options.num_samples[1:])
    expected += share * later * _count(*at_point, num_nodes)
  return expected / len(rows)


@functools.partial(jax.jit, static_argnames=('spec', 'options'))
def _nodes(surroundings, photo, pix, pixel_size, distance, *, spec, options):
  """(node, whether wanted) of samples along rays, and at their points."""
  model = scene_model.SceneModel(
      surroundings.tree, None, None, surroundings.sample_aabb
  )
  rays = cameras_lib.camera_rays(
      surroundings.cameras, photo, pix, pixel_size, root_side=spec.root_side
  )
  sdist = sampling.stratified(None, (len(photo),), options.num_samples[0])
  limits = render_rays.ray_limits(model, spec, rays, options)
  along = render_rays.locate_round(
      None, model, spec, rays, sdist, limits, options, options.proposal_bias
  )
  node_id, slot, _, _ = render_rays.locate_samples(
      None, model, spec, rays, distance, policy=options.level_policy
  )
  return (along.node_id, along.slot >= 0), (node_id, slot >= 0)


def samples_of_phases(
    observations: observations_lib.Observations | None,
    surroundings: gradients.Surroundings,
    spec: scene_model.ModelSpec,
    options: render_rays.RenderOptions,
    growth_steps: tuple[int, ...],
    *,
    pixel_sizes: Sequence[float],
    ray_shares: Sequence[float],
) -> np.ndarray:
  """Samples of each node in every phase of a growing tree.

  Args:
    observations: sightings of sparse points, None: there are none.
    surroundings: of a single device.
    spec: static facts.
    options: sampling.
    growth_steps: steps at which levels join, see `growth.phase_starts`.
    pixel_sizes: full-size pixels of each pyramid level.
    ray_shares: of the rays, by pyramid level; any unit.

  Returns:
    [P, N] float64; zeros without sightings.
  """
  starts = growth.phase_starts(growth_steps)
  num_nodes = surroundings.tree.slot_of_node.shape[0]
  if observations is None:
    return np.zeros((len(starts), num_nodes))
  return np.stack(
      [
          expected_samples(
              observations,
              surroundings._replace(
                  tree=growth.active_tree(
                      surroundings.tree,
                      surroundings.joins,
                      step,
                      growth_steps,
                  )
              ),
              spec,
              options,
              pixel_sizes=pixel_sizes,
              ray_shares=ray_shares,
          )
          for step in starts
      ]
  )
