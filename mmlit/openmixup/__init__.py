"""LITv2 in openmixup: ``custom_imports = dict(imports=['mmlit.openmixup'])`` in a config."""
from mmlit.registration import register_openmixup

from .compat import import_openmixup

import_openmixup()
register_openmixup()
