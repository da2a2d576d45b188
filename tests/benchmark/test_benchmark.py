import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlit import ops
from mmlit.benchmark.candidates import Setting, build, prepare
from mmlit.benchmark.measuring import interleave, peak_memory, summarise
from mmlit.benchmark.profiling import shares
from mmlit.errors import ArgumentError

ROOT = Path(__file__).parents[2]
CPU = torch.device('cpu')
SMALL = dict(batch=1, shape=(64, 64))


def test_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in 'ab'}
    times = interleave(runs, CPU, rounds=3, seconds=0)
    assert order == list('aabb') + list('ab') * 3
    assert {name: [len(calls) for calls in rounds] for name, rounds in times.items()} == dict(
        a=[1, 1, 1], b=[1, 1, 1])


def test_ratios_are_of_one_round():
    summary = summarise(dict(a=[[2., 4.], [6.], [30.]], b=[[1., 1.], [3.], [10.]]), 'a')
    assert summary['b'] == dict(median=3., p50=2., p95=10., speedup=3., speedup_low=2.,
                                speedup_high=3.)
    assert [summary['a'][k] for k in ('speedup', 'speedup_low', 'speedup_high')] == [1, 1, 1]


def test_memory_of_a_call():
    script = ('import torch; from mmlit.benchmark.measuring import peak_memory; '
              'print(peak_memory(lambda: torch.ones(2**24).sum(), torch.device("cpu"), 5000))')
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True,
                         text=True, check=True)
    assert 0.9 < int(run.stdout) / 2**26 < 1.3
    assert peak_memory(lambda: None, CPU, 5000) >= 5000


@pytest.mark.parametrize('setting', [
    Setting(**SMALL), Setting(**SMALL, train=True), Setting(**SMALL, dense=True),
    Setting(**SMALL, dtype='bfloat16'), Setting(**SMALL, dtype='bfloat16', amp=True),
    Setting(**SMALL, dtype='bfloat16', train=True),
], ids=str)
def test_forms(setting):
    for form in ('', ':official', ':reference', ':fused'):
        if setting.train and form == ':fused':
            continue
        model = build(f'litv2_small{form}', setting)
        before = model.head.weight.clone() if not setting.dense else None
        prepare(f'litv2_small{form}', model, setting)()
        assert ops.fast()
        if setting.train and form != ':official':
            assert not torch.equal(model.head.weight, before)


def test_reference_form_runs(monkeypatch):
    seen = []
    model = build('litv2_small', Setting(**SMALL))
    model.register_forward_hook(lambda *args: seen.append(ops.fast()))
    for form in ('', ':reference'):
        prepare(f'litv2_small{form}', model, Setting(**SMALL))()
    assert seen == [True, False]


def test_checkpointed_form():
    """Blocks keep nothing for the backward pass but their input."""
    setting, kept = Setting(**SMALL, train=True, dense=True), {}

    def keep(tensor):
        kept[form][tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for form in ('', ':checkpointed'):
        kept[form] = {}
        model = build(f'litv2_small{form}', setting)
        run = prepare(f'litv2_small{form}', model, setting)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            run()
    weights = sum(p.nbytes for p in model.parameters())
    plain, checkpointed = (sum(sizes.values()) - weights for sizes in kept.values())
    assert checkpointed < plain / 2, kept


@pytest.mark.parametrize('name, message', [
    ('litv2_small:quick', 'the forms of a model are'),
    ('resnet50:fused', 'only LITv2 has this form'),
    ('litv2_small:checkpointed', 'it is in training'),
])
def test_bad_names(name, message):
    with pytest.raises(ArgumentError, match=message):
        build(name, Setting())


@pytest.mark.parametrize('name, setting, message', [
    ('litv2_small:compiled:onnx', Setting(), 'mean nothing in ONNX'),
    ('litv2_small:official:onnx', Setting(), 'mean nothing in ONNX'),
    ('litv2_small:onnx', Setting(train=True), 'float32 inference on a CPU'),
    ('litv2_small:onnx', Setting(dtype='bfloat16'), 'float32 inference on a CPU'),
])
def test_onnx_where_it_means_nothing(name, setting, message):
    with pytest.raises(ArgumentError, match=message):
        build(name, setting)


@pytest.mark.slow
def test_onnx():
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed (mmlit[onnx])')
    prepare('litv2_small:onnx', build('litv2_small:onnx', Setting(**SMALL)), Setting(**SMALL))()


@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
def test_peers():
    assert build('resnet50', Setting(**SMALL)).num_classes == 1000
    maps = build('convnext_tiny', Setting(**SMALL, dense=True))(torch.zeros(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    with pytest.raises(ArgumentError, match='neither a LITv2'):
        build('litv3_small', Setting())


@pytest.mark.slow
def test_command_line(tmp_path):
    out, picture = tmp_path / 'figures/out.json', tmp_path / 'figures/out.png'
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tools/benchmark.py', 'litv2_small:official',
         'litv2_small', '--batch', '1', '--shape', '64', '64', '--rounds', '2', '--seconds', '0',
         '--json', out, '--plot', picture], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    results = json.loads(out.read_text())['results']
    assert results['litv2_small:official']['speedup'] == 1
    assert all(r['memory'] > 4 * r['params'] for r in results.values())
    assert picture.stat().st_size > 1000
    assert 'deformable convolution of official-style models' in run.stdout


@pytest.mark.slow
def test_resolution(tmp_path):
    out, picture = tmp_path / 'out.json', tmp_path / 'out.png'
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tools/benchmark_resolution.py', 'litv2_small', '--sides',
         '64', '128', '--json', out, '--plot', picture, '--rounds', '1', '--seconds', '0'],
        cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    content = json.loads(out.read_text())
    times = [content['results'][side]['litv2_small']['median'] for side in ('64', '128')]
    assert content['exponents']['litv2_small']['time'] == pytest.approx(
        math.log(times[1] / times[0]) / math.log(4))
    assert picture.stat().st_size > 1000
    assert run.stdout.splitlines()[-1].startswith('| litv2_small | all')


def test_fits_a_power_law():
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        from benchmark_resolution import attention_share, fit, local_exponents
    finally:
        sys.path.pop(0)
    pixels = np.array([1., 4., 16.])
    assert fit(pixels, 3 * pixels**1.5) == pytest.approx(1.5)
    assert local_exponents(pixels, np.array([1., 4., 64.])) == ['-', '1.00', '2.00']
    assert attention_share('resnet50', 64) == '-'
    # docs/performance.md: 44.9 of 3722.9 million at 224 x 224.
    assert attention_share('litv2_small', 224) == '1.2%'


def test_shares_of_time():
    setting = Setting(**SMALL)
    found = shares(prepare('litv2_small', build('litv2_small', setting), setting), calls=1)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert {'linears', 'depthwise convolutions', 'patch embedding', 'GELU', 'norms',
            'token merging: offsets', 'token merging: bilinear reading',
            'Hi-Fi: products and softmax', 'Lo-Fi and stage 4: attention'} <= set(found)
