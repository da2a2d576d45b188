"""mmlit's names of weights -> those of other codebases. Pure functions over state dicts.

Every target computes the same in eval mode. Where it lacks a weight, that weight is folded into its
neighbours: exactly but for the rounding of the dtype.
"""
import re
from collections.abc import Mapping

from torch import Tensor

from mmlit.errors import CheckpointError

from .layouts import State, rename

PLAIN_HEAD = [(r'^head\.fc\.', 'head.')]  # openmixup's heads keep their linear under ``fc``
BLOCK = re.compile(r'stages\.\d+\.blocks\.\d+\.')


def to_mmlit(backbone: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> dict:
    """A classifier of mmlit, or a model of mmdet or mmseg around its backbone."""
    return dict(state_dict={**{f'backbone.{k}': v for k, v in backbone.items()}, **rest})


def to_timm(backbone: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> dict:
    """A model of :mod:`mmlit.timm_models`: as mmlit's, the head's linear being the head itself."""
    return to_mmlit(backbone, rename(rest, PLAIN_HEAD))


def to_dense(backbone: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> dict:
    """A model of mmdet or mmseg: as mmlit's, without a classifier's head."""
    return to_mmlit(backbone, _without_head(rest))


def to_official(backbone: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> dict:
    """The official release's classifier (``model``), or its detector or segmentor
    (``state_dict``), which is what a model without a linear ``head`` is taken for.

    Of a classifier, what a training has beside it (AutoMix's mixing block, second network and norm
    of another stage) has no place in the release, and is left out.

    The release has no layer scale: it is folded into the linears before it, which is always
    possible, for only dropout stands between.
    """
    state = rename(fold_layer_scale(backbone), [
        (r'^stages\.', 'layers.'),
        (r'\.ffn\.', '.mlp.'),
        (r'\.dwconv\.', '.dwconv.dwconv.'),
        (r'\.downsample\.norm\.', '.downsample.norm_layer.'),
    ])
    head = {k: v for k, v in rename(rest, PLAIN_HEAD).items() if k.startswith('head.')}
    others = _without_head(rest)
    norms = {k.split('.')[0] for k in state if re.match(r'norm\d\.', k)}
    is_classifier = bool(head) and set(head) <= {'head.weight', 'head.bias'}
    if 'norm3' in norms and (is_classifier or (norms == {'norm3'} and not others)):
        state = {k: v for k, v in state.items() if not re.match(r'norm[012]\.', k)}
        return dict(model={**rename(state, [(r'^norm3\.', 'norm.')]), **head})
    return dict(state_dict={**{f'backbone.{k}': v for k, v in state.items()}, **others})


def to_openmixup(backbone: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> dict:
    """openmixup's classifier with ``LIT``.

    Its deformable convolution has no bias: it is folded into the batch norm behind it, whose
    running mean is shifted. In training a batch norm takes any bias away itself.
    """
    state = rename(fold_merging_bias(backbone), [
        (r'^patch_embed\.proj\.', 'patch_embed1.projection.'),
        (r'^patch_embed\.', 'patch_embed1.'),
        (r'^stages\.(\d)\.downsample\.', lambda m: f'patch_embed{int(m[1]) + 2}.'),
        (r'\.dwconv\.', '.dwconv.dwconv.'),
    ])
    with_attention = {k.split('.attn.')[0] for k in state if '.attn.' in k}
    out = {}
    for name, value in state.items():
        block, _, part = name.rpartition('.')
        norm = re.fullmatch(r'(stages.*)\.norm([12])', block)
        if norm:  # blocks without attention have one norm only, the first there
            block = f'{norm[1]}.ln{norm[2] if norm[1] in with_attention else 1}'
        elif part in ('gamma1', 'gamma2'):
            part = f'gamma_{part[-1]}' if block in with_attention else 'gamma'
        name = re.sub(r'^stages\.(\d)\.blocks\.', lambda m: f'blocks{int(m[1]) + 1}.',
                      f'{block}.{part}')
        out[f'backbone.{name}'] = value
    return dict(state_dict={**out, **rename(rest, [(r'^head\.(?!fc\.)', 'head.fc.')])})


TARGETS = dict(official=to_official, openmixup=to_openmixup, mmlit=to_mmlit, mmdet=to_dense,
               mmseg=to_dense, timm=to_timm)


def fold_layer_scale(state: Mapping[str, Tensor]) -> State:
    """Scale the last linears of each branch in place of its output."""
    state = dict(state)
    for name in [k for k in state if re.search(r'\.gamma[12]$', k)]:
        gamma = state.pop(name).double()
        block = BLOCK.match(name)[0]
        if name.endswith('gamma2'):
            _scale_rows(state, f'{block}ffn.fc2', gamma)
            continue
        start = 0
        for linear in (f'{block}attn.h_proj', f'{block}attn.l_proj'):  # concatenated in this order
            if f'{linear}.weight' in state:
                rows = len(state[f'{linear}.weight'])
                _scale_rows(state, linear, gamma[start:start + rows])
                start += rows
    return state


def fold_merging_bias(state: Mapping[str, Tensor]) -> State:
    """Move the biases of the deformable convolutions into the batch norms behind them."""
    state = dict(state)
    for name in [k for k in state if k.endswith('.downsample.dconv.bias')]:
        mean = name.replace('.dconv.bias', '.norm.running_mean')
        if mean not in state:
            raise CheckpointError(f'{name} cannot be folded: there is no {mean}')
        bias = state.pop(name)
        state[mean] = (state[mean].double() - bias.double()).to(state[mean].dtype)
    return state


def _without_head(rest: Mapping[str, Tensor]) -> State:
    return {k: v for k, v in rest.items() if not k.startswith('head.')}


def _scale_rows(state: State, linear: str, gamma: Tensor) -> None:
    for name, scale in ((f'{linear}.weight', gamma.unsqueeze(1)), (f'{linear}.bias', gamma)):
        state[name] = (state[name].double() * scale).to(state[name].dtype)
