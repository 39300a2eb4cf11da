"""What Triton kernels share: calling, interpreting, compiling, cross-lowering.

Nothing here imports triton or jax_triton before a Triton backend is asked for.
"""
