"""pycolmap, without what it does to the process that imports it.

Its logging library takes over SIGTERM and the like, prints a stack trace and
dies: no `with` would be left in order.
"""

import signal

_TAKEN = (signal.SIGTERM, signal.SIGINT)
_before = {number: signal.getsignal(number) for number in _TAKEN}

import pycolmap  # noqa: E402

for _number, _handler in _before.items():
  try:
    signal.signal(_number, _handler)
  except (TypeError, ValueError):  # Not set from Python; not the main thread.
    pass

__all__ = ['pycolmap']
