"""Mis-spelt keys of openmixup configs are refused with the nearest name; others pass."""
import pytest

from mmlit.errors import ConfigError
from mmlit.openmixup.trainer import load_config

from .conftest import DEMO, ROOT


@pytest.mark.parametrize('option, nearest', [
    ('optimiser.lr', 'optimizer'), ('runer.max_epochs', 'runner'), ('load_form', 'load_from'),
    ('resume_form', 'resume_from'), ('data.img_per_gpu', 'data.imgs_per_gpu'),
    ('runner.max_epoch', 'runner.max_epochs'), ('evaluation.topk', 'eval_param'),
    ('evaluation.intervall', 'evaluation.interval'), ('optimizer.weight_deacy', 'weight_decay'),
    ('model.backbone.out_indicies', 'model.backbone.out_indices'),
    ('model.head.num_clases', 'model.head.num_classes'), ('lr_config.warmup_iter', 'warmup_iters'),
    ('checkpoint_config.intervall', 'interval'), ('log_config.intervall', 'interval'),
    ('data.train.pipline', 'data.train.pipeline'), ('data.train.data_source.rot', 'root'),
    ('data.train.pipeline.0.sze', 'data.train.pipeline.0.size'), ('num_classes', 'neither'),
    ('foo.bar', "'foo'")])
def test_misspelt_options_are_refused(option, nearest):
    with pytest.raises(ConfigError, match=nearest) as e:
        load_config(str(DEMO), {option: 1})
    assert option in str(e.value) and len(str(e.value)) < 700


@pytest.mark.parametrize('option, value', [
    ('optimizer.lr', 1), ('optimizer.amsgrad', True), ('seed', 1), ('auto_resume', True),
    ('optimizer.paramwise_options.norm.weight_decay', 0.), ('lr_config.warmup_by_epoch', True),
    ('optimizer_config.grad_clip', dict(max_norm=5)), ('evaluation.eval_param.topk', (1, )),
    ('model.backbone.init_cfg.checkpoint', 'x.pth'), ('data.val.pipeline.0.size', 64),
    ('model.head.loss.label_smooth_val', 0.2), ('fp16.loss_scale', 512), ('prefetch', False),
    ('model.backbone', dict(alpha=0.5))])
def test_options_that_are_known_pass(option, value):
    load_config(str(DEMO), {option: value})


@pytest.mark.parametrize('line, nearest', [
    ('optimiser = dict()', 'optimizer'), ("load_form = 'x.pth'", 'load_from'),
    ('runer: dict = dict(max_epochs=1)', 'runner'), ('custom_hook = []', 'custom_hooks')])
def test_misspelt_names_in_a_config_are_refused(tmp_path, line, nearest):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {str(DEMO)!r}\n{line}\n')
    with pytest.raises(ConfigError, match=f'did you mean {nearest!r}') as e:
        load_config(str(path))
    assert str(path) in str(e.value)


def test_variables_of_a_config_pass(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {str(DEMO)!r}\nnum_classes = 10\nmodels = dict(num_classes=10)\n'
                    'model = dict(head=models)\nmetainfo = dict()\noptimizer2 = dict(lr=1)\n')
    load_config(str(path))


@pytest.mark.parametrize('path', [
    path for path in sorted((ROOT / 'configs/classification').rglob('lit*.py'))
    if not {'_base_', 'mmpretrain'} & set(path.parts)], ids=lambda path: path.stem)
def test_configs_of_mmlit_pass(path):
    load_config(str(path))
