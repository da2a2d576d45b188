"""torch.export, AOTInductor and TorchScript against the models they come from."""
import subprocess
import sys

import pytest
import torch

from mmlit.deployment import compile_package, export_program, part_of, save_program
from mmlit.errors import ArgumentError

from ..conftest import GOLDEN_ARCH
from ..test_litv2 import ALL, build, images

SHAPES = [(1, 64, 64), (4, 64, 96), (3, 70, 101), (2, 225, 127)]
# What a machine without mmlit would run.
RUN_ELSEWHERE = """
import sys, torch
sys.modules['mmlit'] = None  # importing it is an error
path, data = sys.argv[1:]
inputs, expected = torch.load(data)
run = (torch.export.load(path).module() if {program} else
       torch._inductor.aoti_load_package(path))
with torch.no_grad():
    for x, outs in zip(inputs, expected):
        for a, b in zip(run(x), outs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
print('equal')
"""


@pytest.fixture(scope='module')
def part():
    return part_of(build(out_indices=ALL))


@pytest.fixture(scope='module')
def program(part):
    """For images of any size. An export takes 20 seconds, so there is one for all."""
    return export_program(part)


@torch.no_grad()
def run_elsewhere(part, path, shapes, program: bool) -> str:
    inputs = [images(*shape) for shape in shapes]
    data = path.with_suffix('.data')
    torch.save((inputs, [part.module(x) for x in inputs]), data)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', RUN_ELSEWHERE.format(program=program), path, data],
        capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


@pytest.mark.slow
def test_program(part, program, tmp_path):
    path = tmp_path / 'model.pt2'
    save_program(program, path)
    assert run_elsewhere(part, path, SHAPES, program=True) == 'equal'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['model.data', 'model.pt2']


@pytest.mark.slow
def test_program_of_standard_operators(program):
    ops = {node.target for node in program.graph.nodes if node.op == 'call_function'}
    assert {op.namespace for op in ops if isinstance(op, torch._ops.OpOverload)} == {'aten'}


@pytest.mark.slow
def test_too_small_an_image_is_refused(program):
    with pytest.raises(AssertionError, match='64'):
        program.module()(images(1, 63, 64))


@pytest.mark.slow
def test_a_size_that_is_a_constant():
    part = part_of(build())
    backbone = part.module

    class Doubled(torch.nn.Module):
        def forward(self, x):
            (x, ) = backbone(x)
            return (torch.nn.functional.interpolate(x, [int(n * 2.) for n in x.shape[2:]]), )

    part.module = Doubled()
    with pytest.raises(ArgumentError, match='cannot be exported for images of any size'):
        export_program(part)


def test_program_of_one_size(part):
    program = export_program(part, (1, 50, 75))
    with torch.no_grad():
        for a, b in zip(program.module()(images(1, 50, 75)), part.module(images(1, 50, 75)),
                        strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [None, (2, 50, 75)])
def test_package(shape, tmp_path):
    # One block of each kind, and little optimised: compiling takes minutes else.
    part = part_of(build(arch=dict(GOLDEN_ARCH, depths=[1, 0, 1, 1]), out_indices=ALL))
    path = tmp_path / 'model.pt2'
    with torch._inductor.config.patch({'aot_inductor.compile_wrapper_opt_level': 'O0'}):
        compile_package(export_program(part, shape), path)
    assert run_elsewhere(part, path, SHAPES if shape is None else [shape], program=False) == 'equal'


@torch.no_grad()
def test_torchscript(part):
    """A trace, too, holds for every size: what is exported branches on none."""
    traced = torch.jit.trace(part.module, images(2, 64, 96), check_trace=False)
    for shape in SHAPES:
        for a, b in zip(traced(images(*shape)), part.module(images(*shape)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape', [(0, 64, 64), (1, 31, 64)])
def test_bad_shapes(part, shape):
    with pytest.raises(ArgumentError, match='at least one image of 32x32'):
        export_program(part, shape)


def test_wrong_suffix(part, tmp_path):
    with pytest.raises(ArgumentError, match='end with .pt2'):
        save_program(export_program(part, (1, 32, 32)), tmp_path / 'model.pth')
