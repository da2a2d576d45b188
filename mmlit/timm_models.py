"""LITv2 among timm's models: after ``import mmlit.timm_models``,
``timm.create_model('litv2_small')``.

Names of weights are those of mmlit's classifiers, so either loads the other's files.
"""
from collections.abc import Sequence

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_classifier
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mmlit.checkpoints import convert, state_dict_of
from mmlit.checkpoints.exporting import to_timm
from mmlit.checkpoints.pretrained import PUBLISHED
from mmlit.errors import ArgumentError
from mmlit.models import LITv2
from mmlit.models.tracing import check_scripted, with_own_children


class TimmLITv2(nn.Module):
    """LITv2 with the methods and arguments that timm's models have.

    Args:
        arch: As in :class:`mmlit.LITv2`.
        num_classes: Number of classes; 0 for none, which leaves the pooled features.
        in_chans: Channels of the images.
        global_pool: Pooling by timm's names ('avg', 'max', 'avgmax', 'catavgmax', or with 'fast'
            in front), or '' for none (``num_classes`` is 0 then).
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth rate.
        **kwargs: Further arguments of :class:`mmlit.LITv2`.
    """

    def __init__(self, arch: str, num_classes: int = 1000, in_chans: int = 3,
                 global_pool: str = 'avg', drop_rate: float = 0., drop_path_rate: float = 0.,
                 **kwargs):
        super().__init__()
        self.backbone = LITv2(arch, in_channels=in_chans, drop_path_rate=drop_path_rate, **kwargs)
        self.num_features = self.head_hidden_size = self.backbone.embed_dims[-1]
        self.feature_info = [
            dict(num_chs=dim, reduction=4 * 2**i, module=f'backbone.stages.{i}.blocks')
            for i, dim in enumerate(self.backbone.embed_dims)]
        self.in_chans = in_chans
        self.min_size = self.backbone.min_size
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, and other pooling if ``global_pool`` is not None."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        if num_classes and not pool:
            raise ArgumentError(f"num_classes={num_classes} needs global_pool, such as 'avg'")
        self.num_classes = num_classes
        self.global_pool, head = create_classifier(self.num_features, num_classes, pool)
        if num_classes:
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.head = head.to(next(self.backbone.parameters()))

    def get_classifier(self) -> nn.Module:
        return self.head

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if 'gamma' in name}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers, for layer-wise learning rates."""
        blocks = [(r'^backbone\.stages\.(\d+)', None)] if coarse else [
            (r'^backbone\.stages\.(\d+)\.blocks\.(\d+)', None),
            (r'^backbone\.stages\.(\d+)\.downsample', (0, )),
            (r'^backbone\.norm3', (99999, ))]
        return dict(stem=r'^backbone\.patch_embed', blocks=blocks)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable
        for stage in self.backbone.stages:
            for block in stage.blocks:
                block.with_cp = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the normed last map (B, C, H / 32, W / 32)."""
        if torch.jit.is_scripting():
            check_scripted(x, self.training, self.in_chans, self.min_size)
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map to logits (B, num_classes), or with ``pre_logits`` to features (B, C)."""
        x = self.global_pool(x)
        x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def __prepare_scriptable__(self) -> nn.Module:
        return with_own_children(self)

    def forward_intermediates(self, x: Tensor, indices: int | Sequence[int] | None = None,
                              norm: bool = False, stop_early: bool = False,
                              output_fmt: str = 'NCHW', intermediates_only: bool = False
                              ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of stages, as timm's ``features_only`` models return them.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages, or the number of last stages; None for all.
            norm: Whether the last stage's map is normed.
            stop_early: Whether to stop after the last stage asked for.
            output_fmt: 'NCHW' or 'NHWC'.
            intermediates_only: Whether to return the maps alone, without the last one.
        """
        if output_fmt not in ('NCHW', 'NHWC'):
            raise ArgumentError(f"output_fmt={output_fmt!r}: expected 'NCHW' or 'NHWC'")
        take, last = feature_take_indices(len(self.backbone.stages), indices)
        if not stop_early:
            last = len(self.backbone.stages) - 1
        maps = dict(enumerate(self.backbone.stage_maps(x, range(last + 1))))
        final = maps[last]
        if last == len(self.feature_info) - 1:
            final = self.backbone.norm3(final)
            if norm:
                maps[last] = final
        outs = [maps[i] if output_fmt == 'NCHW' else maps[i].permute(0, 2, 3, 1) for i in take]
        outs = [out.contiguous() for out in outs]
        return outs if intermediates_only else (final.contiguous(), outs)

    def prune_intermediate_layers(self, indices: int | Sequence[int] = 1, prune_norm: bool = False,
                                  prune_head: bool = True) -> list[int]:
        """Drop what :meth:`forward_intermediates` does not need for these stages."""
        take, last = feature_take_indices(len(self.backbone.stages), indices)
        self.backbone.stages = self.backbone.stages[:last + 1]
        if last < len(self.feature_info) - 1:
            self.backbone.stages[last].downsample = None
        if prune_norm:
            self.backbone.norm3 = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return take


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of any layout that mmlit reads, in the names of ``model``."""
    _, backbone, rest = convert(state_dict_of(state_dict))
    return to_timm(backbone, rest)['state_dict']


def _cfg(side: int = 224, **kwargs) -> dict:
    return dict(
        num_classes=1000, input_size=(3, side, side), pool_size=(side // 32, side // 32),
        crop_pct=0.875 if side == 224 else 1.0, interpolation='bicubic',
        mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, license='apache-2.0',
        first_conv='backbone.patch_embed.proj', classifier='head',
        paper_ids='arXiv:2205.13213',
        paper_name='Fast Vision Transformers with HiLo Attention', **kwargs)


# Those that differ in nothing but weights: timm's tags bring no arguments of a model, so that other
# alphas, and openmixup's layer scale, are left to mmlit.litv2_small(pretrained=...).
default_cfgs = generate_default_cfgs({
    f'litv2_{entry.arch}.{entry.name}': _cfg(entry.side, url=entry.url)
    for entry in PUBLISHED if not entry.settings})


def _create(variant: str, pretrained: bool, **kwargs) -> nn.Module:
    return build_model_with_cfg(
        TimmLITv2, variant, pretrained, arch=variant.removeprefix('litv2_'),
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'), **kwargs)


@register_model
def litv2_small(pretrained: bool = False, **kwargs) -> nn.Module:
    """LITv2-S: 28 M parameters, 3.7 GFLOPs at 224 x 224 (paper table 1)."""
    return _create('litv2_small', pretrained, **kwargs)


@register_model
def litv2_medium(pretrained: bool = False, **kwargs) -> nn.Module:
    """LITv2-M: 49 M parameters, 7.5 GFLOPs at 224 x 224 (paper table 1)."""
    return _create('litv2_medium', pretrained, **kwargs)


@register_model
def litv2_base(pretrained: bool = False, **kwargs) -> nn.Module:
    """LITv2-B: 87 M parameters, 13.2 GFLOPs at 224 x 224 (paper table 1)."""
    return _create('litv2_base', pretrained, **kwargs)
