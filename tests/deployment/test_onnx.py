"""ONNX files against the models they come from."""
import importlib.util
import json

import pytest
import torch

from mmlit import LITv2, LITv2Classifier, load_checkpoint
from mmlit.deployment import export_onnx, load_part, open_onnx, part_of, quantize_onnx
from mmlit.errors import ArgumentError, CheckpointError

from ..conftest import DATA, GOLDEN_ARCH
from ..test_litv2 import ALL, build, images

onnx = pytest.importorskip('onnx', reason='onnx is not installed (mmlit[onnx])')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed (mmlit[onnx])')

# Batches and sizes that no graph was traced with; sides need not be multiples of anything.
SHAPES = [(1, 64, 64), (4, 64, 96), (3, 50, 75), (1, 32, 33), (2, 225, 127)]


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    """A dense backbone, and its file."""
    part = part_of(build(out_indices=ALL))
    path = tmp_path_factory.mktemp('onnx') / 'dense.onnx'
    export_onnx(part, path)
    return part, path


@pytest.fixture(scope='module')
def logits(tmp_path_factory):
    """The official release's classifier, and its file."""
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    load_checkpoint(model, DATA / 'official_cls.pth', strict=True)
    part = part_of(model.eval())
    path = tmp_path_factory.mktemp('onnx') / 'logits.onnx'
    export_onnx(part, path)
    return part, path


