"""The boundary between commands and whoever types them.

Whatever is wrong with the input is one line on stderr and exit status 2; absl
by itself exits 1, for an unknown config key with a traceback. What the machine
lacks (memory, disk) is one line and exit status 1. Defects of ours keep their
traceback. Imports no jax: `--help` and wrong flags answer at once.
"""

import difflib
import errno
import pathlib
import signal
import sys

from absl import app, flags, logging

from infnerf_jax import errors, heap

_FAILED = 1
_BAD_INPUT = 2
_INTERRUPTED = 130
_TERMINATED = 143
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_OURS = ('infnerf_jax', 'kernels', 'configs', 'experiments')
# A path that someone typed and that no program could have used.
_BAD_PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
_HELP = ('help', 'h', '?', 'helpshort')


def run(main) -> None:
  """Runs a command's main and exits.

  `--help` exits 0; unknown flags and config keys, arguments that are no flags
  and InputError exit 2 with one line; a full disk, too little memory and a
  training that diverges exit 1 with one line; Ctrl-C exits 130, SIGTERM 143,
  both after the clean-up of every `with`.

  Args:
    main: takes argv without flags (`argv[0]` is the program).
  """
  heap.use_one_arena()
  try:
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse_flags)
  except KeyboardInterrupt:
    _exit(_INTERRUPTED, 'interrupted')


def _exit(status: int, message: str) -> None:
  """One line on stderr, and out."""
  print(' '.join(message.split()), file=sys.stderr, flush=True)
  sys.exit(status)


def _guarded(main, argv):
  """Runs main; what is not a defect of ours becomes one line."""
  signal.signal(signal.SIGTERM, lambda *_: _exit(_TERMINATED, 'terminated'))
  # Libraries log their doings as INFO through the same handler.
  logging.get_absl_handler().addFilter(_is_ours_or_serious)
  if len(argv) > 1:
    _exit(_BAD_INPUT, f'error: got argument {argv[1]!r}, expected flags only')
  try:
    return main(argv)
  except errors.InputError as error:
    _exit(_BAD_INPUT, f'error: {error}')
  except FloatingPointError as error:
    _exit(_FAILED, f'error: {error}')
  except OSError as error:
    if error.errno in _BAD_PLACE and error.filename:
      _exit(
          _BAD_INPUT,
          f'error: {error.filename}: {error.strerror}, expected a place that'
          ' can be written',
      )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    _exit(_FAILED, f'error: {error}')
  except Exception as error:
    if not is_out_of_memory(error):
      raise
    _exit(_FAILED, f'error: out of memory: {_memory_hint()}')


def _is_ours_or_serious(record) -> bool:
  if record.levelno >= 30:
    return True
  path = pathlib.Path(record.pathname)
  # Not all below the checkout is ours: a .venv in it holds the libraries.
  return any(_ROOT / folder in path.parents for folder in _OURS)


def is_out_of_memory(error: BaseException) -> bool:
  """Whether host or device memory ran out, as Python or XLA say it."""
  if isinstance(error, MemoryError):
    return True
  # By name: jax is not imported here.
  if type(error).__name__ not in ('XlaRuntimeError', 'JaxRuntimeError'):
    return False
  text = str(error)
  return 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower()


def _memory_hint() -> str:
  """What to change, by what the command offers."""
  if 'config' in flags.FLAGS:
    now = getattr(flags.FLAGS['config'].value, 'ray_microbatch', None)
    return (
        f'set --config.ray_microbatch (got {now}, 0 is the whole batch) to'
        ' fewer rays; the result stays the same'
    )
  if 'max_memory_gb' in flags.FLAGS:
    return 'set a smaller --max_memory_gb'
  return 'close other programs or use a smaller scene'


def _parse_flags(argv):
  """Parses flags; whatever goes wrong here is the user's input."""
  names = [a.lstrip('-') for a in argv[1:] if a.startswith('-')]
  if any(name in _HELP for name in names):
    app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
  if 'helpfull' in names:
    app.usage(writeto_stdout=True, exitcode=0)
  try:
    rest = flags.FLAGS(argv)
    for name in flags.FLAGS:
      _check_loaded(name, flags.FLAGS[name].value, argv)
    return rest
  except (errors.InputError, flags.Error) as error:
    _exit(_BAD_INPUT, f'error: {_last_cause(str(error))}')
  except Exception as error:  # A config file may raise anything.
    _exit(_BAD_INPUT, f'error: {_unknown_key(argv) or _describe(error)}')


def _given(name: str, argv) -> str:
  """The text of a flag on the command line, '' without it."""
  text = ''
  for argument, following in zip(argv[1:], argv[2:] + ['']):
    flag, equals, value = argument.lstrip('-').partition('=')
    if flag == name and argument.startswith('-'):
      text = value if equals else following
  return text


def _check_loaded(name: str, config, argv) -> None:
  """Raises what ml_collections keeps until a config's first use."""
  if type(config).__name__ != '_ErrorConfig':
    return
  path = _given(name, argv).partition(':')[0]
  if pathlib.Path(path).is_file():
    found = _describe(vars(config)['_error'])
  else:
    found = 'found no such file'
  raise errors.InputError(f'--{name}: {path}: {found}, expected a config file')


def _describe(error: Exception) -> str:
  """An error of a config file or its keys as one line."""
  if isinstance(error, SyntaxError):
    return f'{error.filename}, line {error.lineno}: {error.msg}'
  text = str(error.args[0]) if error.args else ''
  text = _last_cause(text) or type(error).__name__
  if isinstance(error, errors.InputError | ValueError | OSError):
    return text
  return f'{type(error).__name__}: {text}'


def _last_cause(text: str) -> str:
  """A message that quotes a traceback, without the traceback."""
  head, trace, rest = text.partition('Traceback (most recent call last)')
  if not trace:
    return text
  last = [line for line in rest.splitlines() if line.strip()][-1]
  kind, colon, message = last.partition(': ')
  if colon and kind.split('.')[-1].endswith('Error'):
    last = message
  head = head.replace('Error whilst parsing config file', '').strip(': \n')
  return f'{head}: {last}' if head else last


def _unknown_key(argv) -> str | None:
  """Names the override whose key its config does not have."""
  for argument in argv[1:]:
    path = argument.lstrip('-').partition('=')[0]
    name, *keys = path.split('.')
    if not keys or not argument.startswith('-') or name not in flags.FLAGS:
      continue
    try:
      config = flags.FLAGS[name].parser.parse(_given(name, argv))
      _check_loaded(name, config, argv)
    except Exception as error:
      return _describe(error)
    parent = f'--{name}'
    for key in keys:
      key = key.partition('[')[0]
      known = sorted(config.keys()) if hasattr(config, 'keys') else []
      if key not in known:
        return f'--{path}: unknown config key, {_expected(key, parent, known)}'
      config, parent = config[key], f'{parent}.{key}'
  return None


def _expected(key: str, parent: str, known: list[str]) -> str:
  if not known:
    return f'{parent} has no fields'
  near = difflib.get_close_matches(key, known, 1)
  if near:
    return f'did you mean {near[0]}?'
  return f'expected one of {", ".join(known)}'
