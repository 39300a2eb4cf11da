"""Imports point down: a lower layer knows nothing of a higher one."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

# Lowest first. A module may import its own package and all lower layers; two
# packages of one layer do not know each other.
_LAYERS = (
    (
        'infnerf_jax.errors',
        'infnerf_jax.heap',
        'infnerf_jax.command',
        'infnerf_jax.json_files',
        'infnerf_jax.npz_files',
        'infnerf_jax.profiler',
        'infnerf_jax.progress',
        'infnerf_jax.provenance',
    ),
    ('kernels', 'infnerf_jax.geometry', 'infnerf_jax.sharding'),
    ('infnerf_jax.scene',),
    # Built from a scene's points and cameras.
    ('infnerf_jax.octree',),
    ('infnerf_jax.models',),
    ('infnerf_jax.render', 'infnerf_jax.storage'),
    ('infnerf_jax.streaming',),
    ('infnerf_jax.training',),
    ('infnerf_jax.evaluation',),
    ('infnerf_jax.capture', 'infnerf_jax.products', 'infnerf_jax.viewer'),
    # Measures products against photos and truth.
    ('infnerf_jax.accuracy',),
    # The face of the library: its other modules, such as `infnerf_jax.doctor`.
    ('infnerf_jax',),
    ('configs',),
    ('experiments',),
)
_OURS = ('infnerf_jax', 'kernels', 'configs', 'experiments')
# Small helpers that everything may use, each other included.
_BASE = _LAYERS[0]


def package_of(module):
  """The entry of _LAYERS that a module belongs to, and its layer."""
  for layer, packages in enumerate(_LAYERS):
    for package in packages:
      if module == package or module.startswith(package + '.'):
        if package == 'infnerf_jax' and module.count('.') > 1:
          raise ValueError(f'{module}: its package has no layer')
        return package, layer
  raise ValueError(f'{module}: has no layer')


def is_module(name):
  path = _ROOT / name.replace('.', '/')
  return path.with_suffix('.py').exists() or path.is_dir()


def imported(source):
  """Modules that a source imports anywhere, functions included."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        yield name if is_module(name) else node.module


def violations(module, source):
  """Imports of a module that do not point down."""
  package, layer = package_of(module)
  found = []
  for name in imported(source):
    if name.split('.')[0] not in _OURS:
      continue
    other, other_layer = package_of(name)
    helps = package in _BASE and other in _BASE
    if other != package and other_layer >= layer and not helps:
      found.append(f'{module} imports {name}')
  return found


def sources():
  for top in _OURS:
    for path in sorted((_ROOT / top).rglob('*.py')):
      name = '.'.join(path.relative_to(_ROOT).with_suffix('').parts)
      yield name.removesuffix('.__init__'), path.read_text(encoding='utf-8')


def test_imports_point_down():
  found, count = [], 0
  for module, source in sources():
    found += violations(module, source)
    count += 1
  assert count > 30
  assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    'module,source,count',
    [
        ('infnerf_jax.octree.build', 'from infnerf_jax.models import pool', 1),
        ('infnerf_jax.octree.build', 'from infnerf_jax import training', 1),
        ('infnerf_jax.octree.build', 'import infnerf_jax.scene.scene', 0),
        ('infnerf_jax.scene.scene', 'import infnerf_jax.octree.tree', 1),
        ('infnerf_jax.render.a', 'from infnerf_jax.storage import leaves', 1),
        ('infnerf_jax.octree.build', 'def f():\n  import experiments.x', 1),
        ('kernels.locate.api', 'from infnerf_jax.geometry import cameras', 1),
        ('infnerf_jax.scene.scene', 'from infnerf_jax import doctor', 1),
        ('infnerf_jax.scene.scene', 'from infnerf_jax import errors', 0),
        ('infnerf_jax.scene.scene', 'from infnerf_jax.scene import ply', 0),
        ('infnerf_jax.doctor', 'from kernels.native import build', 0),
        ('infnerf_jax.command', 'import jax\nimport infnerf_jax.errors', 0),
        ('infnerf_jax.errors', 'from infnerf_jax.octree import tree', 1),
        ('experiments.train', 'from infnerf_jax import training', 0),
    ],
)
def test_the_rule_itself(module, source, count):
  assert len(violations(module, source)) == count


@pytest.mark.parametrize('top', ['configs', 'infnerf_jax/command.py'])
def test_launching_stays_light(top):
  """Configs and the command boundary import no numerical library."""
  path = _ROOT / top
  heavy = {'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'kernels', 'orbax'}
  for file in [path] if path.is_file() else path.rglob('*.py'):
    for name in imported(file.read_text(encoding='utf-8')):
      assert name.split('.')[0] not in heavy, f'{file.name} imports {name}'
      if name.startswith('infnerf_jax'):
        light = name in ('infnerf_jax.errors', 'infnerf_jax.heap')
        assert light, f'{file.name} imports {name}'
