"""Where the C library's malloc takes memory from."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h


def use_one_arena() -> None:
  """Keeps all threads' blocks in one heap; does nothing where libc has no such.

  glibc gives each thread an arena of 64 MB pieces and hands a piece back to the
  kernel when it empties. A step's large buffers live in one of XLA's threads:
  where they began a piece, each step unmapped and faulted in every page of
  theirs anew, or not, as the heap happened to lie. Call before there are
  threads.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError, TypeError):  # macOS, musl, Windows
    return
  mallopt(_M_ARENA_MAX, 1)
