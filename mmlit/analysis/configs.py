"""Multiply-adds of the model that a config describes, without its weights and data."""
import torch
from torch import Tensor, nn

from mmlit.command_line import trainer_for

from .flops import flops_by_module

# What detectors with a second stage run it on, in mmdet's own count and so in papers'.
BOXES, MASKS = 1000, 100


def flops_of_config(path: str, shape: tuple[int, int]) -> tuple[dict[str, int], nn.Module]:
    """Multiply-adds of each module for one image; see :func:`flops_by_module`.

    The second stage of a detector counts for 1,000 boxes and 100 masks.

    Args:
        path: An openmixup config, or one of mmdet, mmseg or mmpretrain.
        shape: Height and width of the image.

    Returns:
        Multiply-adds by module name, '' being the whole model, and the model.

    Raises:
        ConfigError: If the config does not load here, or its model does not build.
    """
    model = build_model(path)
    counts = flops_by_module(EveryLayer(model), (3, *shape))
    return {name.removeprefix('model').lstrip('.'): n for name, n in counts.items()}, model


def build_model(path: str) -> nn.Module:
    """The model of a config, in eval mode, as initialised.

    Raises:
        ConfigError: If the config does not load here, or its model does not build.
    """
    trainer, _ = trainer_for(path)
    return trainer.build_model(trainer.load_config(path)).eval()


class EveryLayer(nn.Module):
    """Runs each layer of a toolkit's model once, for one image and without its pre- and
    post-processing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> None:
        model = self.model
        if hasattr(model, 'roi_head'):
            model.rpn_head(model.extract_feat(image))
            self._second_stage(model.roi_head, image)
        elif hasattr(model, 'data_preprocessor'):
            model(image)  # mmengine's models: the mode 'tensor' is the default
        else:
            model(image, mode='inference')

    def _second_stage(self, head: nn.Module, image: Tensor) -> None:
        for kind, boxes in [('bbox', BOXES), ('mask', MASKS)]:
            heads = getattr(head, f'{kind}_head', None)
            if heads is None:
                continue
            extractors = getattr(head, f'{kind}_roi_extractor')
            cascade = isinstance(heads, nn.ModuleList)
            for i, stage in enumerate(heads if cascade else [heads]):
                extractor = extractors[i] if isinstance(extractors, nn.ModuleList) else extractors
                size = extractor.roi_layers[0].output_size
                stage(torch.empty(boxes, extractor.out_channels, *size, device=image.device))
