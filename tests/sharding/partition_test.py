"""Partition of trees: properties, and the optimum of tiny cases."""

import itertools

import numpy as np
import pytest

from infnerf_jax.sharding import partition as partition_lib


def random_tree(seed, num_levels=4, keep=0.5):
  """(level, parent) of a tree whose children exist with probability `keep`."""
  rng = np.random.default_rng(seed)
  level, parent, above = [0], [-1], [0]
  for depth in range(1, num_levels):
    below = []
    for node in above:
      count = max(rng.binomial(8, keep), node == above[0])
      below += [node] * count
    first = len(level)
    level += [depth] * len(below)
    parent += below
    above = list(range(first, len(level)))
  return np.array(level), np.array(parent)


def cases():
  for seed in range(12):
    rng = np.random.default_rng(100 + seed)
    level, parent = random_tree(seed, 2 + seed % 3, 0.2 + 0.06 * (seed % 8))
    samples = rng.exponential(size=len(level)) * (rng.random(len(level)) < 0.8)
    yield level, parent, samples, 1 + seed % 5


@pytest.mark.parametrize('case', list(cases()))
def test_properties(case):
  level, parent, samples, shards = case
  found = partition_lib.make_partition(level, parent, samples, shards)
  owner = found.shard_of_node
  assert owner[0] == -1 and np.all(found.local_slot[:, 0] == 0)
  top = np.flatnonzero(owner < 0)
  for shard in range(shards):
    here = found.local_slot[shard]
    np.testing.assert_array_equal(here >= 0, (owner < 0) | (owner == shard))
    np.testing.assert_array_equal(here[top], np.arange(len(top)))
    # The two maps are inverse, and rows without a hole.
    rows = found.node_of_local[shard]
    used = rows >= 0
    np.testing.assert_array_equal(here[rows[used]], np.flatnonzero(used))
    assert used.sum() == (here >= 0).sum() <= found.capacity
    assert not np.any(np.diff(used.astype(int)) > 0)
  sizes = (found.local_slot >= 0).sum(axis=1)
  assert found.capacity == sizes.max() and found.num_replicated == len(top)


def test_reported_imbalances_are_those_of_the_shards():
  for level, parent, samples, shards in cases():
    found = partition_lib.make_partition(level, parent, samples, shards)
    owner = found.shard_of_node
    nodes = np.array([(owner == s).sum() for s in range(shards)])
    if nodes.sum():
      want = nodes.max() / nodes.mean()
      np.testing.assert_allclose(found.memory_imbalance, want)
    top = samples[owner < 0].sum() / shards
    busy = np.array([samples[owner == s].sum() for s in range(shards)]) + top
    if busy.sum():
      want = busy.max() / busy.mean()
      np.testing.assert_allclose(found.sample_imbalance, want)


