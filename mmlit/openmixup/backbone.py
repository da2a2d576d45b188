"""LITv2 as openmixup's models build it."""
from mmlit import models


class LITv2(models.LITv2):
    """LITv2, initialised by its ``init_cfg`` as soon as it is built.

    openmixup's models copy one backbone into another and load pretrained parts in their
    constructors, and some never call ``init_weights``. Initialised before that, no ``init_cfg`` is
    passed over, and none overwrites what was copied or loaded.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.init_cfg:
            self.init_weights()
