"""What may be a weight at all."""
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedTensorMixin

from mmlit.errors import CheckpointError

# Names under which a weight is a number that is trained or averaged, never a counter or an index.
REAL = re.compile(r'(^|\.)(weight|bias|gamma\w*|running_mean|running_var)$')
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool)


def check_weights(state: Mapping[str, Tensor]) -> None:
    """Check that tensors can be copied into a model as they are.

    Args:
        state: Tensors by name.

    Raises:
        CheckpointError: Naming the first that cannot, and why.
    """
    for name, value in state.items():
        problem = _why_no_weight(name, value)
        if problem:
            raise CheckpointError(f'{str(name)!r} in it {problem}')


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are nan or infinite.

    Raises:
        CheckpointError: Naming the first of them.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f'{name} holds numbers that are not finite (NaN or infinite): '
                                  'the training that made it had failed, or the file is damaged')


def _why_no_weight(name: object, value: Tensor) -> str | None:
    if not isinstance(name, str):
        return f'is no name of a weight: it is a {type(name).__name__}'
    if isinstance(value, UninitializedTensorMixin):
        return 'has no shape yet: the model was saved before it ran'
    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        kind = 'nested' if value.is_nested else 'quantized' if value.is_quantized else value.layout
        return f'is not an ordinary tensor: it is {kind}'
    if value.is_meta:
        return 'has a shape, but no numbers'
    if value.dtype not in DTYPES:
        return f'holds {value.dtype}, which are no weights of LITv2'
    if REAL.search(name) and not value.is_floating_point():
        return (f'holds {value.dtype}, where weights are floating point. Integers are of a '
                'quantised model, whose scales are elsewhere: save it dequantised')
    size = value.numel() * value.element_size()
    if size > value.untyped_storage().nbytes() and size > 2**31:
        return f'is one number repeated: it would take {size / 2**30:.0f} GiB'
    return None
