from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent

setup(
    name='mmlit',
    version='0.1.0',
    description='LITv2 (Fast Vision Transformers with HiLo Attention) for OpenMMLab and openmixup',
    long_description=(root / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmlit', 'mmlit.*']),
    # Says no more than the default, but makes an editable install put this folder on the path; the
    # import hook that it is otherwise loses to any folder `mmlit`, such as a clone seen from above.
    package_dir={'': '.'},
    install_requires=['torch>=2.1', 'mmengine>=0.10.7', 'safetensors', 'tqdm'],
    # The two toolkits need different generations of the package `mmcv`, so these two extras
    # exclude each other; requirements/ pins what the tests run with.
    extras_require={
        'openmixup': [
            'mmcv==1.7.2', 'openmixup==0.2.9', 'torchvision', 'timm', 'numpy<2', 'scikit-image',
            'scikit-learn', 'attrs', 'einops', 'matplotlib', 'pandas', 'scipy', 'seaborn', 'six',
            'tqdm',
        ],
        'openmmlab': [
            'mmcv==2.1.0', 'mmdet==3.3.0', 'mmsegmentation==1.2.2', 'mmpretrain==1.2.0',
            'torchvision', 'ftfy', 'regex',
        ],
        # Models to compare with, and pictures; mmcv with compiled ops beside them, for the official
        # dataflow.
        'benchmark': ['timm==1.0.19', 'torchvision', 'matplotlib'],
        # Exporting to ONNX, and running it.
        'onnx': ['onnx', 'onnxscript', 'onnxruntime', 'pillow'],
        'test': ['pytest', 'numpy', 'ruff'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
