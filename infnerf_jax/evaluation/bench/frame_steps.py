"""Our side of the frame: its ops by block of rays, as functions of nothing."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from infnerf_jax.evaluation.bench import frame, jax_steps, shapes
from infnerf_jax.models import scene_model
from infnerf_jax.octree import levels
from kernels.composite import api as composite_op
from kernels.hash_lookup import api as hash_lookup
from kernels.locate import api as locate_op
from kernels.node_field import api as node_field
from kernels.traverse import api as traverse_op
from kernels.traverse import occupancy


class _Scene(NamedTuple):
  """What all blocks share, on the device."""

  params: Any
  level_footprints: jax.Array
  children: jax.Array
  slot_of_node: jax.Array
  words: jax.Array


def require_platform(platform: str) -> None:
  """Raises RuntimeError where JAX does not run on `platform`, cpu or gpu."""
  if jax.default_backend() != platform:
    raise RuntimeError(f'no {platform.upper()}: JAX runs on the CPU')


class _Ops(NamedTuple):
  """Jitted functions of the scene and a block."""

  locate: Callable
  traverse: Callable
  lookup: Callable
  field: Callable
  composite: Callable
  frame: Callable


def _locate_op(shape: frame.FrameShape, implementation) -> Callable:
  """Function of the scene, a block's rays and distances [R, S] on them."""

  def locate(scene, rays, t):
    """The nodes of samples, their level by the footprint included."""
    target = levels.determine_lod_level(
        rays[5] + t * rays[6],
        root_gsd=scene.level_footprints[0],
        max_level=shape.max_level,
    )
    return locate_op.locate(
        *rays[:3],
        t,
        target,
        scene.children,
        scene.slot_of_node,
        root_side=shape.rule['root_side'],
        max_level=shape.max_level,
        implementation=implementation,
    )

  return locate


def _ops(shape: frame.FrameShape, spec, implementation) -> _Ops:
  use = dict(implementation=implementation)
  # Traversal and compositing have no native kernels.
  others = dict(
      implementation=None if implementation == 'native' else implementation
  )

  locate = _locate_op(shape, implementation)

  def traverse(scene, rays):
    return traverse_op.traverse(
        *rays[:7],
        scene.level_footprints,
        scene.children,
        scene.slot_of_node,
        scene.words,
        **shape.rule,
        **others,
    )

  def lookup(scene, samples):
    table = scene.params['table']
    return hash_lookup.hash_lookup(
        table, samples.position, samples.slot, spec=spec.grid, **use
    )

  def field(scene, samples, inputs):
    return node_field.node_field(
        scene.params,
        samples.position,
        samples.slot,
        samples.ray_idx,
        inputs,
        spec=spec,
        **use,
    )

  def composite(samples, raw, rgb):
    out = composite_op.composite_ragged(
        scene_model.trunc_exp(raw),
        samples.delta,
        rgb,
        samples.t,
        samples.ray_offsets,
        **others,
    )
    return out.rgb

  def whole(scene, rays):
    samples = traverse(scene, rays)
    return composite(samples, *field(scene, samples, rays[7]))

  functions = (locate, traverse, lookup, field, composite, whole)
  return _Ops(*(jax.jit(f) for f in functions))


def _blocks(shape, data) -> list[tuple[jax.Array, ...]]:
  """Rays and their inputs, block by block."""
  rays = (*data[:7], data.ray_inputs)
  num, size = rays[0].shape[0], shape.rays_per_block
  if num % size:
    raise ValueError(f'rays_per_block: got {size}, expected a divisor of {num}')
  return [
      tuple(jnp.asarray(a[i : i + size]) for a in rays)
      for i in range(0, num, size)
  ]


class Prepared(NamedTuple):
  """Compiled ops, scene, and rays with their inputs block by block."""

  ops: _Ops
  scene: _Scene
  blocks: list[tuple[jax.Array, ...]]
  distances: list[jax.Array]

  def picture(self) -> jax.Array:
    """[R, 3] colours of the whole frame."""
    colors = [self.ops.frame(self.scene, rays) for rays in self.blocks]
    return jnp.concatenate(colors)


def prepare(
    shape, implementation: str | None, compute_dtype='float16'
) -> Prepared:
  """The frame on the device.

  Args:
    shape: fields of FrameShape.
    implementation: of the kernels.
    compute_dtype: of products on tensor cores.
  """
  shape = frame.from_dict(shape)
  data = frame.make_frame(shape)
  step = frame.field_shape(shape, data)
  spec = jax_steps.field_spec(step, compute_dtype)
  tree = (data.level_footprints, data.children, data.slot_of_node)
  scene = _Scene(
      jax.tree.map(jnp.asarray, shapes.make_params(step, spec.grid.num_rows)),
      *(jnp.asarray(a) for a in tree),
      occupancy.pack_occupancy(data.occupied),
  )
  t = frame.located_distances(data.near, data.far, shape.num_located)
  size = shape.rays_per_block
  distances = [jnp.asarray(t[i : i + size]) for i in range(0, len(t), size)]
  return Prepared(
      _ops(shape, spec, implementation), scene, _blocks(shape, data), distances
  )


def parts(prepared: Prepared) -> dict[str, Callable[[], float]]:
  """The ops, each over all rays, to call again and again; see frame_parts."""
  ops, scene, blocks, distances = prepared
  samples = [ops.traverse(scene, rays) for rays in blocks]
  shaded = [ops.field(scene, s, b[7]) for s, b in zip(samples, blocks)]
  count = float(sum(int(s.num_found) for s in samples))

  def over_blocks(call, *columns, count=count):
    def run():
      jax.block_until_ready([call(*block) for block in zip(*columns)])
      return count

    return run

  return {
      'locate': over_blocks(
          lambda b, t: ops.locate(scene, b, t),
          blocks,
          distances,
          count=float(sum(t.size for t in distances)),
      ),
      'traverse': over_blocks(lambda b: ops.traverse(scene, b), blocks),
      'hash_lookup': over_blocks(lambda s: ops.lookup(scene, s), samples),
      'node_field': over_blocks(
          lambda s, b: ops.field(scene, s, b[7]), samples, blocks
      ),
      'composite': over_blocks(
          lambda s, out: ops.composite(s, *out), samples, shaded
      ),
      'frame': over_blocks(lambda b: ops.frame(scene, b), blocks),
  }


def frame_parts(shape, *, implementation: str | None, platform: str):
  """The ops of a frame, for a worker.

  Args:
    shape: fields of FrameShape.
    implementation: of the kernels.
    platform: where JAX must run.

  Returns:
    Functions of nothing by name, which return the number of samples.
  """
  require_platform(platform)
  return parts(prepare(shape, implementation))
