"""Training whose nodes do not all fit: what the loop asks for.

`make_route` decides whether a run pages. Its route draws the batches of each
stage, keeps the rows that its steps need in their slots, commits instead of
checkpoints, and counts how many samples every node got of those that it would
have got were all nodes resident. It is one route for any mesh: a single device
is a mesh of one. See docs/out_of_core.md.
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
from infnerf_jax.sharding import mesh as mesh_lib
from infnerf_jax.sharding import processes
from infnerf_jax.storage import leaves, row_store
from infnerf_jax.training import (
  capacity,
  coverage,
  gradients,
  mesh_route,
  paging,
  paging_report,
  priors,
  residency,
  route,
  run_store,
  sample_counts,
  sample_pairs,
  setup,
  sharded_state,
  sharded_step,
)  # fmt: skip
from infnerf_jax.training import state as state_lib

STORE = 'nodes'
REPORT = 'out_of_core.json'
# What rendering takes beside rows: programs, rays, a picture.
_BESIDE_ROWS_GB = 0.4
_COUNTS, _PAIRS = 'samples_of_node', 'pairs_of_nodes'
# Batches are drawn that many steps ahead; plans are made before that.
MOST_AHEAD = 4
_PLANNED_AHEAD = 2 * MOST_AHEAD
# Of rows that come and go in a step, for each sample that it evaluates: a fifth
# of its time on two cores, where a megabyte read and written costs 3 ms.
_BYTES_A_SAMPLE = 40


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
  return PagedRoute(config, workdir, run, shape)


def _rows_a_step(config, field) -> float:
  """Rows that a step leaves time for."""
  samples = config.batch_size * sum(config.sampling.num_samples)
  return _BYTES_A_SAMPLE * samples / capacity.slot_bytes(field)


class PagedRoute:
  """Paging of one run: a route and what stands for its checkpoints.

  A context manager. See `route.OneDevice` for the methods of a route, whose
  state holds the rows of resident nodes, over the mesh.

  Attributes:
    store: where rows go.
    plan: what is resident when.
  """

  def __init__(self, config, workdir, run: setup.Run, shape: tuple[int, int]):
    """Opens or makes the store; see `make_route`."""
    self._config, self._run = config, run
    self._mesh = mesh_lib.first_devices(*shape)
    self._rays = mesh_route.DealtRays(self._mesh, config.batch_size)
    self._draw = route.ray_drawer(config, run)
    self._key = sharded_step.place_everywhere(
        setup.step_key(config), self._mesh
    )
    self._step = sharded_step.make_sharded_train_step(
        self._mesh, run.plan.spec, run.render_options, run.step_options
    )
    self._workdir = pathlib.Path(workdir)
    octree, field = run.plan.built.octree, run.plan.spec.field
    self._counts = sample_counts.NodeCounts(octree.num_nodes)
    self._lookout = sample_pairs.Lookout(octree.num_nodes, _PLANNED_AHEAD)
    self.plan = self._make_plan()
    self.store = self._open_store()
    key = setup.init_key(config)
    first_row = jax.jit(lambda i: paging.initial_row(key, i, field))
    self._pager = paging.Pager(
        self.store,
        self.plan,
        tree_lib.node_key(octree.level, octree.coord),
        lambda node: first_row(jnp.int32(node)),
        self._mesh,
    )
    self._focuses = self._around = self._marks = None
    self._placed = self._place_surroundings()
    self._number = self._num_commits = 0

  def _make_plan(self) -> residency.Plan:
    run, config = self._run, self._config
    octree, options = run.plan.built.octree, run.step_options
    held, owners, self._maps = run.plan.capacity, None, None
    pairs = None
    if held is None:
      # The store of a run that paged, and now all its nodes fit.
      partition = mesh_route.make_partitions(
          config, run, self._mesh.shape[mesh_lib.NODE]
      )[-1]
      held = capacity.all_resident(run.plan.spec.field, partition)
      owners = partition.shard_of_node
      mass = np.full(octree.num_nodes, 1 / octree.num_nodes)
    else:
      mass, pairs = self._coverage()
    return residency.Plan(
        octree,
        held,
        mass,
        num_steps=max(options.lr_decay_steps, config.num_steps),
        growth_steps=options.growth_steps,
        rehearsal=options.growth_rehearsal,
        rows_a_step=_rows_a_step(config, run.plan.spec.field),
        shard_of_node=owners,
        pairs=pairs,
        num_rays=config.batch_size,
        seen=self._lookout.of_phase,
    )

  def _open_store(self) -> row_store.RowStore:
    """The store, made by the first process where there is none."""
    with processes.first_before_others('node store'):
      if processes.is_first() and store_of(self._workdir) is None:
        header = run_store.header(self._config, self._workdir, self._run)
        octree = self._run.plan.built.octree
        return row_store.create(self._workdir / STORE, header, octree)
      return row_store.RowStore(
          self._workdir / STORE, sweep=processes.is_first()
      )

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._pager.close()

  def _coverage(self) -> tuple[np.ndarray, focus_lib.NodePairs]:
    """([N] mass, NodePairs): where rays end; makes the maps.

    As the first process finds: hosts of different kinds may round differently,
    plans must not.
    """
    run = self._run
    known = run.observations
    if known is None:
      # The losses do without them; planning does not.
      known = observations_lib.point_observations(
          run.plan.scene, run.plan.built.sample_aabb
      )
    cameras, num_levels = run.plan.scene.cameras, run.pyramid.sizes.shape[1]
    shown = coverage.Photographed(
        known,
        cameras,
        run.surroundings,
        run.plan.spec,
        run.render_options.level_policy,
        [run.plan.downscale * 2.0**level for level in range(num_levels)],
    )
    maps = coverage.node_maps(shown)
    self._maps = mesh_route.of_first_process(maps)._replace(grid=maps.grid)
    mass = coverage.node_mass(
        self._maps, run.pyramid, run.split.train,
        route.batch_options(self._config, run), run.observations,
        run.plan.built.octree.num_nodes,
    )  # fmt: skip
    pairs = coverage.node_pairs(shown, self._maps, mass)
    length = int(mesh_route.of_first_process(np.int32(len(pairs.planned))))
    pairs = mesh_route.of_first_process(
        pairs._make(np.resize(x, length) for x in pairs)
    )
    samples = self._config.batch_size * self._config.sampling.num_samples[-1]
    return mass, pairs._replace(share=samples * pairs.share)

  def draw(self, step: int) -> ray_batches.RayBatch:
    """This process's rays of a step; a function of seed and step."""
    return self._draw(
        step, self._rays.mine, self._focuses_of(self.plan.stage_at(step))
    )

  def _focuses_of(self, stage) -> list[focus_lib.Focus] | None:
    """One a photo group: each keeps what it derives from its own photos."""
    if stage.weight is None:
      return None
    if self._focuses is None or self._focuses[0] != stage.index:
      focuses = [
          focus_lib.Focus(self._maps, stage.weight)
          for _ in range(self._config.data.photo_groups)
      ]
      self._focuses = (stage.index, focuses)
    return self._focuses[1]

  def start(self, stored) -> state_lib.TrainState:
    """The state of the last commit; `step` fills its rows.

    Args:
      stored: None; there are no other checkpoints.
    """
    del stored
    state = self._blank()
    if not self.store.header.state_version:
      return state
    arrays = self.store.read_state()
    self._counts.total = arrays.pop(_COUNTS)
    self._lookout.restore(_PAIRS, arrays)
    try:
      dense = leaves.into_template(arrays, _without_rows(state))
    except ValueError as e:
      raise errors.InputError(f'{self.store.location}: {e}') from e
    processes.agree('commit', int(dense.step))
    dense = sharded_step.place_everywhere(dense, self._mesh)
    return paging.with_rows(dense, paging.rows_of(state))

  def _blank(self) -> state_lib.TrainState:
    """The state before the first step, whose slots hold nothing."""
    run, num_rows = self._run, self.plan.capacity.num_rows
    shapes = jax.eval_shape(
        lambda: route.initial_state(self._config, run, num_rows)
    )
    dense = sharded_step.place_everywhere(
        _without_rows(route.initial_state(self._config, run, 1)), self._mesh
    )
    rows = sharded_state.zeros(paging.rows_of(shapes), self._mesh)
    return paging.with_rows(dense, rows)

  def step(self, state, batch: ray_batches.RayBatch, number: int):
    """Makes resident what a step needs, and takes it; the state is donated."""
    if self._marks is None:
      self._marks = (0, 0, 0.0, time.monotonic(), number)
    self._lookout.before(number, self.plan, lambda: self._counts.total[1])
    rows = self._pager.enter(number, paging.rows_of(state))
    stage = self.plan.stage_at(number)
    if self._around is None or self._around[0] != stage.index:
      self._around = (stage.index, self._surroundings(stage))
    state, metrics = self._step(
        paging.with_rows(state, rows),
        route.device_batch(
            batch, self._rays.place, self._loss_weight(stage, batch)
        ),
        self._around[1],
        self._key,
    )
    self._counts.add(metrics.samples_of_node)
    self._lookout.add(number, metrics.nodes_of_rays)
    self._number = number + 1
    return state, metrics

  def _loss_weight(self, stage, batch) -> np.ndarray:
    """[R] float32 that make up for how often rays are drawn."""
    weight = stage.loss_weight[np.maximum(batch.ends_in, 0)]
    return np.where(batch.ends_in >= 0, weight, 1).astype(np.float32)

  def whole(self, state) -> state_lib.TrainState:
    """The state as `save` takes it, in every process."""
    return state

  def _place_surroundings(self) -> gradients.Surroundings:
    """What no stage changes, over the mesh."""
    around, held = self._run.surroundings, self.plan.capacity
    shard = sharded_step.place_shard(
        held.local_slots(), np.arange(held.num_pinned), self._mesh
    )
    tree = around.tree._replace(
        active=np.ones(self.plan.octree.num_nodes, bool)
    )
    placed = sharded_step.place_everywhere(
        around._replace(tree=tree), self._mesh
    )
    return placed._replace(tree=placed.tree._replace(shard=shard))

  def _surroundings(self, stage) -> gradients.Surroundings:
    octree, placed = self.plan.octree, self._placed
    pinned = self.plan.laid(stage.index[0]).pinned
    put = lambda x: sharded_step.place_everywhere(x, self._mesh)
    rows = lambda among: put(residency.prior_rows(octree, stage, pinned, among))
    return placed._replace(
        tree=placed.tree._replace(slot_of_node=put(stage.slot_of_node)),
        inner=rows(priors.inner_nodes(octree)),
        prior_nodes=rows(np.arange(octree.num_nodes)),
    )

  def save(self, step: int, state: state_lib.TrainState) -> None:
    """Commits all changed rows and all else, at once; all processes call it.

    Raises:
      OSError: the disk is full; the last commit is intact.
    """
    del step
    self._pager.collect(paging.rows_of(state))
    arrays = leaves.host_copies(_without_rows(state))
    arrays[_COUNTS] = self._counts.total
    arrays.update(self._lookout.arrays(_PAIRS))
    summary = self.summary()
    self._num_commits += 1
    with processes.first_before_others(f'commit {self._num_commits}'):
      if not processes.is_first():
        self.store.reopen()
        return
      self.store.commit(
          views=run_store.views(self._run, arrays['params/appearance']),
          state=arrays,
          provenance={**provenance.describe(), 'num_steps': int(state.step)},
      )
      json_files.write_json_atomic(self._workdir / REPORT, summary)

  def report(self, metrics) -> dict[str, Any]:
    """What a line of metrics says of paging since the line before.

    All processes must call it.
    """
    read, written, waited, since, before = self._marks
    seconds, step = time.monotonic(), self._number
    now = self.store.bytes_read, self.store.bytes_written
    self._marks = (*now, self._pager.seconds_waited, seconds, step)
    moved = mesh_route.of_processes([now[0] - read, now[1] - written])
    moved = moved.sum(axis=0) / max(step - before, 1)
    share = (self._pager.seconds_waited - waited) / max(seconds - since, 1e-9)
    resident = self.plan.stage_at(step - 1).slot_of_node >= 0
    devices = {}
    if self._mesh.size > 1:
      devices = mesh_route.report_devices(metrics)
    return {
        'bytes_read_per_step': float(moved[0]),
        'bytes_written_per_step': float(moved[1]),
        'paging_wait_share': share,
        'resident_nodes': int(resident.sum()),
        **devices,
    }

  def summary(self) -> dict[str, Any]:
    """Slots, bytes, and how many of its samples each node got.

    All processes must call it.
    """
    moved = mesh_route.of_processes(
        [self.store.bytes_read, self.store.bytes_written]
    ).sum(axis=0)
    return {
        **paging_report.describe(
            self.plan, self._run.plan.spec.field, max(self._number - 1, 0)
        ),
        'bytes_read': int(moved[0]),
        'bytes_written': int(moved[1]),
        **paging_report.shares(*self._counts.total),
    }


def _without_rows(state) -> state_lib.TrainState:
  """What of a state is no node's row."""
  return state._replace(
      params=state_lib.dense_params(state.params),
      opt_state={'dense': state.opt_state['dense']},
  )
