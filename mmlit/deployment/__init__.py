"""A model as a file for other runtimes: ONNX, torch.export and AOTInductor."""
from .graphs import compile_package, export_program, save_program
from .onnx import export_onnx, open_onnx
from .parts import PARTS, Part, load_part, part_of
from .quantization import quantize_onnx

__all__ = ['PARTS', 'Part', 'compile_package', 'export_onnx', 'export_program', 'load_part',
           'open_onnx', 'part_of', 'quantize_onnx', 'save_program']
