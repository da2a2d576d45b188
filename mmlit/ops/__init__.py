"""What models call and hardware cares about: a plain form of each op, and faster ones beside it."""
from .attention import attention
from .deform_conv import deform_conv2d
from .ffn import conv_ffn
from .forms import fast, is_plain, keep_form, set_form, use
from .linears import call_linear, linear
from .padding import pad_to_multiple
from .precision import call_wide
from .windows import window_attention

__all__ = ['attention', 'call_linear', 'call_wide', 'conv_ffn', 'deform_conv2d', 'fast', 'is_plain',
           'keep_form', 'linear', 'pad_to_multiple', 'set_form', 'use', 'window_attention']
