"""Adam of touched rows (hash tables) and touched slots (MLP weights)."""

from kernels.sparse_adam.api import slot_adam, sparse_adam, touched_slots

__all__ = ["slot_adam", "sparse_adam", "touched_slots"]