def test_deterministic_and_independent_of_the_unit_of_samples():
  for level, parent, samples, shards in cases():
    one = partition_lib.make_partition(level, parent, samples, shards)
    two = partition_lib.make_partition(level, parent, samples * 1024, shards)
    for a, b in zip(one, two, strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('split', [1, 2])
def test_whole_levels_on_request(split):
  level, parent = random_tree(3, 4, 0.4)
  samples = np.random.default_rng(0).exponential(size=len(level))
  found = partition_lib.make_partition(
      level, parent, samples, 3, split_level=split
  )
  owner = found.shard_of_node
  np.testing.assert_array_equal(owner < 0, level < split)
  # A subtree stays together.
  above = owner[parent[1:]]
  np.testing.assert_array_equal(owner[1:][above >= 0], above[above >= 0])


def fullest(num_nodes, shards, replicated=1):
  """Rows of the fullest shard where they are as even as can be."""
  return replicated + -(-(num_nodes - replicated) // shards)


def test_memory_is_even_to_a_row():
  for level, parent, samples, shards in cases():
    found = partition_lib.make_partition(level, parent, samples, shards)
    rows = (found.local_slot >= 0).sum(axis=1)
    assert rows.max() - rows.min() <= 1
    # Four per cent for replicas at most, or the root's alone.
    allowed = max(1.04 * len(level) / shards, fullest(len(level), shards))
    assert found.capacity <= allowed


@pytest.mark.parametrize('shards', [2, 4, 8])
def test_both_loads_of_uneven_trees_are_even(shards):
  for seed in range(4):
    level, parent = random_tree(seed, 4, 0.45)
    if len(level) < 100:
      continue
    samples = np.random.default_rng(seed).lognormal(sigma=1.0, size=len(level))
    found = partition_lib.make_partition(level, parent, samples, shards)
    assert found.memory_imbalance <= fullest(len(level), shards) * shards / (
        len(level) - 1
    )
    assert found.sample_imbalance < 1.05
    if shards == 4:
      # InfNeRF's paper reports 25.49 % on four devices.
      assert found.resident_share <= 0.26 or len(level) < 150


def test_pieces_are_subtrees_where_these_balance():
  # Eight equal subtrees on four shards: nothing is cut.
  level = np.repeat([0, 1, 2], [1, 8, 64])
  parent = np.concatenate([[-1], np.zeros(8), 1 + np.arange(64) // 8])
  parent = parent.astype(int)
  owner = partition_lib.make_partition(
      level, parent, np.ones(73), 4
  ).shard_of_node
  np.testing.assert_array_equal(owner[9:], owner[parent[9:]])


def test_the_busiest_nodes_are_replicated():
  level, parent = random_tree(0, 5, 0.5)
  samples = np.ones(len(level))
  samples[1] = len(level)  # half of all, more than a shard's part
  found = partition_lib.make_partition(level, parent, samples, 4)
  assert len(level) > 300
  np.testing.assert_array_equal(np.flatnonzero(found.shard_of_node < 0), [0, 1])
  assert found.sample_imbalance < 1.02


def test_phases_share_shape_and_top():
  level, parent = random_tree(1, 4, 0.5)
  phases = [
      np.where(level <= last, 8.0 ** -level.astype(float), 0.0)
      for last in range(4)
  ]
  found = partition_lib.make_partitions(level, parent, phases, 4)
  assert len(found) == 4
  last = found[-1]
  for partition, samples in zip(found, phases, strict=True):
    assert partition.capacity == last.capacity
    np.testing.assert_array_equal(
        partition.shard_of_node < 0, last.shard_of_node < 0
    )
    alone = partition_lib.make_partition(level, parent, samples, 4)
    np.testing.assert_allclose(
        alone.sample_imbalance, partition.sample_imbalance, atol=0.35
    )
  only = partition_lib.make_partition(level, parent, phases[-1], 4)
  np.testing.assert_array_equal(only.shard_of_node, last.shard_of_node)


def bottleneck(memory, samples, assigned, shards):
  """The larger share of memory or samples that any shard bears."""
  loads = [
      max(
          memory[assigned == s].sum() / memory.sum(),
          samples[assigned == s].sum() / samples.sum(),
      )
      for s in range(shards)
  ]
  return max(loads)


@pytest.mark.parametrize('shards', [2, 3])
def test_greedy_is_near_the_optimum(shards):
  ratios = []
  for seed in range(25):
    rng = np.random.default_rng(seed)
    memory = rng.integers(1, 20, 6).astype(float)
    samples = memory * rng.lognormal(sigma=0.5, size=6)
    greedy = bottleneck(
        memory,
        samples,
        partition_lib.assign_greedily(memory, samples, shards),
        shards,
    )
    best = min(
        bottleneck(memory, samples, np.array(a), shards)
        for a in itertools.product(range(shards), repeat=6)
    )
    ratios.append(greedy / best)
  assert min(ratios) >= 1 - 1e-9
  # What these cases give, with some room; of one kind of load alone the
  # greedy rule is within 4/3 of the optimum (Graham 1969).
  assert max(ratios) < 1.35 and np.mean(ratios) < 1.1


def test_equal_subtrees_are_shared_equally():
  level = np.repeat([0, 1, 2], [1, 8, 64])
  parent = np.concatenate([[-1], np.zeros(8), 1 + np.arange(64) // 8])
  parent = parent.astype(int)
  for shards in (1, 2, 4, 8):
    found = partition_lib.make_partition(level, parent, np.ones(73), shards)
    assert found.num_replicated == 1 and found.capacity == 1 + 72 // shards
    assert found.memory_imbalance == found.sample_imbalance == 1.0


def test_uneven_subtrees_are_cut():
  # One large subtree, three small: as whole ones they cannot balance.
  sizes = (20, 3, 3, 3)
  level = np.repeat([0, 1, 2], [1, 4, sum(sizes)])
  parent = np.concatenate(
      [[-1], np.zeros(4), np.repeat([1, 2, 3, 4], sizes)]
  ).astype(int)
  found = partition_lib.make_partition(level, parent, np.ones(len(level)), 4)
  whole = partition_lib.make_partition(
      level, parent, np.ones(len(level)), 4, split_level=1
  )
  assert found.num_replicated == 1 and found.capacity == fullest(len(level), 4)
  assert found.sample_imbalance < 1.1 < whole.sample_imbalance


def test_more_shards_than_subtrees_leaves_some_without():
  level, parent = np.array([0, 1, 1]), np.array([-1, 0, 0])
  found = partition_lib.make_partition(
      level, parent, np.ones(3), 4, split_level=1
  )
  np.testing.assert_array_equal(found.shard_of_node, [-1, 0, 1])
  assert found.capacity == 2
  np.testing.assert_array_equal(found.node_of_local[2:], [[0, -1]] * 2)


def test_a_lone_root_is_replicated():
  found = partition_lib.make_partition([0], [-1], [3.0], 4)
  assert found.capacity == found.num_replicated == 1
  assert found.memory_imbalance == found.sample_imbalance == 1.0


def test_owner_rows_find_every_node():
  for level, parent, samples, shards in cases():
    found = partition_lib.make_partition(level, parent, samples, shards)
    rows = found.node_of_local.reshape(-1)[partition_lib.owner_rows(found)]
    np.testing.assert_array_equal(rows, np.arange(len(level)))


@pytest.mark.parametrize(
    'level,parent,samples,shards,split,match',
    [
        ([0, 1], [-1, 0], [1.0], 2, None, 'the same'),
        ([0, 2, 1], [-1, 2, 0], np.ones(3), 2, None, 'level by level'),
        ([0, 1], [-1, 0], [1.0, np.nan], 2, None, 'finite'),
        ([0, 1], [-1, 0], np.ones(2), 0, None, 'shards'),
        ([0, 1], [-1, 0], np.ones(2), 2, 3, 'split_level'),
    ],
)
def test_bad_arguments(level, parent, samples, shards, split, match):
  with pytest.raises(ValueError, match=match):
    partition_lib.make_partition(
        level, parent, samples, shards, split_level=split
    )
