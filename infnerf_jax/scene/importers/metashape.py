"""Reader of Agisoft Metashape's cameras (File > Export > Export Cameras).

An XML file with any number of sensors beside `images/` or the photos
themselves. Where the project is georeferenced its coordinates are metres from
the Earth's centre; the scene then lies east, north, up about its cameras.
`sparse_points.ply` beside it is taken to be in the project's own coordinates,
as the cameras' poses are.

A frame camera is (manual, appendix on camera models), with x = X/Z, y = Y/Z:
x' = x R + (p1 (r2 + 2 x2) + 2 p2 x y) T, y' = y R + (p2 (r2 + 2 y2) +
2 p1 x y) T, R = 1 + k1 r2 + k2 r4 + k3 r6 + k4 r8, T = 1 + p3 r2 + p4 r4,
u = w/2 + cx + f x' + b1 x' + b2 y', v = h/2 + cy + f y'.
"""

import pathlib
from xml.etree import ElementTree as StandardTree

import defusedxml
import numpy as np
from defusedxml import ElementTree

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import camera_models, photo_files, validate
from infnerf_jax.scene.importers import drafting, lens_fit

_TRUE = ('true', '1')


def is_export(path: pathlib.Path) -> bool:
  """Whether a file begins like Metashape's cameras."""
  if path.suffix.lower() != '.xml':
    return False
  with open(path, 'rb') as file:
    head = file.read(4096)
  return b'<document' in head and b'<chunk' in head


def read(source: pathlib.Path) -> validate.Draft:
  """Reads an export.

  Args:
    source: the XML file.

  Returns:
    Draft.

  Raises:
    InputError: malformed or hostile XML, unknown sensors, unsafe labels.
  """
  chunk = _chunk(source)
  lenses = {
      sensor.get('id'): _sensor(sensor, source)
      for sensor in chunk.iterfind('sensors/sensor')
  }
  placements = _placements(chunk, source)
  views, skipped = [], []
  for camera, group in _cameras(chunk):
    view = _view(camera, group, lenses, placements, source)
    if view is None:
      skipped.append(str(camera.get('label')))
    else:
      views.append(view)
  points, report = drafting.points_beside(source.parent)
  if points is not None and len(placements) == 1:
    (placement,) = placements.values()
    moved = points.positions @ placement[:3, :3].T + placement[:3, 3]
    points = points._replace(positions=moved)
  report['photos_without_pose'] = skipped
  frame = None
  centres = np.array([v.pose[:3, 3] for v in views]).reshape(-1, 3)
  if len(views) and drafting.is_geocentric(centres):
    frame = drafting.frame_on_earth(np.round(np.median(centres, axis=0)))
    poses = drafting.into_frame([v.pose for v in views], frame)
    views = [v._replace(pose=p) for v, p in zip(views, poses, strict=True)]
    if points is not None:
      turn = np.asarray(frame['rotation'])
      moved = (points.positions - frame['offset']) @ turn.T
      points = points._replace(positions=moved)
  return drafting.draft(
      'metashape', source, views, pose_field='transform', points=points,
      frame=frame, report=report,
  )  # fmt: skip


def _chunk(source: pathlib.Path):
  try:
    root = ElementTree.parse(source).getroot()
  except (
      defusedxml.DefusedXmlException,
      StandardTree.ParseError,
      OSError,
      ValueError,
  ) as error:
    why = photo_files.reason(error)
    if isinstance(error, defusedxml.DefusedXmlException):
      why = 'entities or a document type, which are not read'
    raise errors.InputError(
        f"{source}: got {why}, expected Metashape's cameras in XML"
    ) from None
  chunk = root.find('chunk')
  if chunk is None:
    raise errors.InputError(f'{source}: chunk: got nothing, expected one')
  return chunk


def _numbers(element, tag: str, count: int, where: str) -> np.ndarray | None:
  """Numbers of a child's text, None without that child."""
  child = element.find(tag)
  if child is None or not (child.text or '').strip():
    return None
  try:
    values = np.array([float(x) for x in child.text.split()])
  except ValueError:
    values = np.zeros(0)
  if len(values) != count or not np.isfinite(values).all():
    raise errors.InputError(
        f'{where}: {tag}: got {child.text.split()[:20]}, expected'
        f' {count} finite numbers'
    )
  return values


def _sensor(sensor, source):
  """(lens, (width, height)), or an InputError for whoever uses the sensor."""
  where = f'{source}: sensor {sensor.get("label") or sensor.get("id")}'
  kind = sensor.get('type', 'frame')
  calibration = next(
      (
          c
          for c in sensor.iterfind('calibration')
          if c.get('class') in (None, 'adjusted')
      ),
      sensor.find('calibration'),
  )
  if kind not in ('frame', 'fisheye'):
    return errors.InputError(
        f'{where}: type: got {kind!r}, expected frame or fisheye'
    )
  if calibration is None:
    return errors.InputError(f'{where}: calibration: got nothing, expected one')
  resolution = calibration.find('resolution')
  if resolution is None:
    resolution = sensor.find('resolution')
  fields = {} if resolution is None else resolution.attrib
  try:
    size = int(fields['width']), int(fields['height'])
  except (KeyError, ValueError):
    raise errors.InputError(
        f'{where}: resolution: got {dict(fields)}, expected width and height'
    ) from None
  return _lens(calibration, kind, size, where), size