def check(part, path, x, tolerance):
    outs = open_onnx(path)(x)
    with torch.no_grad():
        expected = part.module(x)
    assert len(outs) == len(expected)
    for a, b in zip(outs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.slow
def test_backbone(dense, shape):
    check(*dense, images(*shape), 1e-4)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.slow
def test_classifier(logits, shape):
    check(*logits, images(*shape), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [
    dict(window_size=(0, 0, 4, 1), alpha=0.5, qkv_bias=False),
    dict(alpha=0., init_values=0.1, in_channels=1),
    dict(alpha=1., act_cfg=dict(type='ReLU')),
], ids=str)
def test_variants(kwargs, tmp_path):
    part = part_of(build(out_indices=(1, 3), **kwargs))
    assert part.outputs == ['stage2', 'stage4']
    export_onnx(part, tmp_path / 'model.onnx')
    check(part, tmp_path / 'model.onnx', images(3, 70, 101)[:, :part.in_channels], 1e-4)


@pytest.mark.slow
def test_official_release(golden, logits):
    """Its weights, through a file, give its recorded logits."""
    data = golden('official_cls')
    (found, ) = open_onnx(logits[1])(data['x'].float())
    torch.testing.assert_close(found, data['logits'].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('dense', [False, True])
def test_published_size(dense, tmp_path):
    torch.manual_seed(0)
    model = LITv2('small', out_indices=ALL) if dense else LITv2Classifier('small')
    part = part_of(model.eval())
    export_onnx(part, tmp_path / 'model.onnx')
    for size in [(224, 224), (256, 320), (800, 1216)]:
        for batch in (1, 4):
            check(part, tmp_path / 'model.onnx', images(batch, *size), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('opset', [19, 21])
def test_operators_are_standard(opset, tmp_path):
    part = part_of(build(window_size=(0, 0, 3, 1)))
    export_onnx(part, tmp_path / 'model.onnx', opset=opset)
    model = onnx.load(tmp_path / 'model.onnx')
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {''} and not model.functions
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [('', opset)]
    check(part, tmp_path / 'model.onnx', images(1, 64, 96), 1e-4)


@pytest.mark.slow
def test_what_the_file_says(logits):
    part, path = logits
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ['images']
    assert [o.name for o in model.graph.output] == ['logits']
    open_dims = [d.dim_param != '' for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert open_dims == [True, False, True, True]
    (entry, ) = model.metadata_props
    assert entry.key == 'mmlit.preprocessing' and json.loads(entry.value) == part.preprocessing
    assert [p.name for p in path.parent.iterdir()] == ['logits.onnx']  # nothing left behind


@pytest.mark.slow
@torch.no_grad()
def test_half_precision(tmp_path):
    """As near to float32 as PyTorch's own half-precision model is, twice over."""
    part = part_of(build(out_indices=ALL))
    before = {k: v.clone() for k, v in part.module.state_dict().items()}
    export_onnx(part, tmp_path / 'half.onnx', dtype='float16')
    for k, v in part.module.state_dict().items():  # the model itself stays as it was
        assert torch.equal(v, before[k])
    weights = onnx.load(tmp_path / 'half.onnx').graph.initializer
    assert sum(w.data_type == onnx.TensorProto.FLOAT16 for w in weights) > 50
    x = images(2, 64, 96)
    outs = open_onnx(tmp_path / 'half.onnx')(x)
    exact, half = part.module.double()(x.double()), part.module.half()(x.half())
    for a, b, c in zip(outs, exact, half, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() <= 2 * (c - b).abs().max()


@pytest.mark.slow
class TestInt8:

    @pytest.fixture(scope='class')
    def logits(self, tmp_path_factory):
        """A classifier as it starts a training, whose activations have no outliers."""
        torch.manual_seed(0)
        part = part_of(LITv2Classifier(GOLDEN_ARCH, num_classes=10).eval())
        path = tmp_path_factory.mktemp('onnx') / 'logits.onnx'
        export_onnx(part, path)
        return part, path

    @pytest.fixture(scope='class')
    def file(self, logits, tmp_path_factory):
        path = tmp_path_factory.mktemp('onnx') / 'int8.onnx'
        quantize_onnx(logits[1], path, images(8, 64, 96).split(2))
        return path

    def test_agrees(self, logits, file):
        with torch.no_grad():
            expected = logits[0].module(images(8, 64, 96))[0]
        error = (open_onnx(file)(images(8, 64, 96))[0] - expected).norm() / expected.norm()
        assert 0 < error < 0.1, error  # none would mean that nothing was quantised

    def test_sizes_stay_open(self, file):
        assert open_onnx(file)(images(3, 50, 75))[0].shape == (3, 10)

    def test_what_is_quantised(self, file):
        """Every linear and convolution but those of the offsets; no product of attention: two in
        each layer of HiLo, which are Hi-Fi's and Lo-Fi's in stage 3."""
        graph = onnx.load(file).graph
        made_by = {out: node for node in graph.node for out in node.output}
        quantised, rest = [], []
        for node in graph.node:
            if node.op_type in ('Conv', 'Gemm', 'MatMul'):
                is_int8 = made_by.get(node.input[0], node).op_type == 'DequantizeLinear'
                (quantised if is_int8 else rest).append(node)
        assert all('conv_offset' in node.input[1] for node in rest if node.op_type == 'Conv')
        assert sum(node.op_type == 'Conv' for node in rest) == 3
        assert sum(node.op_type == 'Conv' for node in quantised) == 6  # patches, five blocks
        assert sum(node.op_type == 'MatMul' for node in rest) == 2 * (2 + 2 + 1)
        assert not any(node.op_type == 'Gemm' for node in rest)
        stored = [w for w in graph.initializer if w.data_type == onnx.TensorProto.INT8]
        assert len([w for w in stored if len(w.dims) > 1]) == len(quantised)

    def test_metadata_is_kept(self, logits, file):
        (entry, ) = onnx.load(logits[1]).metadata_props
        assert entry in onnx.load(file).metadata_props

    def test_no_images(self, logits, tmp_path):
        with pytest.raises(ArgumentError, match='no images to calibrate'):
            quantize_onnx(logits[1], tmp_path / 'int8.onnx', [])
        assert not list(tmp_path.iterdir())


class TestParts:

    def test_by_name(self, tmp_path):
        torch.save(LITv2Classifier('tiny', num_classes=7).state_dict(), tmp_path / 'tiny.pth')
        part = load_part('litv2_tiny', str(tmp_path / 'tiny.pth'), num_classes=7)
        assert part.outputs == ['logits']
        assert part.preprocessing['steps'][2] == {'crop': dict(size=[224, 224], fill=True)}
        assert part.module.head.out_features == 7
        part = load_part('litv2_tiny', str(tmp_path / 'tiny.pth'), 'backbone')
        assert part.outputs == ['stage1', 'stage2', 'stage3', 'stage4']

    @pytest.mark.parametrize('args, error, message', [
        (('litv2_huge', None), ArgumentError, 'neither a config nor one of'),
        (('litv2_tiny', None, 'neck'), ArgumentError, "part='neck'"),
        (('litv2_tiny', None, 'head'), ArgumentError, 'needs its config'),
        (('litv2_tiny', 'in1k'), CheckpointError, 'none are published'),
    ])
    def test_bad_arguments(self, args, error, message):
        with pytest.raises(error, match=message):
            load_part(*args)

    def test_wrong_number_of_classes(self, tmp_path):
        torch.save(LITv2Classifier('tiny', num_classes=7).state_dict(), tmp_path / 'tiny.pth')
        with pytest.raises(CheckpointError, match='number of classes differs'):
            load_part('litv2_tiny', str(tmp_path / 'tiny.pth'))


@pytest.mark.parametrize('kwargs, message', [
    (dict(opset=18), 'opset=18: expected 19'),
    (dict(dtype='bfloat16'), "dtype='bfloat16'"),
])
def test_bad_arguments(kwargs, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        export_onnx(part_of(build()), tmp_path / 'model.onnx', **kwargs)
    assert not list(tmp_path.iterdir())


def test_missing_packages(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name: None if name == 'onnxscript' else find(name))
    with pytest.raises(ArgumentError, match=r'ONNX needs onnxscript: pip install "mmlit\[onnx\]"'):
        export_onnx(part_of(build()), tmp_path / 'model.onnx')
