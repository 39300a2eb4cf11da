"""Views of a browser as cameras, and back.

A browser's camera has the axes of ours (x right, y down, z forward), a
quaternion w, x, y, z, a vertical field of view in radians, and a world whose
origin is the root's centre: its float32 would not hold map coordinates.
"""

import math
from typing import NamedTuple

import numpy as np

from infnerf_jax.geometry import cameras as cameras_lib

# Vertical field of view of the browser while a picture is orthographic: so
# narrow that what it draws itself lies where the picture has it.
ORTHO_FOV = math.radians(3.0)


class View(NamedTuple):
  """What a client looks at.

  Attributes:
    position: [3] float64 metres, world.
    rotation: [3, 3] camera to world.
    fov: vertical, radians.
    width: pixels of the client's canvas.
    height: pixels.
    target: [3] metres, what the view turns about.
    orthographic: parallel rays; the scale is the perspective's at the target.
  """

  position: np.ndarray
  rotation: np.ndarray
  fov: float
  width: int
  height: int
  target: np.ndarray
  orthographic: bool = False


class Level(NamedTuple):
  """Level axes of a scene, for measuring.

  Attributes:
    rotation: [3, 3], rows are the unit vectors east, north and up.
  """

  rotation: np.ndarray

  def to_level(self, points) -> np.ndarray:
    """[..., 3] metres east, north, up of world points."""
    return np.asarray(points, np.float64) @ self.rotation.T

  def to_world(self, points) -> np.ndarray:
    """Inverse of `to_level`."""
    return np.asarray(points, np.float64) @ self.rotation


def make_level(up) -> Level:
  """Level axes about an up direction [3]; east lies near +x."""
  up = np.asarray(up, np.float64)
  up = up / np.linalg.norm(up)
  axis = np.eye(3)[0 if abs(up[0]) < 0.9 else 1]
  east = axis - up * (axis @ up)
  east /= np.linalg.norm(east)
  return Level(np.stack([east, np.cross(up, east), up]))


