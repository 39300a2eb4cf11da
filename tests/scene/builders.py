"""Small scenes of every format, written to a folder for one test."""

import json
import pathlib

import numpy as np
import PIL.Image
import plyfile
import pycolmap

WIDTH, HEIGHT = 48, 36


def save_photo(path, *, size=(WIDTH, HEIGHT), seed=0, **options) -> np.ndarray:
  """Saves random pixels as the file's format; returns them [H, W, 3]."""
  pixels = np.random.default_rng(seed).integers(
      0, 256, (size[1], size[0], 3), np.uint8
  )
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(pixels).save(path, **options)
  return pixels


def rotation(seed: int) -> np.ndarray:
  """[3, 3] random rotation."""
  q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
  q = q * np.sign(np.diag(r))
  return q * np.sign(np.linalg.det(q))


def pose(seed: int, center=(0.0, 0.0, 0.0)) -> np.ndarray:
  """[4, 4] camera to world; the camera looks down on points near z = 0."""
  rng = np.random.default_rng(seed)
  matrix = np.eye(4)
  small = pycolmap.Rotation3d(rng.normal(size=3) * 0.05).matrix()
  matrix[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ small
  matrix[:3, 3] = rng.normal(size=3) + [0, 0, 10] + np.asarray(center)
  return matrix


def points(count: int = 20, center=(0.0, 0.0, 0.0)) -> np.ndarray:
  """[count, 3] positions below the cameras of `pose`."""
  rng = np.random.default_rng(99)
  return rng.uniform(-1.5, 1.5, (count, 3)) + np.asarray(center)


def save_ply(path, positions, *, dtype='f4', text=False) -> None:
  """A PLY file as other programs write them."""
  rows = np.zeros(
      len(positions),
      [(a, dtype) for a in 'xyz']
      + [(c, 'u1') for c in ('red', 'green', 'blue')],
  )
  for i, axis in enumerate('xyz'):
    rows[axis] = np.asarray(positions)[:, i]
  rows['red'] = np.arange(len(rows)) % 256
  element = plyfile.PlyElement.describe(rows, 'vertex')
  plyfile.PlyData([element], text=text).write(path)


def infnerf(folder, *, num_photos=4, center=(0.0, 0.0, 0.0), edit=None):
  """A scene in the InfNeRF format; `edit(entries)` changes cameras.json."""
  folder = pathlib.Path(folder)
  entries = {}
  for i in range(num_photos):
    name = f'{i:02d}.png'
    save_photo(folder / 'images' / name, seed=i)
    entries[name] = {
        'intrinsic': [[50.0, 0, 24.5], [0, 51.0, 17.5], [0, 0, 1]],
        'extrinsic': np.linalg.inv(pose(i, center)).tolist(),
        'width': WIDTH,
        'height': HEIGHT,
    }
  if edit is not None:
    edit(entries)
  (folder / 'cameras.json').write_text(json.dumps(entries))
  save_ply(folder / 'sparse_points.ply', points(center=center), dtype='f8')
  return folder


def transforms(folder, *, num_photos=4, fields=None, edit=None, suffix='.png'):
  """A transforms.json scene; `edit(content)` changes the file."""
  folder = pathlib.Path(folder)
  content = {
      'fl_x': 50.0,
      'fl_y': 51.0,
      'cx': 24.5,
      'cy': 17.5,
      'w': WIDTH,
      'h': HEIGHT,
      'frames': [],
  }
  content.update(fields or {})
  for i in range(num_photos):
    save_photo(folder / 'images' / f'{i:02d}{suffix}', seed=i)
    matrix = pose(i) @ np.diag([1.0, -1.0, -1.0, 1.0])
    content['frames'].append(
        {
            'file_path': f'images/{i:02d}{suffix}',
            'transform_matrix': matrix.tolist(),
        }
    )
  if edit is not None:
    edit(content)
  (folder / 'transforms.json').write_text(json.dumps(content))
  return folder


COLMAP_PARAMS = {
    'SIMPLE_PINHOLE': [50, 24.5, 17.5],
    'PINHOLE': [50, 51, 24.5, 17.5],
    'SIMPLE_RADIAL': [50, 24.5, 17.5, -0.05],
    'RADIAL': [50, 24.5, 17.5, -0.05, 0.02],
    'OPENCV': [50, 51, 24.5, 17.5, -0.05, 0.02, 0.003, -0.002],
    'FULL_OPENCV': [
        50, 51, 24.5, 17.5, 0.05, 0.02, 0.003, -0.002, 0.01, 0.1, 0.03, 0.02,
    ],
    'SIMPLE_FISHEYE': [50, 24.5, 17.5],
    'FISHEYE': [50, 51, 24.5, 17.5],
    'SIMPLE_RADIAL_FISHEYE': [50, 24.5, 17.5, 0.05],
    'RADIAL_FISHEYE': [50, 24.5, 17.5, 0.05, -0.01],
    'OPENCV_FISHEYE': [50, 51, 24.5, 17.5, 0.05, -0.01, 0.004, 0.002],
}  # fmt: skip


def reconstruction(
    models=('OPENCV',), *, names=None, center=(0.0, 0.0, 0.0), sizes=None
) -> pycolmap.Reconstruction:
  """A COLMAP model; photo i has camera model i % len(models)."""
  names = names or [f'{i:02d}.png' for i in range(4)]
  result = pycolmap.Reconstruction()
  for i, model in enumerate(models):
    width, height = (sizes or [(WIDTH, HEIGHT)] * len(models))[i]
    camera = pycolmap.Camera(
        camera_id=i + 1,
        model=model,
        width=width,
        height=height,
        params=COLMAP_PARAMS.get(model, []),
    )
    result.add_camera_with_trivial_rig(camera)
  positions = points(center=center)
  for i, name in enumerate(names):
    camera_id = i % len(models) + 1
    world_to_cam = np.linalg.inv(pose(i, center))
    transform = pycolmap.Rigid3d(world_to_cam[:3])
    seen = result.cameras[camera_id].img_from_cam(transform * positions)
    image = pycolmap.Image(
        name=name, keypoints=seen, camera_id=camera_id, image_id=i + 1
    )
    result.add_image_with_trivial_frame(image, transform)
  for p, position in enumerate(positions):
    track = pycolmap.Track()
    for i in range(len(names)):
      if (p + i) % 3:  # so that photos see different points
        track.add_element(i + 1, p)
    color = np.array([p, 2 * p, 3 * p], np.uint8)
    result.add_point3D(position, track, color)
  return result


def colmap(folder, *, text=False, where='sparse/0', photos=True, **options):
  """A COLMAP model on disk with its photos; returns (folder, model)."""
  folder = pathlib.Path(folder)
  model = reconstruction(**options)
  (folder / where).mkdir(parents=True, exist_ok=True)
  write = model.write_text if text else model.write_binary
  write(str(folder / where))
  for i, image in enumerate(model.images.values()):
    if photos:
      camera = model.cameras[image.camera_id]
      size = (camera.width, camera.height)
      save_photo(folder / 'images' / image.name, size=size, seed=i)
  return folder, model