def _lens(calibration, kind: str, size, where: str) -> camera_models.Lens:
  names = ('f', 'cx', 'cy', 'b1', 'b2', 'k1', 'k2', 'k3', 'k4')
  names += ('p1', 'p2', 'p3', 'p4')
  found = {n: _numbers(calibration, n, 1, where) for n in names}
  values = {n: 0.0 if v is None else float(v[0]) for n, v in found.items()}
  if not values['f'] > 0:
    raise errors.InputError(
        f'{where}: f: got {values["f"]}, expected a positive focal length in'
        ' pixels'
    )
  f, b1 = values['f'], values['b1']
  intrinsics = np.array(
      [f + b1, f, size[0] / 2 + values['cx'], size[1] / 2 + values['cy']]
  )
  distortion = np.zeros(cameras_lib.NUM_DISTORTION)
  radial = [values[f'k{i}'] for i in (1, 2, 3, 4)]
  if kind == 'fisheye':
    odd = [n for n in ('b2', 'p1', 'p2', 'p3', 'p4') if values[n]]
    if odd:
      raise errors.InputError(
          f'{where}: {odd[0]}: got {values[odd[0]]} of a fisheye lens, expected'
          ' 0'
      )
    distortion[:4] = radial
    return camera_models.Lens(cameras_lib.FISHEYE, intrinsics, distortion)
  # OpenCV's first tangential coefficient is Metashape's second.
  distortion[:5] = [*radial[:2], values['p2'], values['p1'], radial[2]]
  lens = camera_models.Lens(cameras_lib.PERSPECTIVE, intrinsics, distortion)
  if not any(values[n] for n in ('k4', 'p3', 'p4', 'b2')):
    return lens
  project = lambda plane: _project(plane, values, intrinsics)
  return lens_fit.fit(project, lens, size, where=where)


def _project(plane, values, intrinsics) -> np.ndarray:
  """Pixels [N, 2] of x/z, y/z [N, 2]: the module's formula."""
  x, y = plane[:, 0], plane[:, 1]
  r2 = x * x + y * y
  k1, k2, k3, k4 = (values[f'k{i}'] for i in (1, 2, 3, 4))
  p1, p2, p3, p4 = (values[f'p{i}'] for i in (1, 2, 3, 4))
  radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
  tangential = 1 + r2 * (p3 + r2 * p4)
  u = x * radial + (p1 * (r2 + 2 * x * x) + 2 * p2 * x * y) * tangential
  v = y * radial + (p2 * (r2 + 2 * y * y) + 2 * p1 * x * y) * tangential
  fx, fy, cx, cy = intrinsics
  return np.stack([cx + fx * u + values['b2'] * v, cy + fy * v], axis=-1)


def _placements(chunk, source) -> dict[str | None, np.ndarray]:
  """[4, 4] scaled rotation and shift of each component, by its id."""
  found = {
      component.get('id'): _placement(component, source)
      for component in chunk.iterfind('components/component')
  }
  return found or {None: _placement(chunk, source)}


def _placement(element, source) -> np.ndarray:
  """[4, 4] of an element's `transform`; nothing moves without one."""
  matrix = np.eye(4)
  transform = element.find('transform')
  if transform is None:
    return matrix
  where = f'{source}: transform'
  whole = _numbers(element, 'transform', 16, where)
  if whole is not None:
    return whole.reshape(4, 4)
  rotation = _numbers(transform, 'rotation', 9, where)
  shift = _numbers(transform, 'translation', 3, where)
  scale = _numbers(transform, 'scale', 1, where)
  if rotation is not None:
    matrix[:3, :3] = rotation.reshape(3, 3)
  if scale is not None:
    matrix[:3, :3] *= scale
  if shift is not None:
    matrix[:3, 3] = shift
  return matrix


def _cameras(chunk):
  """(camera, label of its group) of all cameras, in groups or not."""
  for entry in chunk.iterfind('cameras/*'):
    if entry.tag == 'camera':
      yield entry, ''
    elif entry.tag == 'group':
      for camera in entry.iterfind('camera'):
        yield camera, entry.get('label') or ''


def _view(camera, group, lenses, placements, source) -> drafting.View | None:
  """A camera that is in use and has a pose; None otherwise."""
  label = camera.get('label') or ''
  where = f'{source}: camera {label}'
  pose = _numbers(camera, 'transform', 16, where)
  if pose is None or str(camera.get('enabled', 'true')).lower() not in _TRUE:
    return None
  lens = lenses.get(camera.get('sensor_id'))
  if lens is None or isinstance(lens, errors.InputError):
    raise lens or errors.InputError(
        f'{where}: sensor_id: got {camera.get("sensor_id")!r}, expected one of'
        f' {", ".join(map(str, lenses))}'
    )
  component = camera.get('component_id')
  placement = placements.get(component, next(iter(placements.values())))
  pose = placement @ pose.reshape(4, 4)
  # The placement's scale is the world's, not the camera's.
  scale = np.cbrt(np.linalg.det(placement[:3, :3]))
  if not scale > 0:
    raise errors.InputError(
        f'{source}: transform: got one that mirrors or flattens, expected a'
        ' rotation and a positive scale'
    )
  pose[:3, :3] /= scale
  name, path = drafting.photo_path(
      source.parent, label, where=where, within=group
  )
  return drafting.View(name, path, *lens, pose[:3])