def quaternion_to_rotation(wxyz) -> np.ndarray:
  """[3, 3] rotation of a quaternion [4] w, x, y, z of any length but zero."""
  w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
  return np.array(
      [
          [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
          [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
          [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
      ]
  )


def rotation_to_quaternion(rotation) -> np.ndarray:
  """[4] unit quaternion w, x, y, z of a rotation [3, 3], w >= 0."""
  r = np.asarray(rotation, np.float64)
  # The four squares, from which the largest is taken: no division by nearly
  # zero (Shepperd's method).
  trace = np.trace(r)
  squares = np.array([trace, r[0, 0], r[1, 1], r[2, 2]])
  largest = int(np.argmax(squares))
  if largest == 0:
    q = [1 + trace, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]
  else:
    i = largest - 1
    j, k = (i + 1) % 3, (i + 2) % 3
    q = [0.0] * 4
    q[0] = r[k, j] - r[j, k]
    q[1 + i] = 1 + r[i, i] - r[j, j] - r[k, k]
    q[1 + j] = r[j, i] + r[i, j]
    q[1 + k] = r[k, i] + r[i, k]
  q = np.array(q) / np.linalg.norm(q)
  return q if q[0] >= 0 else -q


def is_valid(view: View) -> bool:
  """Whether a picture of the view can be made; clients send what they like."""
  numbers = np.concatenate(
      [np.ravel(view.position), np.ravel(view.rotation), np.ravel(view.target)]
  )
  return bool(
      np.isfinite(numbers).all()
      and np.abs(numbers).max() < 1e12
      and math.isfinite(view.fov)
      and 1e-4 < view.fov < math.pi - 1e-3
      and 0 < view.width <= 16384
      and 0 < view.height <= 16384
  )


def pixels_per_metre(view: View) -> float:
  """Of the picture at the target's depth."""
  depth = abs(float((view.target - view.position) @ view.rotation[:, 2]))
  return 0.5 * view.height / (math.tan(view.fov / 2) * max(depth, 1e-9))


def to_camera(view: View, box, near: float) -> cameras_lib.Cameras:
  """The camera of a view, a single row.

  Args:
    view: valid.
    box: [2, 3] metres of the scene.
    near: metres that an orthographic camera keeps before the box: parallel
      rays show the same from anywhere, so they begin where the scene does.

  Returns:
    Cameras.
  """
  position, focal = np.asarray(view.position, np.float64), 0.0
  if view.orthographic:
    focal = pixels_per_metre(view)
    forward = view.rotation[:, 2]
    corners = np.array(
        [[box[i][0], box[j][1], box[k][2]] for i, j, k in np.ndindex(2, 2, 2)]
    )
    first = float(((corners - position) @ forward).min())
    position = position + (first - near) * forward
  else:
    focal = 0.5 * view.height / math.tan(view.fov / 2)
  return cameras_lib.make_camera(
      focal=focal,
      width=view.width,
      height=view.height,
      cam_to_world=np.concatenate([view.rotation, position[:, None]], axis=1),
      projection=(
          cameras_lib.ORTHOGRAPHIC
          if view.orthographic
          else cameras_lib.PERSPECTIVE
      ),
  )


def part_of(
    camera: cameras_lib.Cameras, left: float, top: float, width, height
) -> cameras_lib.Cameras:
  """The camera of a rectangle of another's picture: the same rays.

  Args:
    camera: a single row.
    left: pixels of the camera.
    top: pixels.
    width: pixels of the rectangle.
    height: pixels.

  Returns:
    Cameras; its picture needs memory for the rectangle only.
  """
  shift = np.array([0.0, 0.0, left, top])
  return camera._replace(
      intrinsics=np.asarray(camera.intrinsics, np.float64) - shift,
      width=np.int32(math.ceil(width)),
      height=np.int32(math.ceil(height)),
  )


def pixel_camera(camera: cameras_lib.Cameras, u: float, v: float):
  """The camera of the one pixel about a place of a picture.

  Args:
    camera: a single row.
    u: 0 (left) to 1 (right).
    v: 0 (top) to 1 (bottom).

  Returns:
    Cameras of one pixel, whose middle is the place.
  """
  x, y = u * float(camera.width), v * float(camera.height)
  return part_of(camera, x - 0.5, y - 0.5, 1, 1)


def top_view(view: View, level: Level) -> View:
  """The same target at the same scale from straight above, north upwards.

  Args:
    view: any.
    level: axes.

  Returns:
    View, orthographic.
  """
  east, north, up = level.rotation
  return orthographic(
      view._replace(rotation=np.stack([east, -north, -up], axis=-1))
  )


def orthographic(view: View) -> View:
  """A view along the same axis with parallel rays, the target in its middle."""
  if view.orthographic:
    scale = pixels_per_metre(view)
  else:
    focal = 0.5 * view.height / math.tan(view.fov / 2)
    scale = focal / max(np.linalg.norm(view.target - view.position), 1e-9)
  far = 0.5 * view.height / (scale * math.tan(ORTHO_FOV / 2))
  return view._replace(
      position=view.target - far * view.rotation[:, 2],
      fov=ORTHO_FOV,
      orthographic=True,
  )


def perspective(view: View, fov: float) -> View:
  """The view with rays from one point, at the same scale at the target."""
  scale = pixels_per_metre(view)
  far = 0.5 * view.height / (scale * math.tan(fov / 2))
  return view._replace(
      position=view.target - far * view.rotation[:, 2],
      fov=fov,
      orthographic=False,
  )


def of_photo(camera: cameras_lib.Cameras, view: View, distance: float) -> View:
  """A photo's place and direction as a view of a client's canvas.

  Args:
    camera: a single row.
    view: the client's, for its canvas.
    distance: metres to what the view turns about.

  Returns:
    View that holds the whole photo, without its distortion.
  """
  pose = np.asarray(camera.cam_to_world, np.float64)
  fx, fy = (float(f) for f in np.asarray(camera.intrinsics)[:2])
  half = max(
      0.5 * float(camera.height) / fy,
      0.5 * float(camera.width) / fx * view.height / view.width,
  )
  return view._replace(
      position=pose[:, 3],
      rotation=pose[:, :3],
      fov=2 * math.atan(half),
      target=pose[:, 3] + distance * pose[:, 2],
      orthographic=False,
  )


def nice_length(metres: float) -> float:
  """The largest of 1, 2, 5 times a power of ten that is not above a length."""
  power = 10.0 ** math.floor(math.log10(max(metres, 1e-12)))
  for digit in (5.0, 2.0, 1.0):
    if digit * power <= metres * (1 + 1e-9):
      return digit * power
  return power


def pixel_ray(
    camera: cameras_lib.Cameras, u: float, v: float
) -> tuple[np.ndarray, np.ndarray]:
  """The ray through a place of a picture, in float64.

  Args:
    camera: a single row without distortion.
    u: 0 (left) to 1 (right).
    v: 0 (top) to 1 (bottom).

  Returns:
    ([3] origin, [3] unit direction), metres, world.
  """
  pose = np.asarray(camera.cam_to_world, np.float64)
  fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
  x = (u * float(camera.width) - cx) / fx
  y = (v * float(camera.height) - cy) / fy
  if int(camera.projection) == cameras_lib.ORTHOGRAPHIC:
    return pose[:, 3] + pose[:, :2] @ np.array([x, y]), pose[:, 2]
  direction = pose[:, :3] @ np.array([x, y, 1.0])
  return pose[:, 3], direction / np.linalg.norm(direction)


def vertical_camera(
    level: Level, corner, along, width: int, height: int, gsd: float, top: float
) -> cameras_lib.Cameras:
  """A camera that looks straight down on a rectangle.

  Args:
    level: axes.
    corner: [2] metres east, north, of the picture's first pixel's corner.
    along: [2] direction in plan of the rows; columns run to its right.
    width: pixels.
    height: pixels.
    gsd: metres a pixel.
    top: metres up, where rays begin.

  Returns:
    Cameras, orthographic.
  """
  along = np.asarray(along, np.float64) / np.linalg.norm(along)
  axes = np.array(
      [[along[0], along[1], 0], [along[1], -along[0], 0], [0, 0, -1]]
  )
  place = level.to_world([corner[0], corner[1], top])
  rotation = level.to_world(axes).T
  return cameras_lib.make_camera(
      focal=1 / gsd,
      width=width,
      height=height,
      center=(0.0, 0.0),
      cam_to_world=np.concatenate([rotation, place[:, None]], axis=1),
      projection=cameras_lib.ORTHOGRAPHIC,
  )
