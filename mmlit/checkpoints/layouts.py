"""Names of weights in other codebases -> mmlit's names. Pure functions over state dicts."""
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmlit.errors import CheckpointError

State = dict[str, Tensor]


def convert(state: Mapping[str, Tensor]) -> tuple[str, State, State]:
    """Recognise the layout of a state dict and bring it into mmlit's.

    Args:
        state: Weights of a backbone or of a whole model.

    Returns:
        The layout's name ('official', 'openmixup' or 'mmlit'); the backbone's weights in mmlit's
        names; the other weights (heads), names unchanged.

    Raises:
        CheckpointError: If it is none of these layouts.
    """
    # mmcv's EMAHook keeps a second copy of each weight, with underscores in place of dots.
    state = {k: v for k, v in state.items() if not k.startswith('ema_')}
    prefix = _prefix(state)
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    # Around the backbone stands the whole model, perhaps in wrappers of its own (``module.``).
    outer = re.sub(r'(backbone|encoder)\.$', '', prefix)
    rest = {k.removeprefix(outer): v for k, v in state.items() if not k.startswith(prefix)}
    # In files of the official classifier, and of backbones alone, heads stand beside the stages.
    head = {k for k in own if k.startswith('head.')}
    backbone = {k: v for k, v in own.items() if k not in head}
    rest.update({k: own[k] for k in head})
    layout = _recognise(backbone)
    mapping = {'official': from_official, 'openmixup': from_openmixup, 'mmlit': dict}[layout]
    return layout, mapping(backbone), rest


def _prefix(state: Mapping[str, Tensor]) -> str:
    """What stands before the names of the backbone."""
    found = {m[1] for k in state if (m := re.match(r'(.*?)patch_embed1?\.proj', k))}
    if not found:
        raise _unknown(state)
    if len(found) > 1:
        raise CheckpointError(f'it holds several backbones, under {sorted(found)}: keep one')
    return found.pop()


def from_official(state: Mapping[str, Tensor]) -> State:
    """The official release (ziplab/LITv2): classification, detection, segmentation backbones."""
    return rename(state, [
        (r'^layers\.', 'stages.'),
        (r'\.mlp\.', '.ffn.'),
        (r'\.dwconv\.dwconv\.', '.dwconv.'),
        (r'\.downsample\.norm_layer\.', '.downsample.norm.'),
        (r'^norm\.', 'norm3.'),
    ])


def from_openmixup(state: Mapping[str, Tensor]) -> State:
    """openmixup's ``LIT``. Its deformable convolution has no bias: here it is zero."""
    renamed = rename(state, [
        (r'^patch_embed1\.projection\.', 'patch_embed.proj.'),
        (r'^patch_embed1\.', 'patch_embed.'),
        (r'^patch_embed([2-4])\.', lambda m: f'stages.{int(m[1]) - 2}.downsample.'),
        (r'^blocks([1-4])\.(\d+)\.', lambda m: f'stages.{int(m[1]) - 1}.blocks.{m[2]}.'),
        (r'\.gamma$', '.gamma2'),  # blocks with a feed-forward network only
        (r'\.gamma_([12])$', r'.gamma\1'),
        (r'\.dwconv\.dwconv\.', '.dwconv.'),
    ])
    # In blocks without attention the only norm, ln1, precedes the feed-forward network.
    with_attention = {k.split('.attn.')[0] for k in renamed if '.attn.' in k}
    out = {}
    for name, value in renamed.items():
        block, _, norm = name.rpartition('.ln')
        if block:
            index = norm[0] if block in with_attention else '2'
            name = f'{block}.norm{index}{norm[1:]}'
        out[name] = value
        if name.endswith('.dconv.weight'):
            bias = name.removesuffix('weight') + 'bias'
            out.setdefault(bias, torch.zeros(value.shape[0], dtype=value.dtype))
    return out


def _recognise(state: State) -> str:
    for layout, pattern in [('openmixup', 'patch_embed1.'), ('official', 'layers.'),
                            ('mmlit', 'stages.')]:
        if any(k.startswith(pattern) for k in state):
            if any('.downsample.dconv.' in k or k.startswith('patch_embed2.') for k in state):
                return layout
            break
    raise _unknown(state)


def _unknown(state: Mapping[str, Tensor]) -> CheckpointError:
    return CheckpointError('the weights are in none of the layouts of LITv2 (official, openmixup, '
                           f'mmlit); their names begin with {sorted(state)[:3]}')


def rename(state: Mapping[str, Tensor], rules: list) -> State:
    """Apply (pattern, replacement) pairs of ``re.sub`` to every name, in turn."""
    out = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in out:
            raise CheckpointError(f'it holds {name} twice, under different names')
        out[name] = value
    return out
