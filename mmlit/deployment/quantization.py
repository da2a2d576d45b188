"""INT8: ONNX files whose linears and convolutions multiply bytes."""
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from mmlit.checkpoints import written_whole
from mmlit.errors import ArgumentError

from .onnx import require


def quantize_onnx(source: Path, target: Path, batches: Iterable[Tensor]) -> None:
    """Quantise an ONNX file of :func:`export_onnx` statically, in QDQ form.

    Weights are int8, with a scale for each channel of the output; activations uint8, with one scale
    for a tensor, from what they are for some images. Linears and convolutions are quantised. The
    products of attention stay float32, for both their factors change with the image, and so do the
    offsets of token merging, which are positions.

    Args:
        source: A float32 file.
        target: Where the quantised file goes; it appears when it is whole.
        batches: Prepared images, each (B, C, H, W), like those that it will see.

    Raises:
        ArgumentError: If packages are missing, or there are no images.
    """
    require('onnx', 'onnxruntime')
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = [batch.numpy() for batch in batches]
    if not images:
        raise ArgumentError('no images to calibrate with: INT8 needs to see what activations are '
                            'like')
    with written_whole(target) as partial, tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / 'prepared.onnx'
        # Folds constants, so that weights are seen to be weights.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, partial, _reader(images), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
            nodes_to_exclude=_left_in_float(prepared))


def _left_in_float(path: Path) -> list[str]:
    """Names of products of two activations, and of the convolutions that give offsets."""
    import onnx
    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if
            (node.op_type == 'MatMul' and not weights & set(node.input))
            or (node.op_type == 'Conv' and 'conv_offset' in node.input[1])]


def _reader(images: list):
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Gives onnxruntime one batch after the other."""

        def __init__(self):
            self.rest = iter(images)

        def get_next(self):
            batch = next(self.rest, None)
            return None if batch is None else {'images': batch}

    return Reader()
