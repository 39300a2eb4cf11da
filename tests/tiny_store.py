"""A small node store on disk, for tests of what reads it."""

import dataclasses

import numpy as np

from infnerf_jax.storage import node_store, node_store_writer, row_codec
from tests import tiny_model


def make_store(folder, *, precision='float32', moments=False, seed=0):
  """(model, spec, octree) of the tiny model, and its store in a folder."""
  model, spec, octree = tiny_model.make_model(seed=seed)
  groups = [node_store.parameter_group(spec.field, precision)]
  if moments:
    fields = groups[0].fields
    groups.append(row_codec.RowGroup(node_store.MOMENTS, 'float32', fields))
  header = node_store.Header(
      generation=0, views_version=0, num_nodes=0, nodes_by_level=(),
      center=(0, 0, 0), side=0.0, grid_size=0,
      sample_aabb=tuple(map(tuple, np.stack(
          [tiny_model.ROOT_MIN - 0.5,
           tiny_model.ROOT_MIN + tiny_model.SIDE + 0.5]).tolist())),
      appearance_dim=spec.appearance_dim,
      field=dataclasses.asdict(spec.field), groups=tuple(groups),
      focus=(2, 2, 2, 2),
  )  # fmt: skip

  def rows_of(node_id):
    row = node_store.params_to_row(model.nodes, node_id)
    return {g.name: row for g in groups}

  views = {'appearance': np.asarray(model.appearance)}
  node_store_writer.create_store(folder, header, octree, rows_of, views=views)
  return model, spec, octree
