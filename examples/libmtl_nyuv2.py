"""LibMTL's NYUv2 example with a solver of this suite: dilated ResNet, one DeepLab head a task.

The data are in the npy layout ``ROOT/{train,val}/{image,label,depth,normal}/{i}.npy``, as LibMTL wants them.

    python examples/libmtl_nyuv2.py --data ROOT                         # LibMTL's own setting, for a GPU
    python examples/libmtl_nyuv2.py --data ROOT --quick --classes 6     # small and short, for a CPU
    python examples/libmtl_nyuv2.py --data ROOT --solver famo --arch MTAN
    python examples/libmtl_nyuv2.py --data ROOT --solver '{base: nash_mtl, wrap: [{name: sage, rho: 0.01}]}'

Needs ``pip install 'mtlsuite[libmtl]'``. As in LibMTL's example, the best epoch is chosen on ``val``.
"""

from __future__ import annotations

import argparse
from functools import partial

import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from mtlsuite.data import NYUv2
from mtlsuite.metrics import Depth, Normals, Segmentation
from mtlsuite.metrics.base import TaskMetric
from mtlsuite.plugins.libmtl import Trainer

import LibMTL.architecture  # isort: skip  (on current packages only after the line above)
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from LibMTL.model import resnet_dilated
from LibMTL.utils import set_random_seed

SAGE_NASH = "{base: nash_mtl, wrap: [{name: sage, rho: 5.0e-4, scale: none}]}"


class Every(Dataset):
    """Every ``stride``-th pixel of the frames of a data set, so that labels and holes stay what they are."""

    def __init__(self, frames: Dataset, stride: int) -> None:
        self.frames, self.stride = frames, stride

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, targets = self.frames[index]
        s = self.stride
        return image[..., ::s, ::s], {task: target[..., ::s, ::s] for task, target in targets.items()}


class Loss(AbsLoss):
    """The training criterion of a metric of the suite, as LibMTL wants it."""

    def __init__(self, metric: TaskMetric) -> None:
        super().__init__()
        self.compute_loss = metric.loss


class Metric(AbsMetric):
    """A metric of the suite, as LibMTL wants it."""

    def __init__(self, metric: TaskMetric) -> None:
        super().__init__()
        self.metric = metric

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        self.metric.to(pred.device).update(pred, gt)

    def score_fun(self) -> list[float]:
        return [float(value) for value in self.metric.compute().values()]

    def reinit(self) -> None:
        self.metric.reset()


class Head(nn.Module):
    """DeepLab's head, its prediction enlarged to the size of the image."""

    def __init__(self, channels: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.head, self.size = DeepLabHead(channels, outputs, (12, 24, 36)), size

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(self.head(features), self.size, mode="bilinear", align_corners=True)


def task(metric: TaskMetric) -> dict:
    names = metric.higher_is_better_by
    return {
        "metrics": list(names),
        "metrics_fn": Metric(metric),
        "loss_fn": Loss(metric),
        "weight": [int(higher) for higher in names.values()],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="LibMTL's NYUv2 example with a solver of mtlsuite")
    parser.add_argument("--data", required=True, metavar="ROOT", help="the folder that holds train and val")
    parser.add_argument("--classes", type=int, help="of the labels (default: 13, or as ROOT/label.txt says)")
    parser.add_argument("--solver", default=SAGE_NASH, help="name or spec, as in the suite's YAML files")
    parser.add_argument("--arch", default="HPS", choices=["HPS", "MTAN", "Cross_stitch"])
    parser.add_argument("--encoder", default="resnet50", choices=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--scratch", action="store_true", help="no ImageNet weights (they are downloaded)")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th pixel")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: the GPU, if there is one)")
    parser.add_argument(
        "--quick", action="store_true", help="resnet18 from scratch, stride 3, 2 epochs, batch 4"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.encoder, chosen.scratch = "resnet18", True
        chosen.stride, chosen.batch, chosen.epochs = 3, 4, 2
    return chosen


def main() -> None:
    chosen = arguments()
    set_random_seed(chosen.seed)
    data = NYUv2(chosen.data, augment=False, n_classes=chosen.classes)
    train, val = (Every(data.split(data.name, part), chosen.stride) for part in ("train", "val"))
    size = tuple(train[0][0].shape[1:])
    encoder = partial(resnet_dilated, chosen.encoder, pretrained=not chosen.scratch)
    channels = 2048 if chosen.encoder == "resnet50" else 512
    trainer = Trainer(
        task_dict={
            "segmentation": task(Segmentation(data.tasks["segmentation"], averaging="pixel")),
            "depth": task(Depth(averaging="pixel")),
            "normals": task(Normals(averaging="pixel")),
        },
        architecture=getattr(LibMTL.architecture, chosen.arch),
        encoder_class=encoder,
        decoders=nn.ModuleDict({name: Head(channels, n, size) for name, n in data.tasks.items()}),
        rep_grad=False,
        multi_input=False,
        optim_param={"optim": "adam", "lr": chosen.lr, "weight_decay": 1e-5},
        scheduler_param=None,
        solver=yaml.safe_load(chosen.solver),
        device=chosen.device,
    )
    trainer.train(
        DataLoader(train, chosen.batch, shuffle=True, drop_last=True),
        DataLoader(val, chosen.batch),
        chosen.epochs,
    )


if __name__ == "__main__":
    main()
