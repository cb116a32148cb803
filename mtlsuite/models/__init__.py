"""Models: a shared trunk and one head a task."""

from .base import MultiTaskModel
from .classifiers import MLP, ConvNet
from .deeplab import DeepLabResNet50
from .mtan import MTAN
from .segnet import SegNet
from .smp import SMP
from .unet import UNet

__all__ = ["MLP", "MTAN", "SMP", "ConvNet", "DeepLabResNet50", "MultiTaskModel", "SegNet", "UNet"]
