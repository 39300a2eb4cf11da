"""Training whose nodes do not all fit: what the loop asks for.

`make_route` decides whether a run pages. Its route draws the batches of each
stage, keeps the rows that its steps need in their slots, commits instead of
checkpoints, and counts how many samples every node got of those that it would
have got were all nodes resident. See docs/out_of_core.md.
"""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from infnerf_jax import errors, json_files, provenance
from infnerf_jax.octree import tree as tree_lib
from infnerf_jax.scene import focus as focus_lib
from infnerf_jax.scene import observations as observations_lib
from infnerf_jax.scene import ray_batches
from infnerf_jax.storage import leaves, row_store
from infnerf_jax.training import (
  capacity,
  coverage,
  gradients,
  paging,
  priors,
  residency,
  route,
  run_store,
  setup,
)  # fmt: skip
from infnerf_jax.training import state as state_lib
from infnerf_jax.training import step as step_lib

STORE = 'nodes'
REPORT = 'out_of_core.json'
# What rendering takes beside rows: programs, rays, a picture.
_BESIDE_ROWS_GB = 0.4
_COUNTS = 'samples_of_node'
# Steps whose counts of samples 32 bits hold.
_FLUSH_EVERY = 256
# Nodes with fewer samples say nothing of how samples are spread.
_MIN_SAMPLES = 1000


def store_of(workdir) -> pathlib.Path | None:
  """The store that a run without checkpoints keeps its nodes in, or None."""
  path = pathlib.Path(workdir) / STORE
  return path if row_store.is_row_store(path) else None


def rendering_cap_gb(max_memory_gb: float) -> float | None:
  """Cap of rendering from a run's store: the run's own counts rows alone."""
  return max_memory_gb + _BESIDE_ROWS_GB if max_memory_gb else None


def make_route(
    config, workdir, run: setup.Run, shape: tuple[int, int]
) -> 'PagedRoute | None':
  """The route of a run that pages its nodes, None where all are resident.

  A run that began to page goes on from its store, even where all its nodes
  would fit by now.

  Args:
    config: of the run.
    workdir: its folder.
    run: set-up.
    shape: data and node shards.

  Returns:
    PagedRoute, or None.

  Raises:
    InputError: the run has checkpoints of all its nodes and must page now, or
      is to page on several devices.
  """
  begun = store_of(workdir)
  if run.plan.capacity is None and begun is None:
    return None
  checkpoints = pathlib.Path(workdir) / 'checkpoints'
  if begun is None and any(checkpoints.glob('[0-9]*')):
    raise errors.InputError(
        f'{checkpoints}: found checkpoints of all nodes, which'
        f' config.max_memory_gb = {config.max_memory_gb:g} does not hold;'
        ' expected a cap that holds them (0: none) or another workdir'
    )
  if shape != (1, 1) or config.data.photo_groups > 1:
    raise errors.InputError(
        f'config.devices: got {shape[0]} x {shape[1]} devices and'
        f' {config.data.photo_groups} photo groups, expected one of each where'
        ' config.max_memory_gb does not hold all nodes'
    )
  return PagedRoute(config, workdir, run)


