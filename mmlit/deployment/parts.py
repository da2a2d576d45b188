"""What of a model is exported: a classifier, its backbone, or a whole up to the head's outputs."""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlit.checkpoints import load_checkpoint, resolve_pretrained
from mmlit.command_line import trainer_for
from mmlit.errors import ArgumentError, ConfigError
from mmlit.models import LITv2, LITv2Classifier

from .preprocessing import imagenet, preprocessing_of

PARTS = ('classifier', 'backbone', 'head')
ARCHS = ('tiny', 'small', 'medium', 'base')


@dataclass
class Part:
    """What is exported.

    Attributes:
        module: Maps images (B, C, H, W), normalised, to a tuple of tensors; in eval mode, fused.
        outputs: A name for each of them.
        in_channels: C.
        min_size: Smallest H and W, in pixels.
        preprocessing: How an image becomes the input; see :func:`preprocessing_of`. None: unknown.
    """
    module: nn.Module
    outputs: list[str]
    in_channels: int
    min_size: int
    preprocessing: dict | None


class Logits(nn.Module):
    """Backbone, global average pooling and a linear: logits, without a toolkit's loss around."""

    def __init__(self, backbone: LITv2, head: nn.Linear):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.head(self.backbone(images)[-1].mean(dim=(2, 3))), )


class HeadOutputs(nn.Module):
    """What the head of an mmdet or mmseg model computes, as one flat tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        for owner in list(model.modules()):
            for name, child in owner.named_children():
                if type(child).__name__ == 'Upsample' and getattr(child, 'scale_factor', None):
                    # mmseg's computes the size with int(), which makes it a constant.
                    setattr(owner, name, nn.Upsample(None, child.scale_factor, child.mode,
                                                     child.align_corners))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outs = self.model(images)  # mmengine's mode 'tensor': no pre- and post-processing
        return (outs, ) if isinstance(outs, Tensor) else tuple(t for kind in outs for t in kind)


def load_part(model: str, checkpoint: str | None, part: str | None = None,
              num_classes: int | None = None) -> Part:
    """A part of a model, with the weights of a checkpoint, ready to be exported.

    Args:
        model: 'litv2_tiny', 'litv2_small', 'litv2_medium', 'litv2_base', or the path of a config:
            of openmixup, mmpretrain, mmdet or mmseg.
        checkpoint: Path, URL, or for models by name a name of :func:`mmlit.list_pretrained`.
            None leaves random weights.
        part: 'classifier': logits (B, num_classes). 'backbone': the maps of its ``out_indices``
            (all four for models by name). 'head': all that the head computes, for detectors with
            one stage before NMS, for segmentors before the maps are resized to the image. None is
            the first of these that the model has.
        num_classes: Of a classifier by name; 1000 if None. A config says it itself.

    Raises:
        ArgumentError: If there is no such model or part.
        CheckpointError: If the weights do not fit.
        ConfigError: If the config cannot be used here.
    """
    if part not in (None, *PARTS):
        raise ArgumentError(f'part={part!r}: expected one of {list(PARTS)}')
    if model.removeprefix('litv2_') in ARCHS:
        return _by_name(model.removeprefix('litv2_'), checkpoint, part, num_classes or 1000)
    if not Path(model).is_file():
        raise ArgumentError(f'{model!r} is neither a config nor one of '
                            f'{[f"litv2_{arch}" for arch in ARCHS]}')
    if num_classes is not None:
        raise ArgumentError(f'num_classes={num_classes}: the config {model} says how many there '
                            'are')
    return _by_config(model, checkpoint, part)


def _by_name(arch: str, checkpoint: str | None, part: str | None, num_classes: int) -> Part:
    settings, preprocessing = {}, imagenet()
    if checkpoint is not None:
        checkpoint, entry = resolve_pretrained(arch, checkpoint)
        if entry:
            settings, preprocessing = entry.settings, imagenet(entry.side)
    if part == 'head':
        raise ArgumentError("part='head': litv2_" + arch + ' is a classifier; a detector or a '
                            'segmentor needs its config')
    dense = part == 'backbone'
    model = (LITv2(arch, out_indices=(0, 1, 2, 3), **settings) if dense else
             LITv2Classifier(arch, num_classes, **settings))
    if checkpoint is not None:  # a classifier has no norms for the first three maps
        load_checkpoint(model, checkpoint, strict=not dense)
    return part_of(model, preprocessing)


def _by_config(path: str, checkpoint: str | None, part: str | None) -> Part:
    trainer, generation = trainer_for(path)
    config = trainer.load_config(path)
    preprocessing = preprocessing_of(config, generation)
    model = trainer.build_model(config)
    if not isinstance(getattr(model, 'backbone', None), LITv2):
        raise ConfigError(f'{path}: its model has no LITv2 as backbone')
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, strict=True)
    is_classifier = hasattr(model, 'head')
    part = part or ('classifier' if is_classifier else 'backbone')
    if part == 'backbone':
        return part_of(model.backbone, preprocessing)
    if part == 'classifier':
        head = getattr(getattr(model, 'head', None), 'fc', None)
        if not isinstance(head, nn.Linear):
            raise ConfigError(f'{path}: its model has no linear classifier `head.fc`; export '
                              "'backbone'" + ('' if is_classifier else " or 'head'"))
        return _part(Logits(model.backbone, head), ['logits'], model.backbone, preprocessing)
    if is_classifier or generation == 'openmixup':
        raise ConfigError(f"{path}: 'head' is for detectors and segmentors; export 'classifier'")
    if hasattr(model, 'roi_head'):
        raise ConfigError(f'{path}: the head of a detector with two stages works on boxes that '
                          "depend on the image; export 'backbone'")
    return _head(model, preprocessing)


def part_of(model: LITv2 | LITv2Classifier, preprocessing: dict | None = None) -> Part:
    """A backbone or a classifier as what is exported; it is fused, in place.

    Args:
        model: The model.
        preprocessing: As :func:`preprocessing_of` returns it; if None, ImageNet's where the model
            takes three channels.
    """
    backbone = model if isinstance(model, LITv2) else model.backbone
    if preprocessing is None and backbone.in_channels == 3:
        preprocessing = imagenet()
    if isinstance(model, LITv2):
        return _part(model, [f'stage{i + 1}' for i in model.out_indices], model, preprocessing)
    return _part(Logits(backbone, model.head), ['logits'], backbone, preprocessing)


def _head(model: nn.Module, preprocessing: dict) -> Part:
    with torch.no_grad():
        outs = model.eval()(torch.zeros(1, model.backbone.in_channels, 64, 64))
    if isinstance(outs, Tensor):
        names = ['seg_logits']
    else:
        kinds = ('cls_score', 'bbox_pred') if len(outs) == 2 else [
            f'output{k}' for k in range(len(outs))]
        names = [f'{kind}{level}' for kind, maps in zip(kinds, outs, strict=True)
                 for level in range(len(maps))]
    return _part(HeadOutputs(model), names, model.backbone, preprocessing)


def _part(module: nn.Module, outputs: list[str], backbone: LITv2,
          preprocessing: dict | None) -> Part:
    module.eval()
    backbone.fuse()
    if preprocessing is not None:
        preprocessing = dict(preprocessing, min_size=backbone.min_size)
    return Part(module.requires_grad_(False), outputs, backbone.in_channels, backbone.min_size,
                preprocessing)
