"""What torch is doing at the moment, asked in the ways of all its versions from 2.1 on."""
import contextlib

import torch
from torch import Tensor, nn

# Before torch 2.3, torch.compiler does not say.
compiling = getattr(torch.compiler, 'is_compiling', None) or torch._dynamo.is_compiling
_OLD_COMPILER = tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6)
_ASKED_BY_DEVICE = hasattr(torch, 'get_autocast_dtype')  # since torch 2.4


def exporting() -> bool:
    """Whether the model is being written down, for sizes and runtimes that are not known yet."""
    # Not torch.compiler.is_exporting(), which the compiler of torch 2.11 takes for true.
    return torch.jit.is_tracing() or getattr(torch.compiler, '_is_exporting_flag', False)


def compiling_by_name() -> bool:
    """Whether a compiler before torch 2.6 is tracing, which reads of a module only the names that
    it holds, and of a layer only its tensors, hooks and settings."""
    return _OLD_COMPILER and compiling()


def transforming() -> bool:
    """Whether forward-mode derivatives, or a transform of torch.func, are being computed."""
    return (torch.autograd.forward_ad._current_level >= 0
            or not compiling_by_name() and torch._C._functorch.maybe_current_level() is not None)


def watched() -> bool:
    """Whether a mode, a FLOP counter's say, looks at each op that runs."""
    return bool(torch._C._len_torch_dispatch_stack())


def cpu_autocast() -> torch.dtype | None:
    """The dtype that autocast gives linears and convolutions on CPUs; None where it is off."""
    if _ASKED_BY_DEVICE:
        return torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Keeps the dtypes of what is computed on the device of ``x``."""
    # Tensors without data (on 'meta') have no autocast that could be switched off.
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling ``module`` calls someone else, too."""
    every = nn.modules.module  # where the hooks of all modules are kept
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or every._global_forward_hooks
                or every._global_forward_pre_hooks or every._global_backward_hooks
                or every._global_backward_pre_hooks)
