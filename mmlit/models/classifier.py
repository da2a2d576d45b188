"""LITv2 as a plain image classifier, with no toolkit around it."""
from typing import Any

import torch
from torch import Tensor, nn

from mmlit.checkpoints import check_settings, load_checkpoint, resolve_pretrained
from mmlit.errors import ArgumentError

from .litv2 import LITv2
from .tracing import check_scripted, with_own_children


class LITv2Classifier(nn.Module):
    """LITv2, global average pooling and a linear head (paper section 4).

    Args:
        arch: As in :class:`LITv2`.
        num_classes: Number of classes.
        **backbone: Further arguments of :class:`LITv2`.

    Raises:
        ArgumentError: If ``num_classes`` is not positive, or ``out_indices`` is given.
    """

    def __init__(self, arch: str | dict = 'small', num_classes: int = 1000,
                 **backbone: Any) -> None:
        super().__init__()
        if num_classes < 1:
            raise ArgumentError(f'num_classes={num_classes}: expected at least 1')
        if 'out_indices' in backbone:
            raise ArgumentError('a classifier reads the last stage: use LITv2 for out_indices')
        self.num_classes = num_classes
        self.backbone = LITv2(arch, **backbone)
        self.in_channels = self.backbone.in_channels
        self.min_size = self.backbone.min_size
        self.head = nn.Linear(self.backbone.embed_dims[-1], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        if torch.jit.is_scripting():
            check_scripted(x, self.training, self.in_channels, self.min_size)
        return self.head(self.backbone(x)[-1].mean(dim=(2, 3)))

    def __prepare_scriptable__(self) -> nn.Module:
        return with_own_children(self)

    def fuse(self) -> 'LITv2Classifier':
        """Fold weights together for inference; see :meth:`LITv2.fuse`."""
        self.backbone.fuse()
        return self.requires_grad_(False)


def litv2_tiny(num_classes: int = 1000, pretrained: str | None = None,
               **kwargs: Any) -> LITv2Classifier:
    """openmixup's tiny variant; the paper has no such model. See :func:`litv2_small`."""
    return _build('tiny', num_classes, pretrained, kwargs)


def litv2_small(num_classes: int = 1000, pretrained: str | None = None,
                **kwargs: Any) -> LITv2Classifier:
    """LITv2-S: 28 M parameters, 3.7 GFLOPs at 224 x 224 (paper table 1).

    Args:
        num_classes: Number of classes. A head of another size than the checkpoint's is new.
        pretrained: Path or URL of a checkpoint, or a name of :func:`mmlit.list_pretrained`, which
            brings the settings it was trained with (alpha, say).
        **kwargs: Further arguments of :class:`LITv2Classifier`.

    Raises:
        CheckpointError: If the checkpoint cannot be had, or does not fit.
    """
    return _build('small', num_classes, pretrained, kwargs)


def litv2_medium(num_classes: int = 1000, pretrained: str | None = None,
                 **kwargs: Any) -> LITv2Classifier:
    """LITv2-M: 49 M parameters, 7.5 GFLOPs at 224 x 224 (paper table 1); see
    :func:`litv2_small`."""
    return _build('medium', num_classes, pretrained, kwargs)


def litv2_base(num_classes: int = 1000, pretrained: str | None = None,
               **kwargs: Any) -> LITv2Classifier:
    """LITv2-B: 87 M parameters, 13.2 GFLOPs at 224 x 224 (paper table 1); see
    :func:`litv2_small`."""
    return _build('base', num_classes, pretrained, kwargs)


def _build(arch: str, num_classes: int, pretrained: str | None, kwargs: dict) -> LITv2Classifier:
    if pretrained is None:
        return LITv2Classifier(arch, num_classes, **kwargs)
    source, entry = resolve_pretrained(arch, pretrained)
    if entry:
        kwargs = {**entry.settings, **kwargs}
    model = LITv2Classifier(arch, num_classes, **kwargs)
    if entry:
        check_settings(model.backbone, entry)
    load_checkpoint(model, source)
    return model
