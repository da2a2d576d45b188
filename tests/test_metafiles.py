"""model-index.yml lists every config that trains a published kind of model, and what is in them."""
import re
from pathlib import Path

import pytest
import yaml

from mmlit import LITv2Classifier
from mmlit.analysis import count_flops
from mmlit.checkpoints.pretrained import PUBLISHED

ROOT = Path(__file__).parents[1]
METAFILES = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
MODELS = {model['Name']: model for path in METAFILES
          for model in yaml.safe_load((ROOT / path).read_text())['Models']}


def test_every_config_is_listed_once():
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').rglob('*.py')
               if not {'_base_', 'digits'} & set(path.parts)}
    listed = [model['Config'] for model in MODELS.values()]
    assert sorted(listed) == sorted(configs)


@pytest.mark.parametrize('name', MODELS)
def test_entry(name):
    model = MODELS[name]
    assert Path(model['Config']).stem == name
    assert model['In Collection'] == 'LITv2'
    metadata = model['Metadata']
    for pattern, key, unit in [(r'ep(\d+)$', 'Epochs', 1), (r'(\d)x_coco$', 'Epochs', 12),
                               (r'-(\d+)k_ade20k', 'Iterations', 1000)]:
        if stated := re.search(pattern, name):
            assert metadata[key] == unit * int(stated[1])
    # Figures without weights would be somebody's training that nobody can check.
    assert ('Results' in model) == ('Weights' in model)
    if 'Weights' in model:
        assert re.match(r'https://github.com/(ziplab/LITv2|Westlake-AI/openmixup)/releases/download/',
                        model['Weights'])


@pytest.mark.parametrize('name', [n for n in MODELS if n.startswith('lit_v2_')])
def test_size_of_classifiers(name):
    arch = name.split('_')[2]
    side = 384 if 'sz384' in name else 224
    model = LITv2Classifier(arch, init_values=0. if side == 384 else 1e-6)
    metadata = MODELS[name]['Metadata']
    assert metadata['Parameters'] == sum(p.numel() for p in model.parameters())
    assert metadata['FLOPs'] == count_flops(model, (3, side, side))


def test_accuracies_are_those_of_the_list():
    top1 = {entry.url: entry.top1 for entry in PUBLISHED}
    found = [(m['Weights'], m['Results'][0]['Metrics']['Top 1 Accuracy']) for n, m in MODELS.items()
             if n.startswith('lit_v2_') and 'Weights' in m]
    assert len(found) == 2
    for url, accuracy in found:
        assert top1[url] == accuracy
