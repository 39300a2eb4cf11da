"""Triton's interpreter on NumPy arrays, with guards around every buffer."""

import contextlib
import dataclasses
import threading
import types

import numpy as np

_GUARD = 4096  # bytes on either side
_POISON = 0xFF  # NaN in every float, -1 in every int
# The interpreter patches triton.language while a kernel runs.
_lock = threading.Lock()


class Buffer:
  """An array with poisoned surroundings, as the interpreter takes one.

  The interpreter copies tensors to the host and back; this one is there.
  """

  def __init__(self, shape, dtype, value=None):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    self._bytes = np.full(size + 2 * _GUARD + 64, _POISON, np.uint8)
    # Kernels are compiled for buffers aligned to 16 bytes.
    self._start = _GUARD + -(self._bytes.ctypes.data + _GUARD) % 64
    inside = self._bytes[self._start : self._start + size]
    self.array = inside.view(dtype).reshape(shape)
    if value is not None:
      self.array[...] = value
    self._before = self._bytes.copy()
    self.dtype = "int1" if dtype.kind == "b" else str(dtype)
    self.shape = tuple(shape)

  def data_ptr(self):
    return self.array.ctypes.data

  def stride(self):
    return tuple(s // self.array.itemsize for s in self.array.strides)

  def size(self):
    return self.shape

  def storage_offset(self):
    return 0

  def untyped_storage(self):
    return self

  def cpu(self):
    return self

  def new_empty(self, size, device=None):
    del size, device
    return self

  def set_(self, storage, offset, size, stride):
    del storage, offset, size, stride

  def copy_(self, other):
    del other

  def check(self, name: str, written: bool) -> None:
    """Raises AssertionError where bytes changed that must not."""
    same = self._bytes == self._before
    if written:
      same[self._start : self._start + self.array.nbytes] = True
    if not same.all():
      first = int(np.argmin(same)) - self._start
      raise AssertionError(
          f"{name}: the kernel wrote at byte {first} of {self.array.nbytes}"
          f" of {'its output' if written else 'an input'}"
      )


@contextlib.contextmanager
def _patched_once():
  """Keeps the interpreter from patching triton.language at every inner call.

  That is most of its time. Functions of one module see the same names.
  """
  from triton.runtime import interpreter

  patch, scopes = interpreter._patch_lang, {}
  nothing = types.SimpleNamespace(restore=lambda: None)

  def once(function):
    key = id(function.__globals__)
    if key not in scopes:
      scopes[key] = patch(function)
    return nothing

  interpreter._patch_lang = once
  try:
    yield
  finally:
    interpreter._patch_lang = patch
    for scope in reversed(scopes.values()):
      scope.restore()


@contextlib.contextmanager
def _as_compiled():
  """Computes what a compiled kernel computes and no more.

  The interpreter forms every sum and product of integers twice, the second
  time in 64 bits for a check that only debug builds make: half of its time.
  """
  from triton.runtime import interpreter

  builder = interpreter.interpreter_builder
  before = builder.options
  builder.options = dataclasses.replace(before, sanitize_overflow=False)
  try:
    yield
  finally:
    builder.options = before


@contextlib.contextmanager
def _quick_types():
  """Makes shapes and types of tensors once each.

  The language forms them anew at every operation, and compares shapes that are
  the same element by element: another half of the interpreter's time.
  """
  from triton.language import core, semantic

  block, tensor = core.block_type, core.tensor
  language = semantic.TritonSemantic
  before = block.__init__, tensor.__init__, language.broadcast_impl_value
  make_block, make_tensor, broadcast = before
  blocks, shapes = {}, {}

  def init_block(self, element_ty, shape):
    sizes = tuple(shape)
    if not all(type(size) is int for size in sizes):
      return make_block(self, element_ty, shape)
    key = (element_ty.name, sizes)
    if key not in blocks:
      make_block(self, element_ty, shape)
      blocks[key] = dict(self.__dict__)
    self.__dict__.update(blocks[key])

  def init_tensor(self, handle, type):
    key = type.shape.values if type.is_block() else ()
    key = tuple(key)
    if key not in shapes:
      make_tensor(self, handle, type)
      shapes[key] = self.shape, self.numel
    self.shape, self.numel = shapes[key]
    self.handle, self.type, self.dtype = handle, type, type.scalar

  def broadcast_values(self, lhs, rhs):
    a, b = lhs.type, rhs.type
    if a.is_block() and b.is_block() and a.shape.values == b.shape.values:
      return lhs, rhs
    return broadcast(self, lhs, rhs)

  block.__init__, tensor.__init__ = init_block, init_tensor
  language.broadcast_impl_value = broadcast_values
  try:
    yield
  finally:
    block.__init__, tensor.__init__, language.broadcast_impl_value = before


def run(kernel, args, out, grid, in_place, constexprs) -> list[np.ndarray]:
  """Runs a kernel in the interpreter; arguments as for calls.triton_call.

  Raises:
    AssertionError: the kernel wrote into an input or outside of a buffer.
  """
  inputs, outputs = [], []
  for i, a in enumerate(args):
    if not isinstance(a, int):
      a = np.asarray(a)
      # What is changed in place must be read through the output.
      a = Buffer(a.shape, a.dtype, None if i in in_place else a)
    inputs.append(a)
  initial = {o: np.asarray(args[i]) for i, o in in_place.items()}
  for o, like in enumerate(out):
    outputs.append(Buffer(like.shape, like.dtype, initial.get(o)))
  # As on a GPU, overflow and the like are silent.
  with _lock, _patched_once(), _as_compiled(), _quick_types():
    with np.errstate(all="ignore"):
      kernel[grid](*inputs, *outputs, **constexprs)
  names = kernel.arg_names
  for i, buffer in enumerate(inputs):
    if isinstance(buffer, Buffer):
      buffer.check(f"{kernel.__name__}: {names[i]}", written=False)
  for o, buffer in enumerate(outputs):
    name = names[len(inputs) + o]
    buffer.check(f"{kernel.__name__}: {name}", written=True)
  return [buffer.array.copy() for buffer in outputs]
