"""Triton kernels, registered as ops of PyTorch: torch.ops.mmlit.dwconv_gelu_linear,
.bilinear_gather and .hifi_windows. Importing this package needs triton >= 3.3, which torch 2.7
brings."""
import triton.language

if not hasattr(triton.language, 'tuple'):
    raise ImportError('triton before 3.3 has no tuples')

from . import dwconv, sampling, windows  # noqa: E402, F401
