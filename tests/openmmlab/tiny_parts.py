"""A model and a data set that train in a second, for the tests of trainings."""
import random

import torch
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn


@MODELS.register_module()
class TinyModel(BaseModel):
    """A classifier whose loss or gradient can be spoilt.

    Args:
        backbone: Config of a LITv2.
        spoil: 'loss' or 'gradient', which is nan at the step ``at``.
        at: A step, from 1.
        rank: In which process of a group; in all by default.
    """

    def __init__(self, backbone: dict, spoil: str = '', at: int = 0, rank: int | None = None,
                 **kwargs):
        super().__init__(**kwargs)
        self.backbone = MODELS.build(backbone)
        self.head = nn.Linear(128, 3)
        self.spoil, self.step = spoil, 0
        self.at = at if rank in (None, get_rank()) else 0

    def forward(self, inputs, label, mode):
        (out, ) = self.backbone(torch.stack(list(inputs)))
        scores = self.head(out.mean((2, 3)))
        label = torch.as_tensor(label)
        if mode != 'loss':
            return [dict(right=bool(r)) for r in scores.argmax(1) == label]
        self.step += 1
        loss = nn.functional.cross_entropy(scores, label)
        if self.step == self.at:
            # The root of zero is zero, and its derivative is infinite.
            loss = loss * float('nan') if self.spoil == 'loss' else loss + (scores.sum() * 0).sqrt()
        return dict(loss_cls=loss, loss_norm=[scores.square().mean()], acc=torch.tensor(50.))


@DATASETS.register_module()
class TinyDataset(torch.utils.data.Dataset):
    """Random pictures, augmented with the random numbers of torch and of Python."""
    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, length: int = 6, pipeline=()):
        self.length, self.pipeline = length, pipeline

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict:
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i))
        return dict(inputs=image + torch.rand(1) + random.random(), label=i % 3)


@METRICS.register_module()
class TinyMetric(BaseMetric):
    default_prefix = 'tiny'

    def process(self, data_batch, data_samples) -> None:
        self.results.extend(sample['right'] for sample in data_samples)

    def compute_metrics(self, results) -> dict:
        return dict(accuracy=sum(results) / len(results))
