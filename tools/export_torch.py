"""Write a LITv2 as a file that PyTorch runs without mmlit's code.

python tools/export_torch.py MODEL OUT.pt2 --checkpoint FILE --to program|package [--shape B H W]

program: a graph for torch.export.load, which any device runs or compiles.
package: compiled code for this machine's kind of CPU (AOTInductor), for
torch._inductor.aoti_load_package, or for C++; needs a C++ compiler. --shape fixes batch, height and
width, for faster code.

MODEL is what tools/export_onnx.py takes.
"""
import argparse
from pathlib import Path

from mmlit.command_line import clean_errors, positive
from mmlit.deployment import PARTS, compile_package, export_program, load_part, save_program
from mmlit.outputs import add_overwrite, check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='config, or litv2_small and the like')
    parser.add_argument('out', type=Path, help='.pt2 file')
    parser.add_argument('--to', choices=['program', 'package'], required=True)
    parser.add_argument('--checkpoint', help='path, URL, or a name such as in1k; none: random')
    parser.add_argument('--part', choices=PARTS, help='default: the classifier, or the backbone')
    parser.add_argument('--num-classes', type=positive, help='of a model by name; default: 1000')
    parser.add_argument('--shape', type=positive, nargs=3, metavar=('B', 'H', 'W'),
                        help='default: all sizes')
    add_overwrite(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        check_writable(args.out, args.overwrite, '.pt2')
        part = load_part(args.model, args.checkpoint, args.part, args.num_classes)
        if args.checkpoint is None:
            print('no --checkpoint: the weights are random')
        program = export_program(part, args.shape and tuple(args.shape))
        (save_program if args.to == 'program' else compile_package)(program, args.out)
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, images -> '
          f'{", ".join(part.outputs)}')


if __name__ == '__main__':
    main()
