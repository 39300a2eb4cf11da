"""Reader of RealityCapture's CSV (registration, internal/external parameters).

Columns `#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2`, beside
`images/` or the photos themselves. Angles are degrees: at zero a camera looks
straight down with north at the top; heading turns it clockwise, pitch tips its
top up, roll follows. Focal length and principal point are millimetres of a
sensor 36 mm along the photo's longer side. Positions are metres of whatever
coordinate system was exported; degrees are refused. `sparse_points.ply` beside
it is taken to be in the same coordinates.
"""

import csv
import math
import pathlib

import numpy as np

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_models, photo_files, validate
from infnerf_jax.scene.importers import drafting, lens_fit

_POSE = ('x', 'y', 'alt', 'heading', 'pitch', 'roll')
_LENS = ('f', 'px', 'py', 'k1', 'k2', 'k3', 'k4', 't1', 't2')
_REQUIRED = ('#name', *_POSE, 'f')
_FULL_FRAME_MM = 36.0
# Flights that span less than this in x and y, far from zero, are degrees.
_DEGREES_SPAN = 0.5
_OPENGL_TO_OURS = np.diag([1.0, -1.0, -1.0])


def is_export(path: pathlib.Path) -> bool:
  """Whether a file begins like this program's CSV."""
  if path.suffix.lower() != '.csv':
    return False
  with open(path, 'rb') as file:
    head = file.read(4096)
  return b'#name,' in head and b'heading' in head


def read(source: pathlib.Path) -> validate.Draft:
  """Reads an export.

  Args:
    source: the CSV file.

  Returns:
    Draft.

  Raises:
    InputError: missing columns, no numbers, degrees, unsafe names.
  """
  rows = _rows(source)
  labels = [row['#name'] for row in rows]
  where = [f'{source}: photo {label}' for label in labels]
  places = [
      drafting.photo_path(source.parent, label, where=w)
      for label, w in zip(labels, where, strict=True)
  ]
  sizes = _sizes([path for _, path in places])
  views = []
  for row, (name, path), size, w in zip(
      rows, places, sizes, where, strict=True
  ):
    numbers = {k: _number(row, k, w) for k in (*_POSE, *_LENS)}
    # Of an absent photo nothing is known and nothing wanted.
    size = size or (1, 1)
    views.append(
        drafting.View(name, path, _lens(numbers, size, w), size, _pose(numbers))
    )
  _refuse_degrees(source, views)
  points, report = drafting.points_beside(source.parent)
  return drafting.draft(
      'reality_capture', source, views, pose_field='x,y,alt,heading,pitch,roll',
      points=points, report=report,
  )  # fmt: skip


def _rows(source: pathlib.Path) -> list[dict[str, str]]:
  try:
    text = source.read_text(encoding='utf-8-sig')
  except (OSError, UnicodeDecodeError) as error:
    raise errors.InputError(
        f'{source}: got {photo_files.reason(error)}, expected CSV in UTF-8'
    ) from None
  lines = text.splitlines()
  start = next(
      (i for i, line in enumerate(lines) if line.startswith('#name')), 0
  )
  reader = csv.DictReader(lines[start:], skipinitialspace=True)
  missing = [n for n in _REQUIRED if n not in (reader.fieldnames or ())]
  if missing:
    raise errors.InputError(
        f'{source}: got no column {", ".join(missing)}, expected'
        f' {",".join(("#name", *_POSE, *_LENS))}'
    )
  return [row for row in reader if (row['#name'] or '').strip()]


def _number(row, name: str, where: str) -> float:
  """A column's number; 0 where there is no such column."""
  text = row.get(name)
  if name not in row:
    return 0.0
  try:
    value = float(text)
  except (TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value):
    raise errors.InputError(
        f'{where}: {name}: got {text!r}, expected a finite number'
    )
  return value


def _sizes(paths) -> list[tuple[int, int] | None]:
  """(width, height) of each photo; the export does not say them."""
  names = [str(i) for i in range(len(paths))]
  found = photo_files.find(names, paths)
  sizes = [None] * len(paths)
  for row, (width, height) in zip(found.rows, found.sizes, strict=True):
    sizes[row] = int(width), int(height)
  return sizes


def _lens(numbers, size, where) -> camera_models.Lens:
  pixels = max(size) / _FULL_FRAME_MM
  focal = numbers['f'] * pixels
  if not focal > 0:
    raise errors.InputError(
        f'{where}: f: got {numbers["f"]}, expected a positive focal length in'
        ' millimetres'
    )
  center = [
      half / 2 + numbers[p] * pixels
      for half, p in zip(size, ('px', 'py'), strict=True)
  ]
  distortion = np.zeros(cameras_lib.NUM_DISTORTION)
  distortion[:5] = [numbers[n] for n in ('k1', 'k2', 't1', 't2', 'k3')]
  lens = camera_models.Lens(
      cameras_lib.PERSPECTIVE, np.array([focal, focal, *center]), distortion
  )
  if not numbers['k4'] or size == (1, 1):
    return lens

  def project(plane):
    x, y = plane[:, 0], plane[:, 1]
    r2 = x * x + y * y
    k1, k2, k3, k4 = (numbers[f'k{i}'] for i in (1, 2, 3, 4))
    t1, t2 = numbers['t1'], numbers['t2']
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    u = x * radial + 2 * t1 * x * y + t2 * (r2 + 2 * x * x)
    v = y * radial + t1 * (r2 + 2 * y * y) + 2 * t2 * x * y
    return center + focal * np.stack([u, v], axis=-1)

  return lens_fit.fit(project, lens, size, where=where)


def _pose(numbers) -> np.ndarray:
  """[3, 4] camera to world, y down, z forward."""
  turn = lambda name: np.deg2rad(numbers[name])
  heading, pitch, roll = -turn('heading'), turn('pitch'), turn('roll')
  c, s = np.cos(pitch), np.sin(pitch)
  about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
  c, s = np.cos(roll), np.sin(roll)
  about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
  c, s = np.cos(heading), np.sin(heading)
  about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
  rotation = about_z @ about_x @ about_y @ _OPENGL_TO_OURS
  center = np.array([numbers['x'], numbers['y'], numbers['alt']])
  return np.concatenate([rotation, center[:, None]], axis=1)


def _refuse_degrees(source, views) -> None:
  """Longitude and latitude would pull all cameras into one point."""
  if len(views) < 2:
    return
  centres = np.array([view.pose[:, 3] for view in views])
  span = np.ptp(centres[:, :2], axis=0).max()
  middle = np.abs(np.median(centres, axis=0))
  in_range = middle[0] <= 180 and middle[1] <= 90
  if span < _DEGREES_SPAN and in_range and middle[:2].max() > 4 * span:
    if np.ptp(centres[:, 2]) > 4 * span or middle[2] > 40 * span:
      raise errors.InputError(
          f'{source}: x, y: got {centres[0, 0]:g}, {centres[0, 1]:g} and a span'
          f' of {span:g}, which are degrees, expected metres (export in a'
          ' projected or local coordinate system)'
      )
