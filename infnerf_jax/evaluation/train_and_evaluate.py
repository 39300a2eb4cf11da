"""Trains a config and scores it: what `experiments.train` calls."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from infnerf_jax import json_files
from infnerf_jax.evaluation import evaluate as evaluate_lib
from infnerf_jax.evaluation import photo_scores, previews
from infnerf_jax.models import scene_model
from infnerf_jax.training import loop


def trained_model(run, state) -> scene_model.SceneModel:
  """The model of a training state, sharing its buffers."""
  return scene_model.SceneModel(
      tree=run.surroundings.tree,
      # From the host, where devices of a mesh hold parts of it.
      nodes=jax.tree.map(jnp.asarray, state.params['nodes']),
      appearance=jnp.asarray(state.params['appearance']),
      sample_aabb=run.surroundings.sample_aabb,
  )


def score(config, run, state, photo_rows, *, fit=True) -> dict[str, Any]:
  """Scores photos of a run (see `evaluate.evaluate`).

  Args:
    config: of the run.
    run: set-up.
    state: training state.
    photo_rows: rows of the photos.
    fit: whether fitted scores are wanted.

  Returns:
    What `eval.json` says.
  """
  subject = photo_scores.Subject(
      model=trained_model(run, state),
      spec=run.plan.spec,
      octree=run.plan.built.octree,
      options=run.render_options,
      background=tuple(config.background),
      max_memory_gb=config.max_memory_gb or None,
  )
  scene = run.plan.scene
  photos = evaluate_lib.PhotoTable(
      scene.photos.names, scene.cameras, run.pyramid
  )
  protocol = evaluate_lib.Protocol(
      train_rows=run.split.train, fit=fit, seed=config.seed
  )
  return evaluate_lib.evaluate(
      subject, photos, photo_rows, protocol, num_steps=int(state.step)
  )


def train_and_evaluate(config, workdir) -> dict[str, Any]:
  """Trains to `config.num_steps` and scores the test photos.

  The same call resumes an interrupted run.

  Args:
    config: see `configs/common.py`.
    workdir: run folder.

  Returns:
    What `eval.json` says; nothing where another process writes it.

  Raises:
    InputError: bad scene or config, or a workdir of another run.
  """
  workdir = pathlib.Path(workdir)

  def validate(run, state):
    scores = score(config, run, state, run.split.validation, fit=False)
    return {f'validation_{name}': scores[name] for name in ('psnr', 'ssim')}

  def preview(run, state, step, folder):
    previews.write_preview(
        trained_model(run, state),
        run,
        pathlib.Path(folder) / 'previews' / f'{step:07d}.png',
        background=tuple(config.background),
    )

  hooks = loop.Hooks(validate=validate, preview=preview)
  trained = loop.train(config, workdir, hooks=hooks)
  rows = trained.run.split.test
  if trained.state is None or not len(rows):
    return {}
  result = score(config, trained.run, trained.state, rows)
  json_files.write_json_atomic(workdir / 'eval.json', result)
  return result
