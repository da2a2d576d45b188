"""Compile the Triton kernels without a GPU, and show what they take of one.

python tools/compile_kernels.py [--capability 90] [--dtypes bf16 fp32]

They are those of LITv2-S: maps of a multiple of 16 channels, heads of 32, windows of 2x2. Prints
registers of a thread, bytes of stack (registers that did not fit) and of shared memory, and machine
instructions, loops counted once.
"""
import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

from mmlit import ops
from mmlit.benchmark.reporting import table
from mmlit.command_line import clean_errors

# Of the map's dtype.
POINTERS = {'x', 'weight', 'bias', 'out', 'grad', 'active', 'g_conv', 'qkv', 'g_qkv'}
FLOAT_POINTERS = {'partial', 'offset', 'g_offset', 'g_x'}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--capability', type=int, default=90, help='of CUDA: 90 is an H200\'s')
    parser.add_argument('--dtypes', nargs='+', choices=['fp32', 'bf16', 'fp16'],
                        default=['bf16', 'fp32'])
    return parser.parse_args()


def main():
    args = parse_args()
    os.environ.pop('TRITON_INTERPRET', None)  # kernels of the interpreter cannot be compiled
    with clean_errors():
        ops.set_form('triton')  # says what is missing
    from mmlit.ops.gpu import dwconv, sampling, windows
    rows = [['kernel', 'dtype', 'registers', 'stack', 'shared', 'instructions']]
    for dtype in args.dtypes:
        blocks = dict(LINES=dwconv.LINES, CHANNELS=dwconv.CHANNELS, STRIP=dwconv.STRIP)
        reads = dict(READS=sampling.READS, CHANNELS=sampling.CHANNELS)
        heads = dict(D=32, DIMS=32, TOKENS=16, GROUP=4, SIZE=4,
                     PRECISION='ieee' if dtype == 'fp32' else 'tf32')
        for name, kernel, constants, warps in [
                ('dwconv_gelu', dwconv._forward_kernel, dict(blocks, GELU=True), 4),
                ('dwconv_gelu backward', dwconv._backward_kernel, blocks, 4),
                ('dwconv', dwconv._forward_kernel, dict(blocks, GELU=False), 4),
                ('bilinear_gather', sampling._forward_kernel, reads, 4),
                ('bilinear_gather backward', sampling._backward_kernel, reads, 4),
                ('hifi_windows', windows._forward_kernel, heads, 1),
                ('hifi_windows backward', windows._backward_kernel, heads, 1)]:
            compiled = compile_for(args.capability, kernel, dtype, constants, warps)
            rows.append([name, dtype, *map(str, usage(compiled))])
    print(table(rows))


def compile_for(capability: int, kernel, dtype: str, constants: dict, warps: int):
    """A kernel's machine code, with the argument types that a call would have."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    signature, hints = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = 'constexpr'
        elif name in POINTERS | FLOAT_POINTERS:
            signature[name] = '*fp32' if name in FLOAT_POINTERS else f'*{dtype}'
        else:
            signature[name] = 'fp32' if name == 'scale' else 'i32'
        if name == 'C' or signature[name].startswith('*'):
            hints[i, ] = [['tt.divisibility', 16]]
    return triton.compile(ASTSource(kernel, signature, constants, hints),
                          target=GPUTarget('cuda', capability, 32), options=dict(num_warps=warps))


def usage(compiled) -> tuple[int, int, int, int]:
    """Registers, stack, shared memory and instructions, by the tools that Triton brings."""
    import triton
    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / 'kernel.cubin'
        cubin.write_bytes(compiled.asm['cubin'])
        resources, code = (subprocess.run([tools / tool, option, cubin], check=True, text=True,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
                           for tool, option in (('cuobjdump', '-res-usage'), ('nvdisasm', '-c')))
    registers, stack = (int(re.search(rf'{key}:(\d+)', resources)[1]) for key in ('REG', 'STACK'))
    instructions = len(re.findall(r'^\s+/\*[0-9a-f]{4,}\*/', code, re.MULTILINE))
    return registers, stack, compiled.metadata.shared, instructions


if __name__ == '__main__':
    main()
