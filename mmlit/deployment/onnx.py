"""ONNX files, in operators that every runtime has."""
import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlit.checkpoints import written_whole
from mmlit.errors import ArgumentError

from .graphs import check_other_sizes, example_input
from .parts import Part

# Under this name an exported file says how an image becomes its input.
PREPROCESSING = 'mmlit.preprocessing'
ANY_SIZE = {0: 'batch', 2: 'height', 3: 'width'}


class HalfInside(nn.Module):
    """Weights and maps in float16, images and outputs in float32."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(out.float() for out in self.module(images.half()))


@torch.no_grad()
def export_onnx(part: Part, path: Path, dtype: str = 'float32', opset: int = 20) -> None:
    """Write a part as ONNX, with batch, height and width open.

    The input is called ``images``. What prepares an image for it stands in the file's metadata, as
    JSON under ``mmlit.preprocessing``, if it is known.

    Args:
        part: What is exported.
        path: A file; it appears when it is whole.
        dtype: 'float32', or 'float16' of weights and maps; positions in deformable token merging,
            images and outputs stay float32.
        opset: Version of ONNX's operators, at least 19.

    Raises:
        ArgumentError: If packages are missing, an argument means nothing here, or the model holds
            for images of one size only.
    """
    require('onnx', 'onnxscript')
    if dtype not in ('float32', 'float16'):
        raise ArgumentError(f"dtype={dtype!r}: expected 'float32' or 'float16'")
    if opset < 19:
        raise ArgumentError(f'opset={opset}: expected 19 or later')
    module = part.module if dtype == 'float32' else HalfInside(copy.deepcopy(part.module)).eval()
    program = torch.onnx.export(
        module, (example_input(part), ), dynamo=True, dynamic_shapes=(ANY_SIZE, ),
        input_names=['images'], output_names=part.outputs, opset_version=opset, verbose=False)
    # Half precision rounds otherwise in another order of sums; a wrong size is off by a whole.
    check_other_sizes(program.exported_program, module, part,
                      tolerance=1e-3 if dtype == 'float32' else 0.1)
    if part.preprocessing is not None:
        program.model.metadata_props[PREPROCESSING] = json.dumps(part.preprocessing)
    with written_whole(path) as partial:
        program.save(partial, external_data=False)


def open_onnx(path: Path, threads: int | None = None) -> Callable[[Tensor], list[Tensor]]:
    """A function that runs an ONNX file on the CPU, by onnxruntime.

    Args:
        path: The file.
        threads: How many it may use; PyTorch's number if None.

    Returns:
        Maps images (B, C, H, W) to the outputs, in their order.

    Raises:
        ArgumentError: If onnxruntime is missing.
    """
    require('onnxruntime')
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(out) for out in session.run(None, {'images': images.numpy()})]

    return run


def require(*packages: str) -> None:
    """Refuse to go on where packages of the extra `onnx` are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ArgumentError(f'ONNX needs {" and ".join(missing)}: pip install "mmlit[onnx]", or '
                            f'pip install {" ".join(missing)}')
