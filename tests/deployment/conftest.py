"""Exports take long, and are the same in both environments: the openmixup one runs these tests.

tests/openmmlab/test_deployment.py has what differs in the other.
"""
import importlib.util

if importlib.util.find_spec('mmdet') is not None:
    collect_ignore_glob = ['test_*.py']
