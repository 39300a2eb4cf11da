"""Writes a drone survey of the procedural city as a scene folder."""

import concurrent.futures
import dataclasses
import json
import pathlib
import tempfile

import numpy as np
from PIL import Image
from rich import progress as rich_progress

from infnerf_jax import errors
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.scene import city as city_lib
from infnerf_jax.scene import scene as scene_lib
from infnerf_jax.scene import write
from infnerf_jax.scene.city import surveying

# Raised whenever the same options would give other photos.
_VERSION = 1
_BYTES_PER_PIXEL = 1.8  # of a PNG of these photos, measured


@dataclasses.dataclass(frozen=True)
class SynthesisOptions:
  """What a synthesised scene is made of.

  Attributes:
    extent: metres, side of the city.
    seed: of the city, the points and the exposures.
    num_photos: None: as many as the overlap asks for.
    altitudes: metres above the ground.
    overlap: of neighbouring nadir photos, where num_photos is None.
    width: pixels.
    height: pixels.
    supersampling: samples along each axis of a pixel.
    exposure_variation: 0 (none) to 1: spread of the photos' exposure and
      white balance; 1 means about 15 % brighter or darker.
    num_points: about how many sparse points.
  """

  extent: float = city_lib.DEFAULT_EXTENT
  seed: int = 0
  num_photos: int | None = None
  altitudes: tuple[float, ...] = surveying.DEFAULT_ALTITUDES
  overlap: float = surveying.DEFAULT_OVERLAP
  width: int = surveying.DEFAULT_PHOTO_SIZE[0]
  height: int = surveying.DEFAULT_PHOTO_SIZE[1]
  supersampling: int = 4
  exposure_variation: float = 0.0
  num_points: int = 20_000


def _stamp(options: SynthesisOptions) -> dict:
  """What scene.json says of the options; equal stamps mean equal scenes."""
  values = json.loads(json.dumps(dataclasses.asdict(options)))
  return {'version': _VERSION, **values}


def make_cameras(
    options: SynthesisOptions,
) -> tuple[city_lib.City, cameras_lib.Cameras]:
  """The city and its survey's cameras.

  Raises:
    InputError: options out of range.
  """
  if not 1 <= options.supersampling <= 16:
    raise errors.InputError(
        f'synthesize: supersampling: got {options.supersampling}, expected 1'
        ' to 16'
    )
  if not 0 <= options.exposure_variation <= 1:
    raise errors.InputError(
        'synthesize: exposure_variation: got'
        f' {options.exposure_variation}, expected 0 to 1'
    )
  if options.num_points < 1:
    raise errors.InputError(
        f'synthesize: num_points: got {options.num_points}, expected at least 1'
    )
  city = city_lib.make_city(seed=options.seed, extent=options.extent)
  cameras = city_lib.survey(
      city,
      num_photos=options.num_photos,
      altitudes=options.altitudes,
      overlap=options.overlap,
      photo_size=(options.width, options.height),
  )
  return city, cameras


def exposure_gains(options: SynthesisOptions, num_photos: int) -> np.ndarray:
  """[num_photos, 3] float32 factors of red, green and blue."""
  rng = np.random.default_rng([options.seed, 1])
  spread = np.array([0.15, 0.05]) * options.exposure_variation
  exposure = rng.normal(size=(num_photos, 1)) * spread[0]
  balance = rng.normal(size=(num_photos, 3)) * spread[1]
  return np.exp(exposure + balance).astype(np.float32)


def describe(options: SynthesisOptions) -> str:
  """One line that says what `synthesize` would make."""
  _, cameras = make_cameras(options)
  num = len(cameras.width)
  megapixels = num * options.width * options.height / 1e6
  return (
      f'{options.extent:g} m city, {num} photos of'
      f' {options.width} x {options.height} ({megapixels:.2g} megapixels),'
      f' about {options.num_points} points,'
      f' {megapixels * _BYTES_PER_PIXEL:.2g} MB'
  )


