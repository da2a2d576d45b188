"""Process groups for every launcher, with GPUs or without."""
import contextlib
import os
import time

import torch
import torch.distributed as dist

from mmlit.errors import ConfigError

# Rank, world size and local rank, as each launcher names them.
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
COMMANDS = {'pytorch': 'torchrun (tools/dist_train.sh)', 'mpi': 'mpirun',
            'slurm': 'srun (tools/slurm_train.sh)'}


@contextlib.contextmanager
def process_group(launcher: str, alone: bool = False):
    """A process group: NCCL and one GPU per process where CUDA exists, gloo elsewhere.

    Neither mmcv's nor mmengine's ``init_dist`` can do without a GPU: both select one first.

    Args:
        launcher: 'none', 'pytorch' (torchrun), 'slurm' (srun) or 'mpi' (mpirun).
        alone: Whether 'none' makes a group of one process, rather than none.

    Raises:
        ConfigError: If the launcher's variables are not in the environment.
    """
    if launcher == 'none' and not alone:
        yield
        return
    rank, world_size, local_rank = ranks(launcher)
    os.environ['LOCAL_RANK'] = str(local_rank)  # where mmengine's wrappers look for their GPU
    backend = 'gloo'
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = 'nccl'
    store = dist.HashStore() if launcher == 'none' else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield
        if backend == 'gloo':
            # Its threads need Python's lock to let go of the last collective's tensors. Destroying
            # the group holds the lock and waits for them, for ever (torch 2.13): let them go first.
            dist.barrier()
            time.sleep(0.1)
    finally:
        dist.destroy_process_group()


def ranks(launcher: str) -> tuple[int, int, int]:
    """Rank, world size and local rank as the launcher tells them."""
    if launcher == 'none':
        return 0, 1, 0
    names = VARIABLES[launcher]
    missing = [n for n in names if n not in os.environ]
    if missing:
        raise ConfigError(f'--launcher {launcher} needs {", ".join(missing)} in the environment: '
                          f'start the command with {COMMANDS[launcher]}')
    # Right for one machine; tools/slurm_train.sh sets the first of several.
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    rank, world_size, local_rank = (int(os.environ[n]) for n in names)
    return rank, world_size, local_rank
