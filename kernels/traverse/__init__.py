"""Samples along rays where the octree's space is not empty."""

from kernels.traverse.api import Traversed, traverse
from kernels.traverse.occupancy import pack_occupancy, tree_occupancy

__all__ = ["Traversed", "pack_occupancy", "traverse", "tree_occupancy"]
