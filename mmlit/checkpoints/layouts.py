"""Names of weights in other codebases -> mmlit's names. Pure functions over state dicts."""
import re
from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor

from mmlit.errors import CheckpointError

State = dict[str, Tensor]

# What wrappers of modules put into names: torch.compile, FSDP, activation checkpointing.
WRAPPERS = re.compile(r'(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)')
# Of several backbones in one file, the one that makes predictions (AutoMix: `backbone` beside
# `backbone_k` and others), or else the one that learns, of which another is the average (MoCo).
MAIN = (re.compile(r'(module\.|model\.)*backbone\.(module\.)?'),
        re.compile(r'(module\.|model\.)*encoder_q\.(0\.)?'))
COUNTERS = ('n_averaged', 'steps')  # of the averages that torch and mmengine keep


def convert(state: Mapping[str, Tensor],
            prefix: str | None = None) -> tuple[str, State, State]:
    """Recognise the layout of a state dict and bring it into mmlit's.

    Args:
        state: Weights of a backbone or of a whole model.
        prefix: Which backbone of several, such as 'teacher.' or 'teacher.backbone.'.

    Returns:
        The layout's name ('official', 'openmixup' or 'mmlit'); the backbone's weights in mmlit's
        names; the other weights (heads), names unchanged.

    Raises:
        CheckpointError: If it is none of these layouts, or holds several backbones of which none is
            the main one.
    """
    state = unwrap(state)
    state = {k: v for k, v in state.items() if not is_average(k)}
    prefix, others = _prefix(state, prefix)
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    # Around the backbone stands the whole model, perhaps in wrappers of its own (``module.``).
    outer = around(prefix)
    rest = {k.removeprefix(outer): v for k, v in state.items()
            if not k.startswith(prefix) and k.startswith(outer if others else '')}
    # In files of the official classifier, and of backbones alone, heads stand beside the stages.
    head = {k for k in own if k.startswith('head.')}
    backbone = {k: v for k, v in own.items() if k not in head}
    rest.update({k: own[k] for k in head})
    layout = _recognise(backbone)
    mapping = {'official': from_official, 'openmixup': from_openmixup, 'mmlit': dict}[layout]
    return layout, mapping(backbone), rest


def is_average(name: str) -> bool:
    """Whether a name is of the second copy of a weight that mmcv's EMAHook keeps in the model: it
    has underscores in place of dots."""
    return name.startswith('ema_') and '.' not in name


def around(prefix: str) -> str:
    """The prefix of the whole model around a backbone."""
    return re.sub(r'(^|(?<=\.))(backbone\w*|encoder(_[qk](\.0)?)?)\.(module\.)?$', '', prefix)


def unwrap(state: Mapping[str, Tensor], keep: Container[str] = ()) -> State:
    """Names without what ``torch.compile``, FSDP and activation checkpointing put into them, and
    without the counters of averaged models, except for those to ``keep``."""
    names = {k: WRAPPERS.sub(r'\1', k).replace('..', '.').lstrip('.') for k in state}
    if len(set(names.values())) < len(names):
        return dict(state)  # what looks like a wrapper's name is one of the model's own
    return {names[k]: v for k, v in state.items() if k not in COUNTERS or k in keep}


def select(state: Mapping[str, Tensor], prefix: str) -> State:
    """The weights whose names begin with a prefix, without it.

    Args:
        state: Weights of a whole model.
        prefix: Such as 'teacher.', with the last dot or without.

    Raises:
        CheckpointError: If there are none.
    """
    prefix = f'{prefix.rstrip(".")}.'
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise CheckpointError(f'no backbone stands under prefix={prefix!r}; names begin with '
                              f'{sorted({k.split(".")[0] + "." for k in state})[:8]}')
    return found


def choose(prefixes: Iterable[str]) -> str:
    """Of several copies of a model in one file, the main one.

    Raises:
        CheckpointError: If there is none.
    """
    found = sorted(prefixes)
    if len(found) == 1:
        return found[0]
    for main in MAIN:
        chosen = [p for p in found if main.fullmatch(p)]
        if len(chosen) == 1:
            return chosen[0]
    example = around(found[0]) or found[0]
    raise CheckpointError(f'it holds several backbones, under {found}: say which, with '
                          f'prefix={example!r} in load_checkpoint, or in init_cfg='
                          "dict(type='Pretrained', ...)")


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """The first convolution of a model for RGB, for images with another number of channels.

    One channel gets the sum over RGB, so that a grey image gives what its three equal channels
    gave. Of more, each gets a weight of red, green and blue in turn, scaled so that the sum over
    all stays of the same size (timm's rule).

    Args:
        weight: Shape (C_out, 3, k, k).
        channels: Number of channels of the images.

    Returns:
        Shape (C_out, channels, k, k).
    """
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if channels == 1:
        return exact.sum(dim=1, keepdim=True).to(weight.dtype)
    return (exact[:, [i % 3 for i in range(channels)]] * (3 / channels)).to(weight.dtype)


def _prefix(state: Mapping[str, Tensor], wanted: str | None) -> tuple[str, list[str]]:
    """What stands before the names of the backbone, and of others in the file."""
    found = sorted({m[1] for k in state if (m := re.match(r'(.*?)patch_embed1?\.proj', k))})
    if not found:
        raise _unknown(state)
    candidates = found
    if wanted:
        wanted = f'{wanted.rstrip(".")}.'
        candidates = [p for p in found if p.startswith(wanted)]
        if not candidates:
            raise CheckpointError(f'no backbone stands under prefix={wanted!r}; there are some '
                                  f'under {found}')
    chosen = choose(candidates)
    return chosen, [p for p in found if p != chosen]


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
