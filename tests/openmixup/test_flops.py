from pathlib import Path

from mmlit.analysis.configs import flops_of_config

CONFIG = 'configs/classification/imagenet/lit_v2/lit_v2_small_8xb128_cos_fp16_ep300.py'


def test_classifier():
    counts, _ = flops_of_config(str(Path(__file__).parents[2] / CONFIG), (224, 224))
    assert counts[''] == 3_723_626_496
    assert counts['head'] == 768 * 1000
    assert counts['backbone'] == counts[''] - counts['head']