class PagedRoute:
  """Paging of one run: a route and what stands for its checkpoints.

  A context manager. See `route.OneDevice` for the methods of a route, whose
  state holds the rows of resident nodes.

  Attributes:
    store: where rows go.
    plan: what is resident when.
  """

  def __init__(self, config, workdir, run: setup.Run):
    """Opens or makes the store; see `make_route`."""
    self._config, self._run = config, run
    self._options = route.batch_options(config, run)
    self._key = setup.step_key(config)
    self._step = step_lib.make_train_step(
        run.plan.spec, run.render_options, run.step_options
    )
    self._workdir = pathlib.Path(workdir)
    octree, spec = run.plan.built.octree, run.plan.spec
    held = run.plan.capacity or capacity.all_resident(
        spec.field, octree.num_nodes
    )
    self._maps, mass = self._coverage(held, octree)
    step_options = run.step_options
    self.plan = residency.Plan(
        octree,
        held,
        mass,
        num_steps=max(step_options.lr_decay_steps, config.num_steps),
        growth_steps=step_options.growth_steps,
        rehearsal=step_options.growth_rehearsal,
    )
    location = store_of(workdir)
    if location is not None:
      self.store = row_store.RowStore(location)
    else:
      header = run_store.header(config, self._workdir, run)
      self.store = row_store.create(self._workdir / STORE, header, octree)
    key = setup.init_key(config)
    first_row = jax.jit(lambda i: paging.initial_row(key, i, spec.field))
    self._pager = paging.Pager(
        self.store,
        self.plan,
        tree_lib.node_key(octree.level, octree.coord),
        lambda node: first_row(jnp.int32(node)),
    )
    self._counts = np.zeros((2, octree.num_nodes), np.int64)
    self._fresh, self._num_fresh = None, 0
    self._focus = self._around = self._marks = None
    self._number = 0

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._pager.close()

  def _coverage(self, held, octree):
    """(NodeMaps or None, [N] mass): where rays end."""
    run = self._run
    if held.num_slots >= octree.num_nodes:
      return None, np.full(octree.num_nodes, 1 / octree.num_nodes)
    known = run.observations
    if known is None:
      # The losses do without them; planning does not.
      known = observations_lib.point_observations(
          run.plan.scene, run.plan.built.sample_aabb
      )
    num_levels = run.pyramid.sizes.shape[1]
    cameras = run.plan.scene.cameras
    maps = coverage.node_maps(
        known,
        cameras,
        run.surroundings,
        run.plan.spec,
        run.render_options.level_policy,
        [run.plan.downscale * 2.0**level for level in range(num_levels)],
    )
    mass = coverage.node_mass(
        maps, run.pyramid, run.split.train, self._options, run.observations,
        cameras, octree.num_nodes,
    )  # fmt: skip
    return maps, mass

  def draw(self, step: int) -> ray_batches.RayBatch:
    """The batch of a step; a function of seed and step."""
    return ray_batches.sample_batch(
        self._run.pyramid,
        self._run.split.train,
        self._options,
        step,
        self._run.observations,
        self._focus_of(self.plan.stage_at(step)),
    )

  def _focus_of(self, stage) -> focus_lib.Focus | None:
    if stage.weight is None:
      return None
    if self._focus is None or self._focus[0] != stage.index:
      focus = focus_lib.Focus(self._maps, stage.weight)
      self._focus = (stage.index, focus)
    return self._focus[1]

  def start(self, stored) -> state_lib.TrainState:
    """The state of the last commit; `step` fills its rows.

    Args:
      stored: None; there are no other checkpoints.
    """
    del stored
    state = route.initial_state(self._config, self._run)
    if not self.store.header.state_version:
      return state
    arrays = self.store.read_state()
    self._counts = arrays.pop(_COUNTS)
    try:
      dense = leaves.into_template(arrays, _without_rows(state))
    except ValueError as e:
      raise errors.InputError(f'{self.store.location}: {e}') from e
    dense = jax.tree.map(lambda x: jnp.array(x, copy=True), dense)
    return paging.with_rows(dense, paging.rows_of(state))

  def step(self, state, batch: ray_batches.RayBatch, number: int):
    """Makes resident what a step needs, and takes it; the state is donated."""
    if self._marks is None:
      self._marks = (0, 0, 0.0, time.monotonic(), number)
    rows = self._pager.enter(number, paging.rows_of(state))
    stage = self.plan.stage_at(number)
    if self._around is None or self._around[0] != stage.index:
      self._around = (stage.index, self._surroundings(stage))
    state, metrics = self._step(
        paging.with_rows(state, rows),
        route.device_batch(batch),
        self._around[1],
        self._key,
    )
    self._count(metrics)
    self._number = number + 1
    return state, metrics

  def whole(self, state) -> state_lib.TrainState:
    """The state as `save` takes it."""
    return state

  def _surroundings(self, stage) -> gradients.Surroundings:
    around, octree = self._run.surroundings, self.plan.octree
    pinned = self.plan.phases[stage.index[0]].pinned
    rows = lambda among: jnp.asarray(
        residency.prior_rows(octree, stage, pinned, among)
    )
    tree = around.tree._replace(
        slot_of_node=jnp.asarray(stage.slot_of_node),
        active=jnp.ones(octree.num_nodes, bool),
    )
    return around._replace(
        tree=tree,
        inner=rows(priors.inner_nodes(octree)),
        prior_nodes=rows(np.arange(octree.num_nodes)),
    )

  def _count(self, metrics) -> None:
    """Adds up the samples that each node got in a step."""
    fresh = metrics.samples_of_node
    self._fresh = fresh if self._fresh is None else self._fresh + fresh
    self._num_fresh += 1
    if self._num_fresh >= _FLUSH_EVERY:
      self._flush()

  def _flush(self) -> None:
    if self._fresh is not None:
      self._counts += np.asarray(self._fresh)
    self._fresh, self._num_fresh = None, 0

  def save(self, step: int, state: state_lib.TrainState) -> None:
    """Commits: all changed rows and all else, at once.

    Raises:
      OSError: the disk is full; the last commit is intact.
    """
    del step
    self._flush()
    self._pager.collect(paging.rows_of(state))
    arrays = leaves.host_copies(_without_rows(state))
    arrays[_COUNTS] = self._counts
    self.store.commit(
        views=run_store.views(self._run, state),
        state=arrays,
        provenance={**provenance.describe(), 'num_steps': int(state.step)},
    )
    json_files.write_json_atomic(self._workdir / REPORT, self.summary())

  def report(self, metrics) -> dict[str, Any]:
    """What a line of metrics says of paging since the line before."""
    del metrics
    read, written, waited, since, before = self._marks
    now = self.store.bytes_read, self.store.bytes_written
    seconds, step = time.monotonic(), self._number
    self._marks = (*now, self._pager.seconds_waited, seconds, step)
    num_steps = max(step - before, 1)
    share = (self._pager.seconds_waited - waited) / max(seconds - since, 1e-9)
    resident = self.plan.stage_at(step - 1).slot_of_node >= 0
    return {
        'bytes_read_per_step': (now[0] - read) / num_steps,
        'bytes_written_per_step': (now[1] - written) / num_steps,
        'paging_wait_share': share,
        'resident_nodes': int(resident.sum()),
    }

  def summary(self) -> dict[str, Any]:
    """Slots, bytes, and how many of its samples each node got."""
    self._flush()
    held, octree = self.plan.capacity, self.plan.octree
    total, got = self._counts
    known = total >= _MIN_SAMPLES
    share = got[known] / total[known]
    return {
        'num_nodes': octree.num_nodes,
        'num_slots': held.num_slots,
        'num_pinned': held.num_pinned,
        'bytes_capacity': held.bytes,
        'bytes_all_resident': capacity.resident_bytes(
            self._run.plan.spec.field, octree.num_nodes
        ),
        'bytes_read': self.store.bytes_read,
        'bytes_written': self.store.bytes_written,
        'phases': [_describe(phase) for phase in self.plan.phases],
        'samples_share': float(got.sum() / max(total.sum(), 1)),
        'nodes_counted': int(known.sum()),
        'nodes_with_samples': int((total > 0).sum()),
        'sample_share_min': float(share.min()) if share.size else None,
        'sample_share_percentiles_1_5_50': (
            np.percentile(share, (1, 5, 50)).tolist() if share.size else None
        ),
        'nodes_below_80_percent': int((share < 0.8).sum()),
    }  # fmt: skip


def _describe(phase: residency.Phase) -> dict[str, Any]:
  """A phase in a few numbers."""
  return {
      'first': phase.first,
      'last': phase.last,
      'stages': len(phase.ends),
      'pinned': len(phase.pinned),
      'tracks': [
          {'nodes': len(t.nodes), 'window': t.window, 'exchange': t.exchange}
          for t in phase.tracks
      ],
  }


def _without_rows(state) -> state_lib.TrainState:
  """What of a state is no node's row."""
  return state._replace(
      params=state_lib.dense_params(state.params),
      opt_state={'dense': state.opt_state['dense']},
  )
