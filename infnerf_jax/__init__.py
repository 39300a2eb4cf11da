"""InfNeRF in JAX: `infnerf_jax.load(workdir).render(camera)`."""

_EXPORTS = {
    'load': 'infnerf_jax.loaded',
    'LoadedScene': 'infnerf_jax.loaded',
    'make_camera': 'infnerf_jax.geometry.cameras',
    'look_at': 'infnerf_jax.geometry.cameras',
}


def __getattr__(name):
  # Lazily: `import infnerf_jax` alone must not take the seconds of JAX.
  if name in _EXPORTS:
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
