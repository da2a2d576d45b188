"""Test-time augmentation: scales and flips of images that are not square, merged."""
import runpy
import sys

import pytest
import torch
from mmcv.transforms import Compose
from mmengine.registry import MODELS, init_default_scope

from mmlit.errors import ConfigError
from mmlit.openmmlab.trainer import load_config
from mmlit.openmmlab.trainer import test as run_test

from .test_dense import build
from .test_training import ROOT, TASKS, config, scenes  # noqa: F401, fixtures

SCALES = [(112, 80), (224, 160)]
VIEWS = '''
tta_model = dict(type={model})
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale=s, keep_ratio=True) for s in {scales}],
    [dict(type='RandomFlip', prob=p) for p in (0., 1.)],
    [dict(type='LoadAnnotations'{load})],
    [dict(type={pack}, meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
                                  'flip', 'flip_direction', 'reduce_zero_label'))]])]
'''
TTA = {
    'detection': VIEWS.format(
        model="'DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=9)",
        pack="'PackDetInputs'", load=', with_bbox=True', scales=SCALES).replace(
            ", 'reduce_zero_label'", '') + 'model.update(test_cfg=dict(score_thr=0.))\n',
    'segmentation': VIEWS.format(
        model="'SegTTAModel'", pack="'PackSegInputs'", load='', scales=SCALES).replace(
            "'img_id', ", ''),
}


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def checkpoint(config, tmp_path):  # noqa: F811
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'model.pth')
    return tmp_path / 'model.pth'


def test_command_line(task, config, checkpoint, tmp_path, monkeypatch, capsys):  # noqa: F811
    def run(*options):
        arguments = ['test.py', config, checkpoint, '--cfg-options',
                     f'work_dir={tmp_path / "work"}', *options]
        monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
        runpy.run_path(str(ROOT / 'tools/test.py'), run_name='__main__')
        return capsys.readouterr().out

    seen = []
    model = {'detection': 'mmdet.models.RetinaNet',
             'segmentation': 'mmseg.models.EncoderDecoder'}[task]
    package, name = model.rsplit('.', 1)
    owner = getattr(sys.modules[package], name)
    predict = owner.predict

    def watched(self, inputs, samples, *args, **kwargs):
        seen.extend((s.img_shape, s.get('flip')) for s in samples)
        return predict(self, inputs, samples, *args, **kwargs)

    with pytest.raises(SystemExit, match='lacks tta_pipeline') as e:
        run('tta_model.type=SegTTAModel', '--tta')
    assert 'tta_model' in str(e.value)
    config.write_text(config.read_text() + TTA[task])
    monkeypatch.setattr(owner, 'predict', watched)
    out = run('--tta')
    assert ('bbox_mAP' if task == 'detection' else 'mIoU') in out
    assert len(seen) == 8 * 4 and len(set(seen)) == 4
    assert {f for _, f in seen} == {False, True}
    assert all(h != w for (h, w), _ in seen)


@pytest.mark.parametrize('task', ['detection'], indirect=True)
@pytest.mark.parametrize('name', ['retinanet', 'mask-rcnn'])
def test_boxes_of_views_meet(name, config, scenes):  # noqa: F811
    """DetTTAModel gives each view's boxes in the image's own frame; it refuses masks."""
    config.write_text(config.read_text() + TTA['detection'])
    cfg = load_config(config)
    init_default_scope('mmdet')
    pipeline = Compose(cfg.tta_pipeline)
    data = pipeline(dict(img_path=str(next((scenes / 'val').iterdir())), img_id=0, instances=[]))
    data = {k: [[v] for v in values] for k, values in data.items()}
    model = build(name).eval()
    (model.test_cfg.rcnn if name == 'mask-rcnn' else model.test_cfg).score_thr = 0.
    tta = MODELS.build(dict(cfg.tta_model, module=model)).eval()
    with torch.no_grad():
        if name == 'mask-rcnn':
            with pytest.raises(AssertionError, match='TTA of instance segmentation'):
                tta.test_step(data)
            model.roi_head.mask_head = None
        (result, ) = tta.test_step(data)
    found, (h, w) = result.pred_instances, result.ori_shape
    assert 0 < len(found) <= 9 and 'masks' not in found
    assert (found.bboxes >= -1).all() and (found.bboxes <= torch.tensor([w, h] * 2) + 1).all()
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize('task', ['detection'], indirect=True)
def test_masks_are_refused_before_anything_runs(config, tmp_path):  # noqa: F811
    config.write_text(config.read_text() + TTA['detection'] + '''
model.update(roi_head=dict(mask_head=dict(type='FCNMaskHead', num_classes=10)))
''')
    with pytest.raises(ConfigError, match='merges boxes only'):
        run_test(str(config), 'none.pth', tta=True, work_dir=str(tmp_path / 'work'))
