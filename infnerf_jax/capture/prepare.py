"""Photos to scene: structure from motion, GPS, and what came of it."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np

from infnerf_jax import errors, json_files
from infnerf_jax.capture import (
    georeference,
    ground_control,
    mapping,
    pairs,
    photos,
    placing,
    report,
    structure,
    video,
)
from infnerf_jax.scene import write

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
    gcp: list of ground control points, which then place the scene.
    gcp_check: names of the points kept back as checks; () see
      `ground_control.read`.
    frames: how they become photos where `--photos` is a video.
  """

  masks: pathlib.Path | None = None
  matching: str = 'auto'
  use_gps: bool = True
  copy_photos: bool = True
  overwrite: bool = False
  keep_work: bool = False
  sfm: structure.Options = structure.Options()
  gcp: pathlib.Path | None = None
  gcp_check: tuple[str, ...] = ()
  frames: video.Options = video.Options()


class Plan(NamedTuple):
  """What is known before structure from motion.

  Attributes:
    folder: photos and damaged ones.
    places: GPS in map coordinates, or None.
    matching: one of `pairs.MATCHINGS`.
    reason: why this one.
    pairs: [P, 2] rows of photos to match.
    survey: ground control points, or None.
  """

  folder: photos.Folder
  places: georeference.MapPositions | None
  matching: str
  reason: str
  pairs: np.ndarray
  survey: ground_control.Survey | None = None


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
  structure.check_options(options.sfm)
  photo_dir, out_dir = pathlib.Path(photo_dir), pathlib.Path(out_dir)
  if photo_dir.resolve() in (out_dir.resolve(), *out_dir.resolve().parents):
    raise errors.InputError(
        f'--out: got {out_dir} inside the folder of the photos, expected it'
        ' elsewhere'
    )
  survey = None
  if options.gcp is not None:
    survey = ground_control.read(options.gcp, options.gcp_check)
  folder = photos.scan(photo_dir, masks=options.masks, use_gps=options.use_gps)
  names = [photo.name for photo in folder.photos]
  places = georeference.to_map(
      [p.metadata.gps for p in folder.photos], survey and survey.epsg
  )
  positions = np.full((len(names), 3), np.nan)
  if places is not None:
    positions = places.positions
  matching, reason = options.matching, 'as asked'
  if matching == 'auto':
    has_gps = np.isfinite(positions).all(axis=-1)
    matching, reason = pairs.choose_matching(names, has_gps)
  chosen = pairs.make_pairs(matching, names, positions)
  _check_survey(survey, names)
  return Plan(folder, places, matching, reason, chosen, survey)


def _check_survey(survey: ground_control.Survey | None, names) -> None:
  """Refuses a list of points that is of other photos."""
  if survey is None:
    return
  known = {pathlib.PurePath(name).name for name in names}
  listed = {photo for p in survey.points for photo, _, _ in p.sightings}
  listed = {pathlib.PurePath(n.replace('\\', '/')).name for n in listed}
  if not known & listed:
    raise errors.InputError(
        f'--gcp: {survey.source}: got photos such as {min(listed)!r}, expected'
        ' some of --photos'
    )


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
  if video.is_video(photo_dir):
    return _prepare_video(photo_dir, out_dir, options)
  plan = make_plan(photo_dir, out_dir, options)
  stamp = make_stamp(plan, options)
  finished = out_dir / REPORT
  if finished.is_file() and not options.overwrite:
    result = json_files.read_json(finished)
    if result.get('stamp') == _whole_stamp(stamp, plan):
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
  models = mapping.read_models(mapping.map_models(len(rows), work, options.sfm))
  if not models:
    raise errors.InputError(
        f'--photos: {photo_dir}: got photos of which no pair can start a model'
        f' (best has {int(links.num_partners.max())} partners), expected photos'
        ' that overlap and were taken from different places'
    )
  scene, placed = placing.make_scene(plan, models, work)
  result = report.make_report(plan, links, models, scene, placed)
  result['stamp'] = _whole_stamp(stamp, plan)
  scene.report['prepare'] = {'report': REPORT, 'matching': plan.matching}
  write.write_infnerf(
      scene, out_dir, copy_photos=options.copy_photos, overwrite=True
  )
  json_files.write_json_atomic(finished, result)
  if not options.keep_work:
    shutil.rmtree(work)
  return result


@contextlib.contextmanager
def photo_folder(path, options: Options):
  """The photos of `--photos` for a look: a video's lie in a temporary folder.

  Args:
    path: folder or video.
    options: see `Options`.

  Yields:
    The folder.
  """
  if not video.is_video(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    frames = pathlib.Path(folder) / 'frames'
    video.extract(path, frames, options.frames)
    yield frames


def _prepare_video(path, out_dir: pathlib.Path, options: Options) -> dict:
  """`prepare` of a video's frames, which lie in `OUT.frames` meanwhile."""
  finished = out_dir / REPORT
  stamp = video.stamp(path, options.frames)
  if finished.is_file() and not options.overwrite:
    result = json_files.read_json(finished)
    if result.get('video', {}).get('stamp') == stamp:
      return result
  check_output(out_dir, options.overwrite)
  frames = out_dir.with_name(f'{out_dir.name}.frames')
  chosen = video.extract(path, frames, options.frames)
  result = prepare(frames, out_dir, options)
  result['video'] = chosen
  json_files.write_json_atomic(finished, result)
  if options.copy_photos and not options.keep_work:
    shutil.rmtree(frames)
  return result


def _whole_stamp(stamp: str, plan: Plan) -> str:
  """A stamp with the control points, which structure from motion ignores."""
  if plan.survey is None:
    return stamp
  content = repr([stamp, plan.survey.epsg, *map(str, plan.survey.points)])
  return hashlib.sha256(content.encode()).hexdigest()[:16]


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
  settings = options.sfm._replace(threads=0, device='')
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
