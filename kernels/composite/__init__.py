"""Emission-absorption compositing of the samples along rays."""

from kernels.composite.api import Composited, composite

__all__ = ["Composited", "composite"]
