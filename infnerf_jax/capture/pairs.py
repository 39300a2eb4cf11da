"""Which pairs of photos are worth matching."""

import itertools
import re

import numpy as np

from infnerf_jax import errors

MATCHINGS = ('exhaustive', 'spatial', 'sequential')

# All pairs of this many photos are matched in about the time of mapping them.
_MAX_EXHAUSTIVE = 40
_GPS_SHARE = 0.9
# Videos cut into frames have at least this many.
_MIN_FRAMES = 40
NUM_NEIGHBOURS = 24
NUM_FOLLOWING = 10
# Consumer GPS lags by a photo or two; in order of name the next ones overlap
# whatever it says.
_FOLLOWING_BESIDE_GPS = 3


def choose_matching(names, has_gps) -> tuple[str, str]:
  """How to pair photos, and why.

  Args:
    names: [N] names in order.
    has_gps: [N] bool.

  Returns:
    (one of MATCHINGS, the reason as words).
  """
  num = len(names)
  if num <= _MAX_EXHAUSTIVE:
    return 'exhaustive', f'{num} photos are few'
  share = float(np.mean(has_gps))
  if share >= _GPS_SHARE:
    return 'spatial', f'{share:.0%} of the photos have GPS'
  if is_video_like(names):
    return 'sequential', 'the names count like frames of a video'
  return 'exhaustive', f'GPS in {share:.0%} of the photos, names without order'


def is_video_like(names) -> bool:
  """Whether names are one stem with a number that counts evenly.

  Cameras count too (`DJI_0018`): what tells frames apart is a stem that says
  so, or digits alone.

  Args:
    names: in order.

  Returns:
    bool.
  """
  if len(names) < _MIN_FRAMES:
    return False
  matches = [re.fullmatch(r'(.*?)(\d+)\.\w+', name) for name in names]
  if not all(matches) or len({m[1] for m in matches}) > 1:
    return False
  steps = np.diff([int(m[2]) for m in matches])
  stem = matches[0][1].rpartition('/')[2]
  says_so = re.fullmatch(
      r'(.*(frame|video|mov|vid|clip|out).*|)[-_ ]?', stem, re.I
  )
  return bool(says_so) and len(set(steps.tolist())) == 1


def make_pairs(matching: str, names, positions=None) -> np.ndarray:
  """Pairs of rows to match.

  Args:
    matching: one of MATCHINGS.
    names: [N] names in order.
    positions: [N, 3] metres, NaN rows where a photo has none; for 'spatial'.

  Returns:
    [P, 2] int64, first < second, each once, ordered.

  Raises:
    InputError: 'spatial' without two positions.
  """
  num = len(names)
  if matching == 'exhaustive':
    return np.array(list(itertools.combinations(range(num), 2)), np.int64)
  if matching == 'sequential':
    # Powers of two beyond the next ones close the gaps of slow footage.
    steps = set(range(1, NUM_FOLLOWING + 1)) | {16, 32, 64, 128}
    return _following(num, steps)
  known = np.isfinite(positions).all(axis=-1)
  if known.sum() < 2:
    raise errors.InputError(
        f'--matching=spatial: got {int(known.sum())} photos with GPS, expected'
        ' at least 2'
    )
  near = _neighbours(positions, known)
  # Photos without a position are tried with every other.
  lost = [(i, j) for i in np.flatnonzero(~known) for j in range(num) if i != j]
  following = _following(num, range(1, _FOLLOWING_BESIDE_GPS + 1))
  parts = [near, np.array(lost, np.int64).reshape(-1, 2), following]
  return _unique(np.concatenate(parts))


def _following(num: int, steps) -> np.ndarray:
  pairs = [(i, i + s) for i in range(num) for s in steps if i + s < num]
  return _unique(np.array(pairs, np.int64).reshape(-1, 2))


def _neighbours(positions, known) -> np.ndarray:
  """Nearest photos on the ground; altitude is the worst of GPS's numbers."""
  rows = np.flatnonzero(known)
  xy = positions[rows, :2]
  count = min(NUM_NEIGHBOURS, len(rows) - 1)
  pairs = []
  for row, place in zip(rows, xy, strict=True):
    nearest = np.argsort(((xy - place) ** 2).sum(axis=-1), kind='stable')
    others = [rows[k] for k in nearest[: count + 1] if rows[k] != row]
    pairs += [(row, other) for other in others[:count]]
  return np.array(pairs, np.int64).reshape(-1, 2)


def _unique(pairs: np.ndarray) -> np.ndarray:
  if not len(pairs):
    return np.zeros((0, 2), np.int64)
  return np.unique(np.sort(pairs, axis=1), axis=0)
