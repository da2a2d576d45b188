"""For torch.hub.load('path/to/mmlit', 'litv2_small', source='local', pretrained='in1k')."""
from mmlit.models import litv2_base, litv2_medium, litv2_small, litv2_tiny  # noqa: F401

dependencies = ['torch', 'mmengine', 'safetensors', 'tqdm']
