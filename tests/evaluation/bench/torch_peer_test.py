"""The peer does the same arithmetic as the kernels (skipped without torch)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
# Idle OpenMP threads spin: slow beside other work.
torch.set_num_threads(1)

from infnerf_jax.evaluation.bench import (  # noqa: E402
    jax_steps,
    shapes,
    torch_grid,
    torch_peer,
)
from kernels.node_field import api as node_field  # noqa: E402

# Scales that are dense, hashed by a power of two, and (in the root, whose
# grid is finer than its rows were counted for) hashed by another number.
SHAPE = dataclasses.replace(
    shapes.SHAPES['tiny'],
    num_grid_scales=5,
    log2_table_size=9,
    base_resolution=5,
)
VARIANTS = [
    ('stacked', 'dense'),
    ('per_node', 'dense'),
    ('hand_written', 'dense'),
    ('hand_written', 'lazy'),
]


@pytest.fixture(scope='module')
def reference():
  """(data, params, (raw, rgb)) of the kernels' oracle."""
  data = shapes.make_data(SHAPE, seed=3)
  params = shapes.make_params(SHAPE, torch_peer.num_rows(SHAPE))
  spec = jax_steps.field_spec(SHAPE)
  outputs = node_field.node_field(
      jax.tree.map(jnp.asarray, params),
      data.position,
      data.slot,
      data.ray_idx,
      data.ray_inputs,
      spec=spec,
      implementation='reference',
  )
  return data, params, outputs


@pytest.fixture(scope='module')
def our_losses():
  """Losses of our first steps."""
  step = jax_steps.train_step(shapes.as_dict(SHAPE), implementation='xla')
  return [step() for _ in range(4)]


@pytest.mark.parametrize('formulation', torch_peer.FORMULATIONS)
def test_outputs_agree_with_the_reference(formulation, reference):
  data, params, (want_raw, want_rgb) = reference
  fields = torch_peer.NodeFields(SHAPE, params, formulation)
  with torch.no_grad():
    raw, rgb = fields(torch_peer.tensors(data))
  assert np.std(want_raw) > 0.1 and np.std(want_rgb) > 0.01
  np.testing.assert_allclose(raw, want_raw, atol=1e-4, rtol=0)
  np.testing.assert_allclose(rgb, want_rgb, atol=1e-4, rtol=0)


def test_grid_has_all_kinds_of_scales():
  spec = jax_steps.field_spec(SHAPE).grid
  root = torch_grid.make_grid(SHAPE, is_root=True)
  plain = torch_grid.make_grid(SHAPE, is_root=False)
  assert plain.rows == tuple(spec.row_counts)
  assert plain.resolutions == tuple(spec.resolutions[1])
  assert root.resolutions == tuple(spec.resolutions[0])
  assert plain.dense[0] and not root.dense[0] and not plain.dense[-1]
  assert plain.rows[0] & (plain.rows[0] - 1)  # no power of two


@pytest.mark.parametrize('formulation, optimizer', VARIANTS)
def test_steps_agree_with_ours(formulation, optimizer, our_losses):
  # Every step touches the same rows, so that dense and lazy Adam agree where
  # it shows: the losses of a few steps depend on gradients and updates.
  shape = shapes.as_dict(SHAPE)
  theirs = torch_peer.train_step(
      shape, formulation=formulation, optimizer=optimizer
  )
  losses = [theirs() for _ in our_losses]
  assert losses[-1] < 0.8 * losses[0]
  assert losses == pytest.approx(our_losses, rel=1e-3)


def test_lazy_adam_leaves_untouched_rows():
  data = torch_peer.tensors(shapes.make_data(SHAPE))
  params = shapes.make_params(SHAPE, torch_peer.num_rows(SHAPE))
  fields = torch_peer.NodeFields(SHAPE, params, 'hand_written')
  adam = torch_peer.LazyAdam(fields)
  raw, rgb = fields(data)
  (raw.sum() + rgb.sum()).backward()
  touched = [t.clone() for t in fields.touched]
  adam.step()
  for table, before, mask in zip(
      fields.tables, params['table'], touched, strict=True
  ):
    assert 0 < mask.sum() < mask.shape[0]
    same = torch.all(table == torch.tensor(before), dim=-1)
    assert torch.all(same[~mask])
    assert not table.grad.any()


def test_unknown_variants_are_refused():
  shape = shapes.as_dict(SHAPE)
  with pytest.raises(ValueError, match='formulation'):
    torch_peer.inference_step(shape, formulation='magic')
  with pytest.raises(ValueError, match='lazy'):
    torch_peer.train_step(shape, formulation='per_node', optimizer='lazy')
