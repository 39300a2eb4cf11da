"""The one error that a user's input may raise.

Commands turn it into one line on stderr and exit status 2 (see
`infnerf_jax.command`); everything else is a defect of ours and keeps its
traceback.
"""


class InputError(ValueError):
  """Bad input: one line that names file, field, what was found, what expected.

  Example: `InputError('cameras.json: photo a.jpg: intrinsic[0][0]: got -5.0,
  expected a positive focal length in pixels')`.
  """
