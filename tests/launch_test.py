"""Which process of how many this is, by flags, variables and SLURM."""

import pytest

from infnerf_jax import errors, launch

_SLURM = {
    'SLURM_JOB_ID': '4711',
    'SLURM_STEP_NODELIST': 'node[01-02]',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_STEP_NUM_NODES': '2',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '0',
}


@pytest.mark.parametrize(
    'flags, environment, want',
    [
        ((None, None, None), {}, None),
        ((None, 1, None), {}, None),
        ((None, 3, None), {}, launch.Job(3, None, None)),
        (('a:1', 2, 1), {}, launch.Job(2, 1, 'a:1')),
        (
            (None, None, None),
            {
                'JAX_COORDINATOR_ADDRESS': 'b:2',
                'JAX_NUM_PROCESSES': '4',
                'JAX_PROCESS_ID': '3',
            },
            launch.Job(4, 3, 'b:2'),
        ),
        # Flags go before variables.
        (
            ('a:1', 2, 0),
            {'JAX_COORDINATOR_ADDRESS': 'b:2', 'JAX_PROCESS_ID': '9'},
            launch.Job(2, 0, 'a:1'),
        ),
        ((None, None, None), _SLURM, launch.Job(2, 1, None, ())),
        # The batch script itself is no task of a step.
        (
            (None, None, None),
            {k: v for k, v in _SLURM.items() if '_STEP_' not in k},
            None,
        ),
        # Eight tasks on two nodes that see four GPUs each take one each.
        (
            (None, None, None),
            _SLURM
            | {'SLURM_STEP_NUM_TASKS': '8', 'CUDA_VISIBLE_DEVICES': '0,1,2,3'},
            launch.Job(8, 1, None, None),
        ),
        # Each has a GPU of its own already.
        (
            (None, None, None),
            _SLURM | {'SLURM_STEP_NUM_TASKS': '8', 'CUDA_VISIBLE_DEVICES': '0'},
            launch.Job(8, 1, None, ()),
        ),
    ],
)
def test_the_job_is_found(flags, environment, want):
  assert launch.find_job(*flags, environment) == want


@pytest.mark.parametrize(
    'flags, environment, words',
    [
        ((None, 0, None), {}, '--num_processes: got 0'),
        (('a:1', None, None), {}, '--num_processes: got None'),
        (('a:1', 2, None), {}, '--process_id: got nothing'),
        (('a:1', 2, 2), {}, '--process_id: got 2, expected 0 to 1'),
        ((None, 2, 0), {}, '--coordinator_address: got None'),
        (('host', 2, 0), {}, "--coordinator_address: got 'host'"),
        ((None, None, None), {'JAX_NUM_PROCESSES': 'two'}, "got 'two'"),
    ],
)
def test_bad_input_is_one_line(flags, environment, words):
  with pytest.raises(errors.InputError) as caught:
    launch.find_job(*flags, environment)
  assert words in str(caught.value) and '\n' not in str(caught.value)
