"""Models: a shared trunk and one head a task."""

from .base import MultiTaskModel
from .classifiers import MLP, ConvNet
from .unet import UNet

__all__ = ["MLP", "ConvNet", "MultiTaskModel", "UNet"]
