"""What a training batch's ops get, and must move and compute at least."""

import numpy as np

from infnerf_jax.evaluation.bench import frame, shapes

NUM_PROPOSALS = 64  # density queries of a ray in a whole training step


def works(
    shape: shapes.StepShape, num_samples: int, num_rows: int
) -> dict[str, frame.Work]:
  """Work of each op.

  As in `frame.works` gathered rows count as if each were read from device
  memory. What kernels compute again in a backward pass does not count.

  Args:
    shape: sizes.
    num_samples: of the batch.
    num_rows: that sparse_adam updates; read by its entry only.

  Returns:
    By name.
  """
  s, features = num_samples, shape.num_features
  encoded = shape.num_grid_scales * features
  forward = frame.works(frame.FrameShape(field=shape), shape.num_rays, s)
  corners = 8 * shape.num_grid_scales
  gathers = 4 * features * corners
  # A corner's features times their gradient, along three axes.
  lookup = frame.Work(
      s * (28 + gathers + 4 * encoded), s * corners * (2 * features + 9)
  )
  # Products with weights come thrice: forward, of inputs and of weights.
  whole, encode = forward['node_field'], forward['hash_lookup']
  field = frame.Work(
      whole.num_bytes + s * (16 + 12 * encoded),
      encode.flops + 3 * (whole.flops - encode.flops),
  )
  # Raw density, colour and length, forth and back, and their cotangents.
  composite = frame.Work(s * (2 * 20 + 16) + 24 * shape.num_rays, 50 * s)
  # A row's values, moments and steps, read and written.
  row = 2 * (4 * features + 8 * features + 4)
  adam = frame.Work(
      s * (16 + 4 * encoded) + num_rows * row,
      s * corners * (10 + 2 * features) + 14 * num_rows * features,
  )
  return {
      'hash_lookup gradient': lookup,
      'node_field gradient': field,
      'composite gradient': composite,
      'sparse_adam': adam,
  }


def seeds(shape: shapes.StepShape, num_encoded: int):
  """Cotangents that every contestant gets: of colours and of features.

  Args:
    shape: sizes.
    num_encoded: features of a sample.

  Returns:
    ([R, 3], [S, num_encoded]) float32, NumPy.
  """
  rng = np.random.default_rng(7)
  samples = shape.num_rays * shape.num_samples
  of = lambda *size: rng.normal(size=size).astype(np.float32)
  return of(shape.num_rays, 3), of(samples, num_encoded)