def synthesize(
    out_dir, options: SynthesisOptions, *, show_progress: bool = True
) -> pathlib.Path:
  """Writes a survey of the city in the InfNeRF format.

  A folder that holds the scene of the same options is left as it is; the
  folder appears when it is complete.

  Args:
    out_dir: folder to make; it may exist if empty or of the same options.
    options: see `SynthesisOptions`.
    show_progress: draw a progress bar.

  Returns:
    The folder.

  Raises:
    InputError: options out of range, or the folder holds something else.
  """
  out_dir = pathlib.Path(out_dir)
  city, cameras = make_cameras(options)
  if _holds_same(out_dir, options):
    return out_dir
  if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
    raise errors.InputError(
        f'{out_dir}: got something that is there already, expected a new'
        ' folder or the scene of the same options'
    )
  try:
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: /tmp may be small, and a later run finds it anew.
    with tempfile.TemporaryDirectory(
        prefix=f'.{out_dir.name}-', dir=out_dir.parent
    ) as folder:
      photos = _write_photos(
          pathlib.Path(folder), city, cameras, options, show_progress
      )
      points, visibility = city_lib.sparse_points(
          city, cameras, num_points=options.num_points, seed=options.seed
      )
      scene = scene_lib.Scene(
          photos=photos,
          cameras=cameras,
          points=points,
          visibility=visibility,
          frame=_frame(city, options, photos.names),
          report={'format': 'synthetic city', 'num_points': len(points.colors)},
      )
      write.write_infnerf(scene, out_dir, show_progress=False)
  except OSError as error:
    raise errors.InputError(
        f'{out_dir}: got {error.strerror or error}, expected a folder that can'
        ' be written'
    ) from None
  return out_dir


def _frame(city, options, names) -> dict:
  """Content of scene.json: the frame, and the city so that it can be remade."""
  gains = exposure_gains(options, len(names))
  return {
      'coordinate_system': 'east-north-up, metres',
      'offset': [0.0, 0.0, 0.0],
      'rotation': np.eye(3).tolist(),
      'city': city._asdict(),
      'synthesis': _stamp(options),
      'exposure': {n: g.tolist() for n, g in zip(names, gains, strict=True)},
  }


def _write_photos(folder, city, cameras, options, show_progress):
  """Renders photos into a folder; PNG is packed while the next one renders."""
  num = len(cameras.width)
  names = tuple(f'photo_{row:05d}.png' for row in range(num))
  gains = exposure_gains(options, num)

  def save(path, rgb):
    Image.fromarray(np.round(rgb * 255).astype(np.uint8)).save(
        path, compress_level=3
    )

  saved = []
  with (
      concurrent.futures.ThreadPoolExecutor(1) as pool,
      rich_progress.Progress(
          rich_progress.TextColumn('rendering photos'),
          rich_progress.BarColumn(),
          rich_progress.MofNCompleteColumn(),
          rich_progress.TimeRemainingColumn(),
          disable=not show_progress,
      ) as bar,
  ):
    task = bar.add_task('photos', total=num)
    for row, name in enumerate(names):
      view = city_lib.render(
          city,
          cameras_lib.take(cameras, row),
          supersampling=options.supersampling,
          with_depth=False,
      )
      rgb = np.clip(view.rgb * gains[row], 0.0, 1.0)
      saved.append(pool.submit(save, folder / name, rgb))
      bar.advance(task)
    for future in saved:
      future.result()
  paths = tuple(folder / name for name in names)
  return scene_lib.Photos(names, paths, (None,) * num)


def _read_scene_json(scene_dir: pathlib.Path) -> dict:
  path = scene_dir / 'scene.json'
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    city_lib.make_city(**content['city'])
    return content
  except FileNotFoundError:
    found = 'no such file'
  except (OSError, ValueError, KeyError, TypeError) as error:
    found = str(error).splitlines()[0]
  raise errors.InputError(
      f'{path}: city: got {found}, expected a synthesised scene'
  )


def _holds_same(out_dir: pathlib.Path, options) -> bool:
  try:
    content = _read_scene_json(out_dir)
  except errors.InputError:
    return False
  return content.get('synthesis') == _stamp(options)


def load_city(scene_dir) -> city_lib.City:
  """The city that a scene folder was made of, to render its truth.

  Args:
    scene_dir: folder written by `synthesize`.

  Returns:
    City.

  Raises:
    InputError: the folder is not a synthesised scene.
  """
  content = _read_scene_json(pathlib.Path(scene_dir))
  return city_lib.make_city(**content['city'])
