"""Trainings stop when a loss or a weight is no longer finite."""
import time

import pytest
import torch
from torch import nn

from mmlit.errors import DivergedError
from mmlit.finite import check_losses, check_weights, not_finite

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize('losses, named', [
    (dict(loss=torch.tensor(NAN), loss_cls=torch.tensor(1.)), 'loss is nan, loss_cls is 1'),
    (dict(loss_bbox=[torch.tensor(1.), torch.tensor([1., INF])]), r'loss_bbox\[1\] is inf'),
    (dict(acc=torch.tensor(50.), loss=-INF), 'loss is -inf'),
    (dict(loss=torch.tensor(NAN, dtype=torch.bfloat16)), 'loss is nan')])
def test_losses_that_are_not_finite_stop_the_training(losses, named):
    with pytest.raises(DivergedError, match='epoch 3, iteration 7, with the learning rate 0.01: '
                                            '.*' + named) as e:
        check_losses(losses, 'epoch 3, iteration 7', 0.01)
    assert '\n' not in str(e.value) and '--resume' in str(e.value)


@pytest.mark.parametrize('losses', [
    {}, dict(loss=torch.tensor(3e38)), dict(loss=torch.tensor(0.), acc=torch.tensor(NAN)),
    dict(loss=[torch.zeros(2, 3), torch.zeros(1)], names=['a'])])
def test_finite_losses_pass(losses):
    check_losses(losses, 'epoch 1', 0.01)


def spoilt(part: str, value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer('mask', torch.full((2, ), -INF))
    model.state_dict()[part].view(-1)[0] = value
    return model


@pytest.mark.parametrize('part, value', [
    ('0.weight', NAN), ('1.bias', INF), ('1.running_var', NAN)])
def test_weights_that_are_not_finite_are_named(part, value):
    good = spoilt('0.weight', 1.)
    check_weights(dict(model=good), 'epoch 1')
    assert not_finite(dict(model=good, average=spoilt(part, value))) == f'{part} of average'
    with pytest.raises(DivergedError, match=f'{part} of the model is not finite at epoch 1'):
        check_weights({'the model': spoilt(part, value)}, 'epoch 1')


def diverge(rank: int, store: str, answers) -> None:
    torch.distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    check_losses(dict(loss=torch.tensor(1.)), 'epoch 1', 0.1)
    try:
        check_losses(dict(loss=torch.tensor(NAN if rank else 1.)), 'epoch 2', 0.1)
    except DivergedError as e:
        answers.put(str(e))
    torch.distributed.barrier()
    time.sleep(0.1)
    torch.distributed.destroy_process_group()


def test_every_process_stops_when_one_diverges(tmp_path):
    answers = torch.multiprocessing.get_context('spawn').SimpleQueue()
    torch.multiprocessing.spawn(diverge, (f'file://{tmp_path}/store', answers), nprocs=2)
    a, b = answers.get(), answers.get()
    assert a == b and 'epoch 2' in a and 'loss is nan' in a
