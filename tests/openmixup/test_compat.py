"""Each thing that openmixup 0.2.9 needs on a current machine: these fail where it is not supplied.

`import mmlit.openmixup` (in conftest.py) is itself the test of much of it: without breakages 1 to
3 handled it raises.
"""
import subprocess
import sys

import mmcv
import mmcv.ops
import numpy as np
import openmixup.datasets
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from openmixup.models import build_model
from openmixup.models.augments import cutmix, mixup

import mmlit.openmixup
from mmlit.distributed import ranks
from mmlit.errors import ConfigError
from mmlit.openmixup import compat

from ..conftest import DATA, GOLDEN_ARCH

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# 1. compiled ops

def test_openmixups_own_lit_runs_on_the_supplied_ops(golden):
    # What stands in for mmcv.ops is right to 1e-9, not only importable.
    data = golden('openmixup_lit')
    model = build_model(dict(
        type='MixUpClassification', alpha=1.0, mix_mode='vanilla',
        backbone=dict(type='LIT', arch=GOLDEN_ARCH, alpha=0.9, window_size=[0, 0, 2, 1],
                      attention_types=[None, None, 'HiLo', 'HiLo'], init_values=1e-6),
        head=dict(type='ClsMixupHead', with_avg_pool=True, in_channels=128, num_classes=10)))
    state = torch.load(DATA / 'openmixup_lit.pth', weights_only=True)['state_dict']
    model.load_state_dict(state)
    model.double().eval()
    with torch.no_grad():
        scores = model(data['x'].double(), mode='test')['head0']
    torch.testing.assert_close(scores, data['logits'], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('option', [dict(groups=2), dict(deform_groups=2),
                                    dict(kernel_size=(2, 3), stride=2)])
def test_mmcvs_own_layers_run_on_the_supplied_ops(option):
    layer = mmcv.ops.DeformConv2dPack(**{**dict(in_channels=4, out_channels=4, kernel_size=2),
                                         **option})
    assert type(layer).__module__ == 'mmcv.ops.deform_conv'
    x = torch.randn(3, 4, 7, 6)
    expected = F.conv2d(x, layer.weight, stride=layer.stride, groups=layer.groups)
    torch.testing.assert_close(layer(x), expected)  # its offsets are zero at first
    layer(x).sum().backward()
    assert layer.conv_offset.weight.grad.abs().max() > 0


# 2. optimizers

@pytest.mark.parametrize('name', ['Adafactor', 'LAMB', 'LARS', 'Lion', 'Adan', 'AdamP', 'SophiaG'])
def test_openmixups_optimizers_are_registered(name):
    from mmcv.runner.optimizer.builder import OPTIMIZERS
    assert OPTIMIZERS.get(name).__module__.startswith('openmixup.')


def test_duplicate_optimizers_are_refused_again():
    from mmcv.runner.optimizer.builder import OPTIMIZERS
    with pytest.raises(KeyError, match='already registered'):
        OPTIMIZERS.register_module()(torch.optim.SGD)


# 3. torchvision

def test_torchvision_imports_beside_any_torch():
    out = run_python('import mmlit.openmixup, torchvision.transforms as t; print(t.ToTensor())')
    assert 'ToTensor' in out


# 4. calls of cuda()

@without_cuda
@pytest.mark.parametrize('augment', [mixup, cutmix])
def test_mixing_runs_on_the_cpu(augment):
    images, (y_a, y_b, lam) = augment(torch.rand(4, 3, 8, 8), torch.arange(4), alpha=1.0)
    assert images.device.type == 'cpu' and 0 <= lam <= 1
    assert sorted(y_b.tolist()) == y_a.tolist()


@without_cuda
def test_seeds_are_shared_over_the_cpu(monkeypatch):
    from openmixup.datasets.loader import sampler
    monkeypatch.setattr('openmixup.utils.dist_utils.get_dist_info', lambda: (0, 2))
    with compat.process_group():
        assert sampler.sync_random_seed(7) == 7


def test_nothing_is_replaced_where_cuda_exists(monkeypatch):
    out = run_python('''
import torch
original = torch.Tensor.cuda, torch.nn.Module.cuda
torch.cuda.is_available = lambda: True
import mmlit.openmixup
print((torch.Tensor.cuda, torch.nn.Module.cuda) == original)
''')
    assert out.strip() == 'True'


def test_import_mmlit_changes_nothing():
    out = run_python('''
import sys, torch
original = torch.Tensor.cuda, torch.nn.Module.cuda
import mmlit
print((torch.Tensor.cuda, torch.nn.Module.cuda) == original)
print([m for m in ("mmcv", "openmixup", "torchvision") if m in sys.modules])
''')
    assert out.split('\n')[:2] == ['True', '[]']


# 5. a process group

def test_group_of_one():
    assert not dist.is_initialized()
    with compat.process_group('none'):
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        value = torch.ones(1)
        dist.broadcast(value, 0)
    assert not dist.is_initialized()


@pytest.mark.parametrize('launcher, missing', [
    ('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')])
def test_a_launcher_without_its_environment(launcher, missing, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=missing), compat.process_group(launcher):
        pass


@pytest.mark.parametrize('launcher, prefix', [
    ('slurm', 'SLURM_PROCID SLURM_NTASKS SLURM_LOCALID'),
    ('mpi', 'OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK')])
def test_ranks_from_the_launcher(launcher, prefix, monkeypatch):
    for name, value in zip(prefix.split(), '371', strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('MASTER_ADDR', 'first')
    assert ranks(launcher) == (3, 7, 1)


def test_loaders_without_workers():
    loader = openmixup.datasets.build_dataloader(
        [torch.zeros(1)] * 4, imgs_per_gpu=2, workers_per_gpu=0, dist=False, shuffle=False,
        seed=None)
    assert len(list(loader)) == 2


# 6. prefetching

@without_cuda
def test_prefetching_configs_normalise_in_the_pipeline():
    norm = dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.1])
    cfg = mmcv.Config(dict(
        img_norm_cfg=norm, prefetch=True,
        data=dict(train=dict(prefetch=True, pipeline=[dict(type='CenterCrop', size=4)]),
                  val=dict(prefetch=False, pipeline=[]))))
    compat.without_prefetch(cfg)
    assert not cfg.prefetch and not cfg.data.train.prefetch
    assert [t['type'] for t in cfg.data.train.pipeline] == ['CenterCrop', 'ToTensor', 'Normalize']
    assert cfg.data.val.pipeline == []

    # The same numbers as the prefetcher's (x - 255 mean) / (255 std).
    from openmixup.datasets.registry import PIPELINES
    from openmixup.utils import build_from_cfg
    from PIL import Image
    from torchvision.transforms import Compose
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    out = Compose([build_from_cfg(t, PIPELINES) for t in cfg.data.train.pipeline])(image)
    mean, std = (255 * torch.tensor(norm[k]).view(3, 1, 1) for k in ('mean', 'std'))
    expected = (torch.from_numpy(np.array(image)).permute(2, 0, 1) - mean) / std
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


# registration

@pytest.mark.parametrize('name', ['LITv2', 'mmlit.LITv2'])
def test_registered(name):
    from openmixup.models.builder import build_backbone
    assert isinstance(build_backbone(dict(type=name, arch=GOLDEN_ARCH)), mmlit.LITv2)
