"""Triton kernels, registered as ops of PyTorch: torch.ops.mmlit.dwconv_gelu, .bilinear_gather and
.hifi_windows. Importing this package needs triton and torch >= 2.4."""
from . import dwconv, sampling, windows  # noqa: F401
