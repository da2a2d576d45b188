"""Where the time of a forward pass goes, by the kind of op."""
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

PRODUCTS = ('addmm', 'mm', '_linear_pointwise', 'mkldnn_linear', 'linear')
CONVOLUTIONS = ('mkldnn_convolution', 'cudnn_convolution', '_conv_depthwise2d', 'thnn_conv2d')
KINDS = {
    'native_layer_norm': 'norms', 'native_batch_norm': 'norms', 'gelu': 'GELU', 'gelu_': 'GELU',
    'bmm': 'Hi-Fi: products and softmax', '_softmax': 'Hi-Fi: products and softmax',
    '_scaled_dot_product_flash_attention_for_cpu': 'Lo-Fi and stage 4: attention',
    '_scaled_dot_product_flash_attention': 'Lo-Fi and stage 4: attention',
    '_scaled_dot_product_efficient_attention': 'Lo-Fi and stage 4: attention',
    'avg_pool2d': 'Lo-Fi: pooling',
    '_embedding_bag': 'token merging: bilinear reading',
    '_embedding_bag_forward_only': 'token merging: bilinear reading',
    'copy_': 'copies, padding, concatenation', 'cat': 'copies, padding, concatenation',
    'constant_pad_nd': 'copies, padding, concatenation', 'fill_': 'copies, padding, concatenation',
    'add': 'additions', 'add_': 'additions',
}


def shares(run: Callable, calls: int = 5) -> dict[str, float]:
    """Share of the time that each kind of op takes, the largest first.

    Args:
        run: Runs a model once. It is called once before, to warm up.
        calls: How many calls are watched.

    Returns:
        By kind, parts of one; ops that no kind names are under 'others'.
    """
    run()
    devices = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        devices.append(ProfilerActivity.CUDA)
    with profile(activities=devices, record_shapes=True) as profiler:
        for _ in range(calls):
            run()
    times = Counter()
    for event in profiler.key_averages(group_by_input_shape=True):
        device = event.self_device_time_total
        times[_kind(event.key, event.input_shapes)] += device or event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in times.most_common()}


def _kind(key: str, shapes: list[list[int]]) -> str:
    name = key.split('::')[-1]
    if name in CONVOLUTIONS and len(shapes) > 1 and len(shapes[1]) == 4:
        return _convolution(shapes[1])
    return 'linears' if name in PRODUCTS else KINDS.get(name, 'others')


def _convolution(weight: list[int]) -> str:
    out_channels, in_channels, kernel, _ = weight
    if in_channels == 1:
        return 'depthwise convolutions'
    return 'patch embedding' if out_channels > 2 * kernel**2 else 'token merging: offsets'
