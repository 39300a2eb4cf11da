"""The results of a sweep as a table: mean and spread over seeds, sorted."""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.evaluation import sweep

TABLE_JSON = 'table.json'
TABLE_TEXT = 'table.txt'
# Of these less is better; of scores and counts of rays more is.
_SMALLER_IS_BETTER = ('seconds', 'lpips', 'loss', 'num_nodes', 'touched')
_SHOWN = ('psnr', 'ssim', 'num_nodes', 'seconds')
_SEED = 'seed'


class Result(NamedTuple):
  """What came of a run.

  Attributes:
    name: its folder's name.
    values: what it changes, by config key.
    scores: numbers by name (`by_pyramid_level.1.psnr`); None: not finished.
  """

  name: str
  values: dict[str, Any]
  scores: dict[str, float] | None


def read_results(workdir) -> list[Result]:
  """Reads what there is of a sweep, finished or not.

  Args:
    workdir: of the sweep.

  Returns:
    One Result a run, in the order of the sweep.

  Raises:
    InputError: no sweep in this folder.
  """
  workdir = pathlib.Path(workdir)
  plan = json_files.read_json(workdir / sweep.PLAN)
  try:
    rows = [(r['name'], r['values'], r['num_steps']) for r in plan['runs']]
  except (KeyError, TypeError):
    raise errors.InputError(
        f'{workdir / sweep.PLAN}: got no runs, expected those of a sweep'
    ) from None
  return [
      Result(name, values, _scores(workdir / sweep.RUNS / name, num_steps))
      for name, values, num_steps in rows
  ]


def _scores(folder: pathlib.Path, num_steps: int) -> dict[str, float] | None:
  path = folder / 'eval.json'
  if not path.is_file():
    return None
  content = json_files.read_json(path)
  if not isinstance(content, dict) or content.get('num_steps') != num_steps:
    return None
  scores = _numbers(content)
  if seconds := sweep.seconds_of(folder):
    scores['seconds'] = seconds
  return scores


def _numbers(value, prefix: str = '') -> dict[str, float]:
  """Numbers of nested JSON by dotted name; photos one by one are left out."""
  found = {}
  rows = value.items() if isinstance(value, dict) else enumerate(value)
  for key, item in rows:
    name = f'{prefix}{key}'
    if name == 'by_photo':
      continue
    if isinstance(item, dict | list):
      found.update(_numbers(item, f'{name}.'))
    elif isinstance(item, int | float) and not isinstance(item, bool):
      found[name] = float(item)
  return found


def make_table(results, metric: str = 'psnr') -> dict[str, Any]:
  """Groups runs that differ by their seed alone and sorts the groups.

  Args:
    results: see `read_results`.
    metric: name of a score; the best group comes first.

  Returns:
    `metric`, `keys` (config keys that differ) and `rows`, each with `values`,
    `runs`, `finished`, `seeds`, and by score `mean`, `spread` (standard
    deviation over the finished runs; None of one), `min` and `max`. Groups
    without a finished run come last.

  Raises:
    InputError: no finished run has that score.
  """
  known = sorted({k for r in results if r.scores for k in r.scores})
  if known and metric not in known:
    raise errors.InputError(
        f'--metric: got {metric!r}, expected one of {", ".join(known)}'
    )
  groups = {}
  for result in results:
    values = {k: v for k, v in result.values.items() if k != _SEED}
    key = sweep.run_name(values)
    groups.setdefault(key, (values, []))[1].append(result)
  rows = [_row(values, members) for values, members in groups.values()]
  sign = 1 if any(w in metric for w in _SMALLER_IS_BETTER) else -1
  rows.sort(key=lambda r: sign * r['mean'].get(metric, sign * math.inf))
  keys = list(dict.fromkeys(k for row in rows for k in row['values']))
  return {'metric': metric, 'keys': keys, 'rows': rows}


def _row(values, members) -> dict[str, Any]:
  finished = [r.scores for r in members if r.scores is not None]
  names = sorted({name for scores in finished for name in scores})
  row = {
      'values': values,
      'runs': [r.name for r in members],
      'finished': len(finished),
      'seeds': [r.values[_SEED] for r in members if _SEED in r.values],
      **{kind: {} for kind in ('mean', 'spread', 'min', 'max')},
  }
  for name in names:
    x = np.array([scores[name] for scores in finished if name in scores])
    row['mean'][name] = float(x.mean())
    row['spread'][name] = float(x.std(ddof=1)) if len(x) > 1 else None
    row['min'][name], row['max'][name] = float(x.min()), float(x.max())
  return row


def as_text(table) -> str:
  """A table (see `make_table`) in columns of one width."""
  metric, rows = table['metric'], table['rows']
  names = list(dict.fromkeys((metric, *_SHOWN)))
  names = [n for n in names if any(n in row['mean'] for row in rows)]
  lines = [[*table['keys'], 'runs', *names]]
  for row in rows:
    cells = [_show(row['values'].get(key, '')) for key in table['keys']]
    cells.append(f'{row["finished"]}/{len(row["runs"])}')
    cells += [_show_score(row, name) for name in names]
    lines.append(cells)
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
      '  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
      for line in lines
  )


def _show(value) -> str:
  return value if isinstance(value, str) else repr(value)


def _show_score(row, name: str) -> str:
  if name not in row['mean']:
    return '-'
  digits = 4 if abs(row['mean'][name]) < 2 else 2
  text = f'{row["mean"][name]:.{digits}f}'
  spread = row['spread'][name]
  return text if spread is None else f'{text} +- {spread:.{digits}f}'


def write_table(workdir, metric: str = 'psnr') -> dict[str, Any]:
  """Writes `table.json` and `table.txt` of a sweep.

  Args:
    workdir: of the sweep.
    metric: see `make_table`.

  Returns:
    The table.

  Raises:
    InputError: see `read_results`, `make_table`.
  """
  workdir = pathlib.Path(workdir)
  table = make_table(read_results(workdir), metric)
  json_files.write_json_atomic(workdir / TABLE_JSON, table)
  json_files.write_text_atomic(workdir / TABLE_TEXT, as_text(table) + '\n')
  return table
