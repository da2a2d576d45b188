"""A model as one graph of PyTorch's own ops, for images of any size, without mmlit's code."""
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mmlit.checkpoints import written_whole
from mmlit.errors import ArgumentError

from .parts import Part


def example_input(part: Part, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images to trace a part with: no two sizes alike, and none that is special."""
    return torch.zeros(2, part.in_channels, 3 * part.min_size, 5 * part.min_size, dtype=dtype)


@torch.no_grad()
def export_program(part: Part, shape: tuple[int, int, int] | None = None) -> ExportedProgram:
    """The part as ``torch.export`` sees it.

    Args:
        part: What is exported.
        shape: Images in a batch, height and width, if they are to be fixed. Else all are open, for
            images with two tokens at least in the last stage: of one, torch.export makes a case of
            its own.

    Raises:
        ArgumentError: If the fixed images are too small, or the model holds for one size only.
    """
    if shape is None:
        side = Dim.DYNAMIC(min=2 * part.min_size)
        program = torch.export.export(part.module, (example_input(part), ),
                                      dynamic_shapes=({0: Dim.DYNAMIC, 2: side, 3: side}, ),
                                      strict=False)
        check_other_sizes(program, part.module, part)
        return program
    if min(shape[1:]) < part.min_size or shape[0] < 1:
        raise ArgumentError(f'shape={shape}: at least one image of {part.min_size}x{part.min_size}')
    batch, *size = shape
    return torch.export.export(part.module, (torch.zeros(batch, part.in_channels, *size), ),
                               strict=False)


@torch.no_grad()
def check_other_sizes(program: ExportedProgram, module: nn.Module, part: Part,
                      tolerance: float = 1e-3) -> None:
    """Compare a graph with its module on images of other sizes than it was traced with.

    Code around the backbone may turn a size into a constant (``int(x.shape[-1] * 2.)`` does), and
    torch.export then writes that constant down.

    Raises:
        ArgumentError: If they differ.
    """
    graph = program.module()
    for batch, height, width in [(1, 4, 2), (3, 5, 6)]:
        images = torch.randn(batch, part.in_channels, height * part.min_size - 1,
                             width * part.min_size, generator=torch.Generator().manual_seed(0))
        try:
            for ours, theirs in zip(module(images), graph(images), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        except (AssertionError, RuntimeError) as e:
            raise ArgumentError('this part of the model cannot be exported for images of any size, '
                                f'but its backbone can: {e}') from e


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write a program for ``torch.export.load``."""
    _require_pt2(path)
    with written_whole(path) as partial:
        torch.export.save(program, partial)


def compile_package(program: ExportedProgram, path: Path) -> None:
    """Compile a program for this machine's CPU, for ``torch._inductor.aoti_load_package`` and for
    C++. Needs a C++ compiler."""
    _require_pt2(path)
    with torch.no_grad(), written_whole(path) as partial:
        torch._inductor.aoti_compile_and_package(program, package_path=str(partial))


def _require_pt2(path: Path) -> None:
    if path.suffix != '.pt2':
        raise ArgumentError(f'{path}: such files end with .pt2')
