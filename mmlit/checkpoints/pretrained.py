"""Published ImageNet weights, by name."""
from typing import NamedTuple

from mmlit.errors import CheckpointError

OFFICIAL = 'https://github.com/ziplab/LITv2/releases/download'
OPENMIXUP = 'https://github.com/Westlake-AI/openmixup/releases/download/open-in1k-weights'


class Published(NamedTuple):
    """A published checkpoint of a classifier with 1,000 classes.

    Attributes:
        arch: 'small', 'medium' or 'base'.
        name: What follows ``pretrained=``.
        url: Where its authors keep it.
        side: Side of the images it was trained on, in pixels.
        top1: Accuracy on ImageNet-1k as published, in per cent.
        settings: Arguments of the model that differ from the defaults.
    """
    arch: str
    name: str
    url: str
    side: int
    top1: float
    settings: dict


# Accuracies as published: the paper's and, for its own training, openmixup's.
PUBLISHED = (
    Published('small', 'in1k', f'{OFFICIAL}/v1.0/litv2_s.pth', 224, 82.0, {}),
    *(Published('small', f'in1k_alpha{alpha}', f'{OFFICIAL}/v1.1/alpha_{alpha}.pth', 224, top1,
                dict(alpha=float(alpha)))
      for alpha, top1 in [('0', 81.16), ('0.2', 81.89), ('0.4', 81.81), ('0.5', 81.88),
                          ('0.7', 81.94), ('0.9', 82.03), ('1', 81.89)]),
    Published('small', 'in1k_openmixup', f'{OPENMIXUP}/lit_v2_small_8xb128_cos_fp16_ep300.pth', 224,
              81.7, dict(init_values=1e-6)),
    Published('medium', 'in1k', f'{OFFICIAL}/v1.0/litv2_m.pth', 224, 83.3, {}),
    Published('base', 'in1k', f'{OFFICIAL}/v1.0/litv2_b.pth', 224, 83.6, {}),
    Published('base', 'in1k_384', f'{OFFICIAL}/v1.0/litv2_b_384.pth', 384, 84.7, {}),
)


def resolve_pretrained(arch: str | None, source: str) -> tuple[str, dict | None]:
    """Where the weights are that a user names.

    Args:
        arch: 'small', 'medium', 'base', or another; None for an arch of its own.
        source: A name of :func:`list_pretrained`, a path or a URL.

    Returns:
        Path or URL; and for a name, the arguments that the model has to have and that a path says
        nothing of: ``alpha`` and ``init_values``. None for paths and URLs.

    Raises:
        CheckpointError: If it is a name, but not of this arch; the message lists those there are.
    """
    source = str(source)
    if not any(source == entry.name for entry in PUBLISHED):
        return source, None
    for entry in PUBLISHED:
        if (entry.arch, entry.name) == (arch, source):
            return entry.url, {'alpha': 0.9, 'init_values': 0., **entry.settings}
    names = [entry.name for entry in PUBLISHED if entry.arch == arch]
    there = f'there are {names} (mmlit.list_pretrained())' if names else 'none are published'
    model = f'LITv2 {arch or "of an arch of its own"}'
    raise CheckpointError(f'no weights {source!r} for {model}: {there}')


def side_of(source: str, arch: str) -> int:
    """Side of the images that published weights were trained on, in pixels; 224 for others."""
    return next((entry.side for entry in PUBLISHED if (entry.arch, entry.name) == (arch, source)),
                224)


def list_pretrained() -> None:
    """Print the names that ``litv2_small(pretrained=...)`` and configs take."""
    print(f'{"model":14}{"pretrained":17}{"image":>5}{"top-1 %":>9}  {"settings":20}url')
    for entry in PUBLISHED:
        settings = ', '.join(f'{k}={v}' for k, v in entry.settings.items())
        print(f'litv2_{entry.arch:8}{entry.name:17}{entry.side:>5}{entry.top1:>9.2f}  '
              f'{settings:20}{entry.url}')
