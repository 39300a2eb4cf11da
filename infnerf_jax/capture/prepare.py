"""Photos to scene: structure from motion, GPS, and what came of it."""

import hashlib
import json
import pathlib
import shutil
from typing import NamedTuple

import numpy as np
import pycolmap

from infnerf_jax import errors, json_files
from infnerf_jax.capture import (
    georeference,
    pairs,
    photos,
    report,
    similarity,
    structure,
)
from infnerf_jax.scene import colmap, validate, write
from infnerf_jax.scene import scene as scene_lib

REPORT = 'prepare_report.json'
_STAMP = 'stamp.json'


class Options(NamedTuple):
  """What `prepare` is told.

  Attributes:
    masks: folder of masks, or None.
    matching: 'auto' or one of `pairs.MATCHINGS`.
    use_gps: georeference by the photos' GPS.
    copy_photos: copy photos into the scene; otherwise link to them.
    overwrite: replace a scene in the output folder.
    keep_work: keep features, matches and models beside the scene.
    sfm: see `structure.Options`.
  """

  masks: pathlib.Path | None = None
  matching: str = 'auto'
  use_gps: bool = True
  copy_photos: bool = True
  overwrite: bool = False
  keep_work: bool = False
  sfm: structure.Options = structure.Options()


class Plan(NamedTuple):
  """What is known before structure from motion.

  Attributes:
    folder: photos and damaged ones.
    places: GPS in map coordinates, or None.
    matching: one of `pairs.MATCHINGS`.
    reason: why this one.
    pairs: [P, 2] rows of photos to match.
  """

  folder: photos.Folder
  places: georeference.MapPositions | None
  matching: str
  reason: str
  pairs: np.ndarray


def make_plan(photo_dir, out_dir, options: Options) -> Plan:
  """Looks at the photos and decides; writes nothing.

  Args:
    photo_dir: folder of photos.
    out_dir: scene folder to make.
    options: see `Options`.

  Returns:
    Plan.

  Raises:
    InputError: see `photos.scan`; a value of `matching` that is none.
  """
  if options.matching not in ('auto', *pairs.MATCHINGS):
    raise errors.InputError(
        f'--matching: got {options.matching!r}, expected auto,'
        f' {", ".join(pairs.MATCHINGS)}'
    )
  if options.sfm.max_size < 100 or options.sfm.max_features < 50:
    raise errors.InputError(
        f'--max_size, --max_features: got {options.sfm.max_size},'
        f' {options.sfm.max_features}, expected at least 100 and 50'
    )
  photo_dir, out_dir = pathlib.Path(photo_dir), pathlib.Path(out_dir)
  if photo_dir.resolve() in (out_dir.resolve(), *out_dir.resolve().parents):
    raise errors.InputError(
        f'--out: got {out_dir} inside the folder of the photos, expected it'
        ' elsewhere'
    )
  folder = photos.scan(photo_dir, masks=options.masks, use_gps=options.use_gps)
  names = [photo.name for photo in folder.photos]
  places = georeference.to_map([p.metadata.gps for p in folder.photos])
  positions = np.full((len(names), 3), np.nan)
  if places is not None:
    positions = places.positions
  matching, reason = options.matching, 'as asked'
  if matching == 'auto':
    has_gps = np.isfinite(positions).all(axis=-1)
    matching, reason = pairs.choose_matching(names, has_gps)
  chosen = pairs.make_pairs(matching, names, positions)
  return Plan(folder, places, matching, reason, chosen)


def prepare(photo_dir, out_dir, options: Options = Options()) -> dict:
  """Makes a scene of photos; the same call resumes, stage by stage.

  Work goes on in `OUT.work` and is deleted at the end; the scene's folder
  appears when it is complete.

  Args:
    photo_dir: folder of photos.
    out_dir: scene folder to make.
    options: see `Options`.

  Returns:
    What `prepare_report.json` says.

  Raises:
    InputError: see `make_plan`; photos of which none overlap.
  """
  out_dir = pathlib.Path(out_dir)
  plan = make_plan(photo_dir, out_dir, options)
  stamp = make_stamp(plan, options)
  finished = out_dir / REPORT
  if finished.is_file() and not options.overwrite:
    result = json_files.read_json(finished)
    if result.get('stamp') == stamp:
      return result
  check_output(out_dir, options.overwrite)
  work = out_dir.with_name(f'{out_dir.name}.work')
  _open_work(work, stamp)
  rows = plan.folder.photos
  structure.place_photos(rows, work)
  structure.extract_features(rows, work, options.sfm)
  structure.match(rows, plan.pairs, work, options.sfm)
  links = structure.read_links(rows, work)
  _check_overlap(photo_dir, links)
  models = structure.read_models(
      structure.map_models(len(rows), work, options.sfm)
  )
  if not models:
    raise errors.InputError(
        f'--photos: {photo_dir}: got photos of which no pair can start a model'
        f' (best has {int(links.num_partners.max())} partners), expected photos'
        ' that overlap and were taken from different places'
    )
  scene, placed = make_scene(plan, models, work)
  result = report.make_report(plan, links, models, scene, placed)
  result['stamp'] = stamp
  scene.report['prepare'] = {'report': REPORT, 'matching': plan.matching}
  write.write_infnerf(
      scene, out_dir, copy_photos=options.copy_photos, overwrite=True
  )
  json_files.write_json_atomic(finished, result)
  if not options.keep_work:
    shutil.rmtree(work)
  return result


