"""What models call and hardware cares about: a plain form of each op, and faster ones beside it."""
from .conv_ffn import conv_ffn
from .deform_conv import deform_conv2d
from .forms import fast, is_plain, use
from .linear import linear
from .window_attention import window_attention

__all__ = ['conv_ffn', 'deform_conv2d', 'fast', 'is_plain', 'linear', 'use', 'window_attention']
