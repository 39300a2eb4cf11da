"""Multiresolution hash grid lookup of mixed nodes."""

from kernels.hash_lookup.api import hash_lookup
from kernels.hash_lookup.specs import GridSpec

__all__ = ["GridSpec", "hash_lookup"]
