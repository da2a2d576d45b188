"""Multiply-adds of a forward pass: what is computed, and what the official release reports."""
import copy
import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmlit import ops
from mmlit.models import HiLoAttention, LITv2Classifier
from mmlit.models.litv2 import Stage

try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as e:
    raise ImportError('mmlit.analysis counts with what torch >= 2.4 has; this is torch '
                      f'{torch.__version__}') from e


def count_flops(model: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds that ``model`` computes for one input; see :func:`flops_by_module`.

    Args:
        model: Any module that takes one tensor.
        shape: Shape of the input without its batch dimension: (C, H, W) for a LITv2 or a model
            around one, (H, W, C) for a HiLo layer.

    Returns:
        Multiply-adds (MACs), which papers call FLOPs: 3,723,626,496 for LITv2-S at 224 x 224.
    """
    return flops_by_module(model, shape)['']


def flops_by_module(model: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """Multiply-adds that each module computes for one input.

    PyTorch's own counter (``torch.utils.flop_counter``) sees every matrix product, convolution
    and attention that runs, padding included. Norms, biases, activations, softmax, pooling and
    the bilinear sampling of token merging are not counted. What runs, in eval mode, is a copy of
    the model without data, so large images cost nothing and the model is left as it is.

    Args:
        model: Any module that takes one tensor.
        shape: Shape of the input without its batch dimension.

    Returns:
        Multiply-adds (MACs) by the names of ``model.named_modules()``, in that order; a module
        counts what is inside it, and '' is the whole model.
    """
    fake = FakeTensorMode()
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(t): fake.from_tensor(t) for t in tensors}).eval()
    like = next(model.parameters())
    counter = FlopCounterMode(display=False)
    # The plain form of attention is two products that the counter knows on every device.
    # The plain forms of ops, so that each module counts what is its own.
    with fake, counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH), ops.use('reference'):
        twin(torch.empty(1, *shape, dtype=like.dtype, device=like.device))
    counts = counter.get_flop_counts()

    def macs(name: str, module: nn.Module) -> int:
        key = '.'.join(filter(None, [type(model).__name__, name]))
        if key in counts and not isinstance(module, Stage):
            return sum(counts[key].values()) // 2  # the counter's unit is one multiply or add
        # A container: never called itself, such as a list of stages, or called for a part of what
        # is in it.
        return sum(macs(f'{name}.{child}'.lstrip('.'), m) for child, m in module.named_children())

    return {name: macs(name, module) for name, module in model.named_modules()}


def official_flops(model: LITv2Classifier, shape: Sequence[int]) -> int:
    """Multiply-adds by the formula of the official release, whose results the paper prints.

    It is the ``flops`` methods of https://github.com/ziplab/LITv2 (``classification/models``),
    and gives 3.734401596 G, 7.47923718 G and 13.193561148 G for LITv2-S, -M and -B at 224 x 224.
    At that size it lies 0.2 to 0.3 % above what is computed, :func:`count_flops`:

    - norms add 1 for each element, and so does the bias of every convolution but the first;
    - the convolution that predicts offsets counts 12 channels (as in deformable convolution v2,
      which has masks) where there are 8;
    - the last norm counts the tokens of stage 3, four times those it gets;
    - Lo-Fi queries count padded tokens too.

    It gives the paper's figures for every alpha but 1.0 (LITv2-S: 3.75 G; the paper's 3.70 G is
    that without the attention products of stage 3).

    Args:
        model: A LITv2 classifier.
        shape: Shape of the image, (C, H, W).

    Returns:
        Multiply-adds (MACs).
    """
    backbone = model.backbone
    dims = backbone.embed_dims
    channels, height, width = shape
    patch = backbone.patch_embed.proj.stride[0]
    h, w = -(-height // patch), -(-width // patch)
    total = h * w * dims[0] * (channels * patch**2 + 1)
    total += dims[-1] * (h * w // 16 + model.num_classes)
    for i, stage in enumerate(backbone.stages):
        for block in stage.blocks:
            hidden = block.ffn.fc1.out_features
            total += h * w * (dims[i] + 2 * dims[i] * hidden + 10 * hidden)
            if block.attn is not None:
                total += h * w * dims[i] + _official_attention(block.attn, h, w)
        if stage.downsample is not None:
            h, w = h // 2, w // 2
            total += h * w * ((4 * dims[i] + 1) * (12 + dims[i + 1]) + dims[i + 1])
    return total


def _official_attention(attn: HiLoAttention, h: int, w: int) -> int:
    s = attn.window_size
    windows = -(-h // s) * -(-w // s)
    tokens = windows * s**2
    hi, lo = attn.h_heads * attn.head_dims, attn.l_heads * attn.head_dims
    dim = hi + lo
    hifi = tokens * hi * (3 * dim + hi + 2 * s**2)
    lofi = tokens * lo * (dim + lo + 2 * windows) + windows * 2 * dim * lo
    return hifi + lofi
