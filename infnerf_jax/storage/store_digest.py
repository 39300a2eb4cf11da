"""One number for all parameters of a store, row by row."""

import hashlib

import numpy as np

from infnerf_jax.storage import key_values, node_store


def params_sha256(store: node_store.NodeStore, others) -> str:
  """What `leaves.params_sha256` says of {'nodes': stacked rows, **others}.

  Rows stand in the tree's order; one parameter after another is read of all of
  them, so that no more than a row is held.

  Args:
    store: float32.
    others: {name: array} of what is no node's.

  Returns:
    Hexadecimal sha256.
  """
  fields = {f'nodes/{f.name}': f for f in store.header.group().fields}
  digest = hashlib.sha256()
  num_nodes = store.header.num_nodes
  for name in sorted([*fields, *others]):
    if name in others:
      array = np.ascontiguousarray(others[name])
      digest.update(f'{name}:{array.dtype.name}:{array.shape};'.encode())
      digest.update(array.tobytes())
      continue
    field = fields[name]
    shape = (num_nodes, *field.shape)
    digest.update(f'{name}:{field.dtype}:{shape};'.encode())
    for key in np.sort(_all_keys(store)):
      try:
        digest.update(store.read_row(int(key))[field.name].tobytes())
      except key_values.MissingError:
        digest.update(b'never written')
  return digest.hexdigest()


def _all_keys(store) -> np.ndarray:
  """[N] keys in rising order, which is the tree's: level by level, Morton."""
  return np.concatenate([page.keys for page in store.walk()])
