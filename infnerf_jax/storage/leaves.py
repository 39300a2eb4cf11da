"""Arrays of a pytree by name: `params/nodes/table`, whatever the containers.

Names come from dictionary keys, fields of NamedTuples and positions in
sequences, so a file written from one container type restores into another.
"""

import hashlib
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

SEPARATOR = '/'


class LeafRecord(NamedTuple):
  """What a manifest says of one array.

  Attributes:
    shape: dimensions.
    dtype: NumPy's name (`float32`, `bfloat16`).
    crc32: of the bytes in C order.
  """

  shape: tuple[int, ...]
  dtype: str
  crc32: int


def named_leaves(tree) -> dict[str, Any]:
  """Leaves of a pytree by their path, in the tree's own order.

  Args:
    tree: pytree; containers without leaves (optax's EmptyState) vanish.

  Returns:
    {name: leaf}.

  Raises:
    ValueError: a name would not be unique or not be a relative path.
  """
  leaves = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    parts = [_part(entry) for entry in path]
    if not parts or any(not p or SEPARATOR in p for p in parts):
      raise ValueError(
          f'got the leaf path {jax.tree_util.keystr(path)!r}, expected'
          f' non-empty keys without {SEPARATOR!r}'
      )
    name = SEPARATOR.join(parts)
    if name in leaves:
      raise ValueError(f'got two leaves named {name!r}, expected one')
    leaves[name] = leaf
  return leaves


def _part(entry) -> str:
  """Text of one path entry of any of JAX's key types."""
  for attribute in ('name', 'key', 'idx'):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
  """{'a/b': x} as {'a': {'b': x}}."""
  tree = {}
  for name, leaf in leaves.items():
    *parents, last = name.split(SEPARATOR)
    branch = tree
    for parent in parents:
      branch = branch.setdefault(parent, {})
    branch[last] = leaf
  return tree


def into_template(leaves: dict[str, Any], template):
  """Puts named leaves into the template's containers.

  Args:
    leaves: {name: array}.
    template: pytree of arrays or `jax.ShapeDtypeStruct`s with the same names.

  Returns:
    The template's structure with `leaves` in it.

  Raises:
    ValueError: names, shapes or types differ; the first difference is named.
  """
  expected = named_leaves(template)
  missing = sorted(set(expected) - set(leaves))
  surplus = sorted(set(leaves) - set(expected))
  if missing or surplus:
    raise ValueError(
        f'got surplus leaves {surplus[:3]}, missing leaves {missing[:3]}'
    )
  for name, leaf in expected.items():
    want = (tuple(np.shape(leaf)), _dtype_name(leaf))
    got = (leaves[name].shape, leaves[name].dtype.name)
    if want != got:
      raise ValueError(f'{name}: got {got}, expected {want}')
  structure = jax.tree_util.tree_structure(template)
  return structure.unflatten([leaves[name] for name in expected])


def _dtype_name(leaf) -> str:
  dtype = leaf.dtype if hasattr(leaf, 'dtype') else np.asarray(leaf).dtype
  return np.dtype(dtype).name


def host_copies(tree) -> dict[str, np.ndarray]:
  """Named copies of all leaves in memory that nobody else writes to.

  `np.asarray` of an array of the CPU backend shares its buffer, which the next
  training step is free to overwrite once it is donated; hence the real copy.

  Args:
    tree: pytree of arrays and numbers.

  Returns:
    {name: array in C order}.
  """
  host = jax.device_get(named_leaves(tree))
  return {
      name: np.array(leaf, copy=True, order='C') for name, leaf in host.items()
  }


def record(array: np.ndarray) -> LeafRecord:
  """Shape, type and checksum of an array."""
  return LeafRecord(
      tuple(int(n) for n in array.shape),
      array.dtype.name,
      zlib.crc32(_as_bytes(array)),
  )


def _as_bytes(array: np.ndarray) -> np.ndarray:
  """[nbytes] uint8 view in C order (a copy only where it must be one)."""
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def params_sha256(tree) -> str:
  """One number for a pytree's values: equal trees, equal text.

  Args:
    tree: pytree of arrays and numbers, on the host or a device.

  Returns:
    Hexadecimal sha256 over the sorted leaf names, each followed by its type,
    shape and bytes.
  """
  digest = hashlib.sha256()
  for name, leaf in sorted(named_leaves(tree).items()):
    array = np.asarray(jax.device_get(leaf))
    digest.update(f'{name}:{array.dtype.name}:{array.shape};'.encode())
    digest.update(_as_bytes(array))
  return digest.hexdigest()
