"""What a run that pages says of its plan and of the samples of its nodes."""

from typing import Any

import numpy as np

from infnerf_jax.training import capacity, residency, rounds
from kernels.node_field import specs as field_specs

# Nodes with fewer samples say nothing of how samples are spread.
_MIN_SAMPLES = 1000


def describe(
    plan: residency.Plan, field: field_specs.FieldSpec, step: int
) -> dict[str, Any]:
  """Nodes, slots and rounds.

  Args:
    plan: of the run.
    field: of a node.
    step: that the run has come to; rounds behind it are not laid yet.
  """
  held, num_nodes = plan.capacity, plan.octree.num_nodes
  return {
      'num_nodes': num_nodes,
      'num_shards': held.num_shards,
      'num_slots': held.num_slots,
      'num_pinned': held.num_pinned,
      'bytes_capacity': held.bytes,
      'bytes_all_resident': capacity.resident_bytes(field, num_nodes),
      'phases': [x._asdict() for x in plan.phases],
      'now': _describe(plan.laid(plan.phase_at(step))),
  }


def shares(total: np.ndarray, got: np.ndarray) -> dict[str, Any]:
  """How much of the samples that lie in nodes trains them.

  Args:
    total: [N] samples in each node.
    got: [N] those of them that train it.
  """
  known = total >= _MIN_SAMPLES
  share = got[known] / total[known]
  return {
      'samples_share': float(got.sum() / max(total.sum(), 1)),
      'nodes_counted': int(known.sum()),
      'nodes_with_samples': int((total > 0).sum()),
      'sample_share_min': float(share.min()) if share.size else None,
      'sample_share_percentiles_1_5_50': (
          np.percentile(share, (1, 5, 50)).tolist() if share.size else None
      ),
      'nodes_below_80_percent': int((share < 0.8).sum()),
  }


def _describe(phase: rounds.Phase) -> dict[str, Any]:
  """A phase in a few numbers."""
  return {
      'first': phase.first,
      'last': phase.last,
      'stages': phase.num_stages,
      'pinned': len(phase.pinned),
      'tracks': [
          {'nodes': len(t.nodes), 'window': t.window, 'exchange': t.exchange}
          for t in phase.tracks
      ],
  }
