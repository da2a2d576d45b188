"""What models call and hardware cares about: a plain form of each op, and faster ones beside it."""
from .deform_conv import deform_conv2d
from .ffn import conv_ffn
from .forms import fast, is_plain, use
from .linears import call_linear, linear
from .padding import pad_to_multiple
from .torch_state import without_autocast
from .windows import window_attention

__all__ = ['call_linear', 'conv_ffn', 'deform_conv2d', 'fast', 'is_plain', 'linear',
           'pad_to_multiple', 'use', 'window_attention', 'without_autocast']
