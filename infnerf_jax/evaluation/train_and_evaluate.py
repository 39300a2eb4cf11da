"""Trains a config and scores it: what `experiments.train` calls."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from infnerf_jax import json_files
from infnerf_jax.evaluation import evaluate as evaluate_lib
from infnerf_jax.evaluation import photo_scores, previews
from infnerf_jax.models import scene_model
from infnerf_jax.storage import node_store
from infnerf_jax.streaming import store_scene
from infnerf_jax.training import loop, out_of_core, pruning


def trained_model(run, state) -> scene_model.SceneModel:
  """The model of a training state, sharing its buffers."""
  return scene_model.SceneModel(
      tree=run.surroundings.tree,
      # From the host, where devices of a mesh hold parts of it.
      nodes=jax.tree.map(jnp.asarray, state.params['nodes']),
      appearance=jnp.asarray(state.params['appearance']),
      sample_aabb=run.surroundings.sample_aabb,
  )


def open_trained_store(config, run, location) -> store_scene.StoreScene:
  """The store of a run that pages its nodes, to be rendered from.

  Args:
    config: of the run.
    run: set-up.
    location: of the store.
  """
  return store_scene.StoreScene(
      node_store.open_store(location),
      options=run.render_options,
      background=tuple(config.background),
      max_memory_gb=out_of_core.rendering_cap_gb(config.max_memory_gb),
      implementation=config.implementation or None,
  )


def _stored_subject(config, run, location) -> photo_scores.Subject:
  """A Subject that renders from the run's store."""
  store = open_trained_store(config, run, location)
  appearance = jnp.asarray(store.views['appearance'])
  return photo_scores.Subject(
      model=scene_model.SceneModel(None, None, appearance, None),
      spec=run.plan.spec,
      octree=run.plan.built.octree,
      options=run.render_options,
      background=tuple(config.background),
      store=store,
  )


def score(
    config, run, state, photo_rows, *, fit=True, store=None
) -> dict[str, Any]:
  """Scores photos of a run (see `evaluate.evaluate`).

  Args:
    config: of the run.
    run: set-up.
    state: training state; unused where there is a store.
    photo_rows: rows of the photos.
    fit: whether fitted scores are wanted.
    store: folder of the nodes of a run that pages them.

  Returns:
    What `eval.json` says.
  """
  if store is not None:
    subject = _stored_subject(config, run, store)
    num_steps = subject.store.store.header.provenance['num_steps']
  else:
    num_steps = int(state.step)
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
  result = evaluate_lib.evaluate(
      subject, photos, photo_rows, protocol, num_steps=num_steps
  )
  if subject.store is not None:
    subject.store.close()
  return result


def without_empty_nodes(config, workdir, trained: loop.Trained) -> loop.Trained:
  """The trained run without the nodes in which there is nothing.

  Args:
    config: of the run.
    workdir: its folder, for the report.
    trained: of the run.

  Returns:
    Trained, whose tree does without them.
  """
  if not config.prune_share:
    pruning.forget(workdir)
  if not config.prune_share or trained.state is None:
    return trained
  run, step = trained.run, int(trained.state.step)
  octree = run.plan.built.octree
  num_levels = run.pyramid.sizes.shape[1]
  views = pruning.spread_views(
      run.surroundings.cameras,
      run.plan.scene.cameras,
      run.split.train,
      [run.plan.downscale * 2.0**level for level in range(num_levels)],
  )
  report = pruning.find_empty(
      octree,
      trained_model(run, trained.state),
      run.plan.spec,
      run.render_options,
      views,
      max_share=config.prune_share,
      step=step,
  )
  pruning.write(workdir, report)
  surroundings = run.surroundings
  tree = pruning.without_pruned(workdir, surroundings.tree, octree, step)
  return trained._replace(
      run=run._replace(surroundings=surroundings._replace(tree=tree))
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
    store = out_of_core.store_of(workdir) if state is None else None
    scores = score(
        config, run, state, run.split.validation, fit=False, store=store
    )
    return {f'validation_{name}': scores[name] for name in ('psnr', 'ssim')}

  def preview(run, state, step, folder):
    path = pathlib.Path(folder) / 'previews' / f'{step:07d}.png'
    background = tuple(config.background)
    if state is not None:
      model = trained_model(run, state)
      previews.write_preview(model, run, path, background=background)
      return
    store = open_trained_store(config, run, out_of_core.store_of(workdir))
    previews.write_preview(None, run, path, background=background, store=store)
    store.close()

  hooks = loop.Hooks(validate=validate, preview=preview)
  trained = without_empty_nodes(
      config, workdir, loop.train(config, workdir, hooks=hooks)
  )
  rows = trained.run.split.test
  elsewhere = trained.state is None and trained.store is None
  if elsewhere or not len(rows):
    return {}
  result = score(config, trained.run, trained.state, rows, store=trained.store)
  json_files.write_json_atomic(workdir / 'eval.json', result)
  return result
