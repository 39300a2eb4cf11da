"""Node field: hash lookup and node MLPs of mixed nodes, fused."""

from kernels.node_field.api import (
  node_color,
  node_density,
  node_field,
  node_geometry,
)  # fmt: skip
from kernels.node_field.specs import FieldSpec

__all__ = [
  "FieldSpec", "node_color", "node_density", "node_field", "node_geometry",
]  # fmt: skip