def make_stamp(plan: Plan, options: Options) -> str:
  """A name for photos and settings; equal stamps mean equal work."""
  files = [
      (
          p.name,
          p.path.stat().st_size,
          p.path.stat().st_mtime_ns,
          str(p.mask_path),
      )
      for p in plan.folder.photos
  ]
  settings = options.sfm._replace(threads=0)
  content = [files, list(settings), plan.matching, options.use_gps]
  content = json.dumps([content, options.copy_photos])
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_output(out_dir: pathlib.Path, overwrite: bool) -> None:
  """Refuses an output folder before the work, not after it."""
  if not out_dir.exists():
    return
  if not out_dir.is_dir():
    raise errors.InputError(f'--out: {out_dir}: got a file, expected a folder')
  replaceable = overwrite and (out_dir / 'cameras.json').is_file()
  if any(out_dir.iterdir()) and not replaceable:
    raise errors.InputError(
        f'--out: {out_dir}: got a folder that holds something, expected a new'
        ' or empty one (--overwrite replaces a scene)'
    )


def _open_work(work: pathlib.Path, stamp: str) -> None:
  """Makes the work folder, or takes up the one of the same photos."""
  path = work / _STAMP
  try:
    if work.exists():
      if not path.is_file() and any(work.iterdir()):
        raise errors.InputError(
            f'{work}: got a folder that is not ours, expected it to be free'
        )
      if path.is_file() and json_files.read_json(path).get('stamp') == stamp:
        return
      shutil.rmtree(work)
    work.mkdir(parents=True)
    json_files.write_json_atomic(path, {'stamp': stamp})
  except OSError as error:
    raise errors.InputError(
        f'{work}: got {error.strerror or error}, expected a folder that can be'
        ' written'
    ) from None


def _check_overlap(photo_dir, links: structure.Links) -> None:
  if links.num_partners.any():
    return
  raise errors.InputError(
      f'--photos: {photo_dir}: got {len(links.num_partners)} photos of which'
      f' none overlap ({int(np.median(links.num_features))} features each),'
      ' expected photos that share what they show'
  )


class Placed(NamedTuple):
  """How a model became a scene.

  Attributes:
    reconstruction: the model, in the scene's frame.
    rows: rows of the registered photos in the plan, in the model's order.
    georeference: georeference.Georeference of these rows, or None.
  """

  reconstruction: pycolmap.Reconstruction
  rows: list[int]
  georeference: georeference.Georeference | None


def make_scene(plan: Plan, models, work: pathlib.Path):
  """The largest model as a scene, in metres on the map where GPS says so.

  Args:
    plan: see `Plan`.
    models: see `structure.read_models`.
    work: folder with `images/`.

  Returns:
    (Scene, Placed).
  """
  _, model = models[0]
  row_of = {
      structure.sfm_name(p): row for row, p in enumerate(plan.folder.photos)
  }
  images = sorted(
      (im for im in model.images.values() if im.has_pose),
      key=lambda image: image.name,
  )
  rows = [row_of[image.name] for image in images]
  poses = np.stack([im.cam_from_world().inverse().matrix() for im in images])
  placed = None
  if plan.places is not None:
    places = plan.places._replace(positions=plan.places.positions[rows])
    placed = georeference.align(poses, places)
  frame, transform, placed = _frame(placed, poses, plan, model)
  model.transform(
      pycolmap.Sim3d(
          transform.scale,
          pycolmap.Rotation3d(transform.rotation),
          transform.translation,
      )
  )
  aligned = work / 'aligned'
  shutil.rmtree(aligned, ignore_errors=True)
  (aligned / 'sparse' / '0').mkdir(parents=True)
  model.write(str(aligned / 'sparse' / '0'))
  (aligned / 'images').symlink_to((work / 'images').resolve())
  draft = _with_originals(colmap.read(aligned), plan, row_of)
  draft.report.pop('model', None)
  draft = draft._replace(frame={**draft.frame, **frame})
  scene: scene_lib.Scene = validate.finish(draft)
  return scene, Placed(model, rows, placed)


def _with_originals(draft, plan: Plan, row_of):
  """The draft with the user's files in place of links and copies."""
  originals = [plan.folder.photos[row_of[name]] for name in draft.names]
  return draft._replace(
      names=[photo.name for photo in originals],
      paths=[photo.path for photo in originals],
      mask_paths=[photo.mask_path for photo in originals],
  )


def _frame(placed, poses, plan: Plan, model):
  """(fields of scene.json, similarity to the scene, georeference)."""
  if placed is None:
    rotation = georeference.level_model(poses)
    transform = similarity.Similarity(1.0, rotation, np.zeros(3))
    names = {'coordinate_system': 'local, scale unknown'}
    return names, transform, None
  # Ground at about z = 0; whole metres, so that sums with it are exact.
  ground = [p.xyz for p in model.points3D.values()]
  shift = np.zeros(3)
  if ground:
    heights = similarity.apply(placed.transform, np.array(ground))[:, 2]
    shift[2] = np.round(np.median(heights))
  transform = placed.transform._replace(
      translation=placed.transform.translation - shift
  )
  placed = placed._replace(offset=placed.offset + shift, transform=transform)
  height = 'as in the GPS of the photos' if plan.places.has_height else 'none'
  frame = {
      'coordinate_system': f'EPSG:{placed.epsg}',
      'offset': placed.offset.tolist(),
      'rotation': np.eye(3).tolist(),
      'height_datum': height,
      'model_to_scene': {
          'scale': transform.scale,
          'rotation': transform.rotation.tolist(),
          'translation': transform.translation.tolist(),
      },
  }
  return frame, transform, placed
