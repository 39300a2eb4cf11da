"""Native CPU backend: C++ kernels built at first use, called by jax.ffi."""

from kernels.native.build import (
    NativeUnavailable,
    get_num_threads,
    set_num_threads,
)

__all__ = ["NativeUnavailable", "get_num_threads", "set_num_threads"]
