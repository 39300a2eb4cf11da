"""Shape of a node field, and named shapes for tests and benchmarks."""

import dataclasses

from kernels.hash_lookup import specs as grid_specs

COMPUTE_DTYPES = ("float16", "bfloat16", "tensorfloat32", "float32")


@dataclasses.dataclass(frozen=True)
class FieldSpec:
  """A node's hash grid and MLP widths.

  Parameters, stacked over slots:
    table [N, rows, F];
    density w0 [N, L * F, hidden], w1 [N, hidden, 1 + num_geometry];
    color w0 [N, num_geometry + ray_input_dim, hidden],
      w1 [N, hidden, hidden], w2 [N, hidden, 3].

  compute_dtype is what Triton's products take, summed in float32: "float16",
  "bfloat16", "tensorfloat32" or "float32". The other backends compute in
  float32. The backward pass takes tensorfloat32 in place of half precision,
  whose range cotangents leave.
  """

  grid: grid_specs.GridSpec = grid_specs.GridSpec()
  hidden_width: int = 64
  num_geometry: int = 15
  ray_input_dim: int = 48
  compute_dtype: str = "float16"

  def __post_init__(self):
    if self.compute_dtype not in COMPUTE_DTYPES:
      raise ValueError(
          f"FieldSpec.compute_dtype: got {self.compute_dtype!r}, expected one"
          f" of {COMPUTE_DTYPES}"
      )

  def weight_shapes(self, num_slots: int) -> dict:
    """Shapes of the parameter pytree."""
    hidden, grid = self.hidden_width, self.grid
    color_in = self.num_geometry + self.ray_input_dim
    return {
        "table": (num_slots, grid.num_rows, grid.num_features),
        "density": {
            "w0": (num_slots, grid.encoded_dim, hidden),
            "w1": (num_slots, hidden, 1 + self.num_geometry),
        },
        "color": {
            "w0": (num_slots, color_in, hidden),
            "w1": (num_slots, hidden, hidden),
            "w2": (num_slots, hidden, 3),
        },
    }


# In tests the backends must agree to float32's last digits.
TINY = FieldSpec(grid_specs.TINY, 16, 7, 5, compute_dtype="float32")
SMALL = FieldSpec(grid_specs.SMALL)
PAPER = FieldSpec(grid_specs.PAPER)
