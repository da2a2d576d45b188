from .flops import count_flops, flops_by_module, official_flops

__all__ = ['count_flops', 'flops_by_module', 'official_flops']
