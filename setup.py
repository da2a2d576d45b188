"""For those who call setup.py; what there is to say of mmlit stands in pyproject.toml."""
from setuptools import setup

setup()
