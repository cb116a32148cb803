"""Models: a shared trunk and one head a task."""

from .backbones import MNISTConvNet, ResNet18, ResNet50, ViTB16
from .base import MultiTaskModel
from .classifiers import MLP, ConvNet
from .deeplab import DeepLabResNet50
from .mtan import MTAN
from .segnet import SegNet
from .smp import SMP
from .timm_backbone import Timm
from .unet import UNet

__all__ = [
    "MLP",
    "MTAN",
    "SMP",
    "ConvNet",
    "DeepLabResNet50",
    "MNISTConvNet",
    "MultiTaskModel",
    "ResNet18",
    "ResNet50",
    "SegNet",
    "Timm",
    "UNet",
    "ViTB16",
]
