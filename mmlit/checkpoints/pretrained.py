"""Published ImageNet weights, by name."""
from pathlib import Path
from typing import NamedTuple

from torch import nn

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
        sha256: Of the file, where it is known; it is then checked on every load.
    """
    arch: str
    name: str
    url: str
    side: int
    top1: float
    settings: dict
    sha256: str | None = None


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


DEFAULTS = dict(alpha=0.9, init_values=0.)  # of LITv2, which `settings` differ from


def resolve_pretrained(arch: str | None, source: str | Path) -> tuple[str, Published | None]:
    """What a model is to be loaded from: a name of published weights becomes their URL.

    Args:
        arch: Of the model: 'small', say; None for one of its own.
        source: Path, URL, or a name of :func:`list_pretrained`.

    Returns:
        The path or URL, and what is known of the weights if it was a name.

    Raises:
        CheckpointError: If there are no weights of this name for this arch; the message lists those
            there are.
    """
    if not is_name(str(source)):
        return str(source), None
    entry = find_pretrained(arch, str(source))
    return entry.url, entry


def check_settings(backbone: nn.Module, entry: Published) -> None:
    """Check that a LITv2 is built as published weights need it, before they are downloaded.

    Raises:
        CheckpointError: If it has another split of its heads, or layer scale where they have none.
    """
    needed = {**DEFAULTS, **entry.settings}
    split = [m for m in backbone.modules() if hasattr(m, 'l_heads') and m.window_size > 1]
    wrong = {}
    if any(m.l_heads != int((m.l_heads + m.h_heads) * needed['alpha']) for m in split):
        wrong['alpha'] = 'the heads are split otherwise between Hi-Fi and Lo-Fi'
    has_scale = any(name.endswith('.gamma2') for name, _ in backbone.named_parameters())
    if has_scale != (needed['init_values'] > 0):
        wrong['init_values'] = 'the blocks have layer scale' if has_scale else (
            'the blocks lack layer scale')
    if wrong:
        settings = ', '.join(f'{key}={needed[key]}' for key in wrong)
        raise CheckpointError(f'the published weights {entry.name!r} of LITv2 {entry.arch} do not '
                              f'fit this model: {"; ".join(wrong.values())}. Build it with '
                              f'{settings}; nothing was downloaded')


def find_pretrained(arch: str | None, name: str) -> Published:
    """The published weights of this name.

    Raises:
        CheckpointError: If there are none for this arch; the message lists those there are.
    """
    for entry in PUBLISHED:
        if (entry.arch, entry.name) == (arch, name):
            return entry
    names = [entry.name for entry in PUBLISHED if entry.arch == arch]
    there = f'there are {names} (mmlit.list_pretrained())' if names else 'none are published'
    model = f'LITv2 {arch or "of an arch of its own"}'
    raise CheckpointError(f'no weights {name!r} for {model}: {there}')


def is_name(source: str) -> bool:
    """Whether ``source`` names published weights of some model, and is no path or URL."""
    return any(source == entry.name for entry in PUBLISHED)


def list_pretrained() -> None:
    """Print the names that ``litv2_small(pretrained=...)`` and configs take."""
    print(f'{"model":14}{"pretrained":17}{"image":>5}{"top-1 %":>9}  {"settings":20}url')
    for entry in PUBLISHED:
        settings = ', '.join(f'{k}={v}' for k, v in entry.settings.items())
        print(f'litv2_{entry.arch:8}{entry.name:17}{entry.side:>5}{entry.top1:>9.2f}  '
              f'{settings:20}{entry.url}')
