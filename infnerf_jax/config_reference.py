"""The configuration reference, made from the configs and their comments."""

import ast
import importlib
import inspect
import io
import pathlib
import tokenize
from typing import Any, NamedTuple

import ml_collections

_HEAD = """# Configuration reference

Made from `configs/` by `python -m experiments.configuration`; do not edit.

Any field is set on the command line: `--config.KEY=VALUE`, for example
`--config.optimizer.lr_initial=0.01` or
`--config.sampling.num_samples='(64, 32)'`. Unknown keys and values of another
type are refused. `config.json` in a run's folder holds all of them as they
were. Between starts of the same run only its length, its checkpoints' rhythm,
`max_memory_gb` and `logging` may change.
"""


class Field(NamedTuple):
  """A field of the config.

  Attributes:
    key: dotted.
    default: its value.
    comment: what stands beside or above it.
  """

  key: str
  default: Any
  comment: str


def _comments(source: str) -> dict[int, tuple[str, bool]]:
  """{line: (comment, whether it stands alone)}."""
  lines = source.splitlines()
  found = {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      row, column = token.start
      alone = not lines[row - 1][:column].strip()
      found[row] = (token.string.lstrip('# ').rstrip(), alone)
  return found


def _comment_of(node, comments) -> str:
  """Comments on a statement's lines and in the block right above it."""
  parts = []
  above = node.lineno - 1
  while above in comments and comments[above][1]:
    parts.insert(0, comments[above][0])
    above -= 1
  for row in range(node.lineno, node.end_lineno + 1):
    if row in comments:
      parts.append(comments[row][0])
  text = ''
  for part in parts:
    joint = (
        '. ' if text and part[:1].isupper() and text[-1] not in '.:;' else ' '
    )
    text = f'{text}{joint}{part}' if text else part
  return text


def read_fields(function) -> list[Field]:
  """Fields that a function of a config file sets, in their order.

  Args:
    function: takes nothing, returns a ConfigDict that it fills in statements
      `NAME.field = value`, where a name may stand for a part of the config.

  Returns:
    One Field each.
  """
  source = inspect.getsource(function)
  comments = _comments(source)
  config = function()
  prefixes = {'config': ''}
  fields = []
  for node in ast.parse(source).body[0].body:
    if not isinstance(node, ast.Assign):
      continue
    targets = [t for t in node.targets if isinstance(t, ast.Attribute)]
    names = [t.id for t in node.targets if isinstance(t, ast.Name)]
    for target in targets:
      if not isinstance(target.value, ast.Name):
        continue
      key = f'{prefixes[target.value.id]}{target.attr}'
      value = _get(config, key)
      if isinstance(value, ml_collections.ConfigDict):
        prefixes.update({name: f'{key}.' for name in names})
      else:
        fields.append(Field(key, value, _comment_of(node, comments)))
  return fields


def _get(config, key: str):
  for part in key.split('.'):
    config = config[part]
  return config


def flatten(config, prefix: str = '') -> dict[str, Any]:
  """Values by dotted key."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def _cell(text: str) -> str:
  return text.replace('|', '\\|')


def _tables(fields) -> list[str]:
  """A table for each part of the config."""
  lines, parts = [], {}
  for field in fields:
    parts.setdefault(field.key.rpartition('.')[0], []).append(field)
  for part, rows in parts.items():
    lines += [f'## `{part}`' if part else '## Top level', '']
    lines += ['| field | default | |', '|---|---|---|']
    for field in rows:
      lines.append(
          f'| `{field.key}` | `{_cell(repr(field.default))}` |'
          f' {_cell(field.comment)} |'
      )
    lines.append('')
  return lines


def document(base, modules) -> str:
  """The reference as Markdown.

  Args:
    base: function that makes the config of all defaults.
    modules: config modules by path (`configs/aerial.py`): their docstring and
      `get_config`.

  Returns:
    Text.
  """
  lines = [_HEAD, *_tables(read_fields(base))]
  defaults = flatten(base())
  lines += ['## Shipped configs', '', 'What each changes.', '']
  for path, module in sorted(modules.items()):
    title = inspect.getdoc(module).splitlines()[0]
    arguments = inspect.getdoc(module.get_config).splitlines()[0]
    lines += [f'### `{path}`', '', title, '', arguments, '']
    lines += ['| field | value | default |', '|---|---|---|']
    for key, value in flatten(module.get_config()).items():
      if key not in defaults or defaults[key] != value:
        before = f'`{_cell(repr(defaults[key]))}`' if key in defaults else ''
        lines.append(f'| `{key}` | `{_cell(repr(value))}` | {before} |')
    lines.append('')
  return '\n'.join(lines).rstrip() + '\n'


def document_folder(folder) -> str:
  """The reference of a folder of configs.

  Args:
    folder: a package that can be imported, with `common.py`, whose `base`
      makes the config of all defaults.

  Returns:
    Text, see `document`.
  """
  folder = pathlib.Path(folder)
  names = sorted(path.stem for path in folder.glob('*.py'))
  load = lambda name: importlib.import_module(f'{folder.name}.{name}')
  modules = {
      f'{folder.name}/{name}.py': load(name)
      for name in names
      if name not in ('__init__', 'common')
  }
  return document(load('common').base, modules)
