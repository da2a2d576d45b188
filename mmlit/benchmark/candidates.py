"""What is compared: LITv2 in its forms and timm's models, by name."""
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlit import LITv2, LITv2Classifier, ops
from mmlit.deployment import export_onnx, open_onnx, part_of
from mmlit.errors import ArgumentError

from .official_style import OfficialStyle

# timm's models of the size of each LITv2, by parameters and multiply-adds.
PEERS = {
    'litv2_small': ['swin_tiny_patch4_window7_224', 'convnext_tiny', 'pvt_v2_b2',
                    'twins_pcpvt_small', 'resnet50'],
    'litv2_medium': ['swin_small_patch4_window7_224', 'convnext_small', 'pvt_v2_b3',
                     'twins_pcpvt_base', 'resnet101'],
    'litv2_base': ['swin_base_patch4_window7_224', 'convnext_base', 'pvt_v2_b5',
                   'twins_svt_large', 'resnet152'],
}
FORMS = ('official', 'reference', 'triton', 'fused', 'compiled', 'checkpointed', 'onnx')


@dataclass
class Setting:
    """Where, at what precision and on what images.

    Attributes:
        device: 'cpu' or 'cuda'.
        dtype: 'float32', 'bfloat16' or 'float16'.
        amp: Whether weights stay float32 and ``dtype`` is autocast's; training always does so.
        batch: Images in a batch.
        shape: Height and width of an image.
        dense: Whether models return maps at strides 4 to 32, as for detection, in place of logits.
        train: Whether a run is a training step, in place of inference.
        window: LITv2's window in stage 3.
    """
    device: str = 'cpu'
    dtype: str = 'float32'
    amp: bool = False
    batch: int = 16
    shape: tuple[int, int] = (224, 224)
    dense: bool = False
    train: bool = False
    window: int = 2

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def autocast(self) -> bool:
        return self.dtype != 'float32' and (self.amp or self.train)


def build(name: str, setting: Setting) -> nn.Module:
    """The plain model behind a name such as 'litv2_small:fused:compiled' or 'convnext_tiny'.

    Raises:
        ArgumentError: If there is no such model, or timm has it not as a dense backbone.
    """
    arch, *forms = name.split(':')
    if not set(forms) <= set(FORMS):
        raise ArgumentError(f'{name!r}: the forms of a model are {list(FORMS)}')
    if 'onnx' in forms:
        _check_onnx(name, forms, setting)
    if 'checkpointed' in forms and ('official' in forms or not setting.train):
        raise ArgumentError(f"{name!r}: it is in training that mmlit's blocks are computed again")
    torch.manual_seed(0)
    if arch in PEERS:
        model = _litv2(arch, setting, with_cp='checkpointed' in forms)
    elif set(forms) - {'compiled'}:
        raise ArgumentError(f'{name!r}: only LITv2 has this form; others can be compiled')
    else:
        model = _timm(arch, setting)
    model.train(setting.train)
    if not setting.autocast:
        model.to(setting.torch_dtype)
    return model.to(setting.device)


def prepare(name: str, model: nn.Module, setting: Setting) -> Callable:
    """A function that runs the form that ``name`` asks for, once."""
    forms = name.split(':')[1:]
    if 'official' in forms:
        model = OfficialStyle(model).train(setting.train)
    if 'fused' in forms:
        model.fuse()
    dtype = torch.float32 if setting.autocast else setting.torch_dtype
    x = torch.randn(setting.batch, 3, *setting.shape, device=setting.device, dtype=dtype)
    if 'onnx' in forms:
        call = _onnx(model)
    else:
        call = torch.compile(model) if 'compiled' in forms else model
    run = _training_step(model, call, x, setting) if setting.train else _inference(call, x, setting)
    for form in {'reference', 'triton'} & set(forms):
        run = ops.use(form)(run)
    return run


def _litv2(arch: str, setting: Setting, with_cp: bool) -> nn.Module:
    kind = arch.removeprefix('litv2_')
    window_size = (0, 0, setting.window, 1)
    if setting.dense:
        return LITv2(kind, out_indices=(0, 1, 2, 3), window_size=window_size, with_cp=with_cp)
    return LITv2Classifier(kind, window_size=window_size, with_cp=with_cp)


def _timm(arch: str, setting: Setting) -> nn.Module:
    try:
        import timm
    except ImportError as e:
        raise ArgumentError(f'{arch}: needs timm and torchvision ({e})') from None
    if not timm.is_model(arch):
        raise ArgumentError(f'{arch}: neither a LITv2 ({list(PEERS)}) nor a model of timm')
    kwargs = dict(features_only=True) if setting.dense else {}
    if arch.startswith('swin'):
        kwargs['img_size'] = setting.shape
    try:
        return timm.create_model(arch, **kwargs)
    except (RuntimeError, AssertionError) as e:
        raise ArgumentError(f'{arch}: timm has no such backbone ({e})') from None


def _check_onnx(name: str, forms: list[str], setting: Setting) -> None:
    if set(forms) - {'fused', 'onnx'}:  # what is exported is fused anyway
        raise ArgumentError(f'{name!r}: the other forms are of PyTorch, and mean nothing in ONNX')
    if (setting.device, setting.dtype, setting.train) != ('cpu', 'float32', False):
        raise ArgumentError(f'{name!r}: onnxruntime is compared in float32 inference on a CPU')


def _onnx(model: nn.Module) -> Callable:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        export_onnx(part_of(model.eval()), path)
        return open_onnx(path)


def _autocast(setting: Setting) -> torch.autocast:
    dtype = setting.torch_dtype if setting.autocast else torch.bfloat16
    return torch.autocast(setting.device, dtype, enabled=setting.autocast)


def _inference(call: Callable, x: Tensor, setting: Setting) -> Callable:
    @torch.no_grad()
    def run():
        with _autocast(setting):
            call(x)

    return run


def _training_step(model: nn.Module, call: Callable, x: Tensor, setting: Setting) -> Callable:
    """Forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def run():
        with _autocast(setting):
            outs = call(x)
            outs = outs if isinstance(outs, (tuple, list)) else [outs]
            loss = sum(out.float().square().mean() for out in outs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run
