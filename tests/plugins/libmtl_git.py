"""A small package with the interface of LibMTL's git version: names instead of classes, ``next(loader)``,
``train`` -> ``train_singlelevel``, ``forward4loss``, an update for the weighting that is named FAMO.

``package()`` gives its modules by name, to be put into ``sys.modules``.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn


class AbsWeighting(nn.Module):
    def init_param(self) -> None: ...


class EW(AbsWeighting):
    def backward(self, losses: Tensor, **_kwargs) -> np.ndarray:
        losses.sum().backward()
        return np.ones(self.task_num)


class FAMO(EW):
    updates = 0

    def update_w(self, losses: Tensor) -> None:
        assert not losses.requires_grad
        FAMO.updates += 1


class HPS(nn.Module):
    def __init__(self, task_name, encoder_class, decoders, rep_grad, multi_input, device, **kwargs) -> None:
        super().__init__()
        self.task_name, self.task_num, self.decoders = task_name, len(task_name), decoders
        self.rep_grad, self.multi_input, self.device, self.kwargs = rep_grad, multi_input, device, kwargs
        self.encoder = encoder_class()

    def forward(self, inputs: Tensor, task_name: str | None = None) -> dict[str, Tensor]:
        features = self.encoder(inputs)
        return {t: self.decoders[t](features) for t in self.task_name if task_name in (None, t)}

    def get_share_params(self):
        return self.encoder.parameters()

    def zero_grad_share_params(self) -> None:
        self.encoder.zero_grad(set_to_none=False)


class Loss:
    """What the meter asks of ``loss_fn``."""

    def __init__(self, function) -> None:
        self.function, self.record = function, []

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        return self.function(pred, gt)

    def _update_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        loss = self.compute_loss(pred, gt)
        self.record.append(loss.item())
        return loss


class Meter:
    def __init__(self, task_dict: dict) -> None:
        self.losses = {task: one["loss_fn"] for task, one in task_dict.items()}

    def display(self, epoch: int) -> None:
        means = {task: float(np.mean(loss.record)) for task, loss in self.losses.items()}
        print(f"Epoch: {epoch} | {means}")
        for loss in self.losses.values():
            loss.record = []


class Trainer(nn.Module):
    def __init__(
        self, task_dict, weighting, architecture, encoder_class, decoders, rep_grad, multi_input,
        optim_param, scheduler_param, save_path=None, load_path=None, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__()
        self.device = torch.device("cuda:0")
        self.kwargs, self.task_dict, self.weighting = kwargs, task_dict, weighting
        self.task_name, self.task_num = list(task_dict), len(task_dict)
        self.rep_grad, self.multi_input = rep_grad, multi_input
        self.scheduler, self.save_path, self.load_path = scheduler_param, save_path, load_path
        self._prepare_model(weighting, architecture, encoder_class, decoders)
        self._prepare_optimizer(optim_param, scheduler_param)
        self.meter = Meter(task_dict)

    def _prepare_model(self, weighting, architecture, encoder_class, decoders) -> None:
        mixin = library.weighting.__dict__[weighting]
        base = library.architecture.__dict__[architecture]

        class MTLmodel(base, mixin):
            def __init__(self, *args, **arch_args) -> None:
                super().__init__(*args, **arch_args)
                self.init_param()

        self.model = MTLmodel(
            self.task_name, encoder_class, decoders, self.rep_grad, self.multi_input, self.device,
            **self.kwargs["arch_args"],
        ).to(self.device)  # fmt: skip

    def _prepare_optimizer(self, optim_param, _scheduler_param) -> None:
        options = {key: value for key, value in optim_param.items() if key != "optim"}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **options)

    def _process_data(self, loader):
        try:
            data, label = next(loader[1])
        except StopIteration:
            loader[1] = iter(loader[0])
            data, label = next(loader[1])
        if self.multi_input:
            return data.to(self.device), label.to(self.device)
        return data.to(self.device), {task: label[task].to(self.device) for task in self.task_name}

    def process_preds(self, preds, _task_name=None):
        return preds

    def _compute_loss(self, preds, gts, task_name=None) -> Tensor:
        if self.multi_input:
            return self.meter.losses[task_name]._update_loss(preds, gts)
        losses = torch.zeros(self.task_num).to(self.device)
        for k, task in enumerate(self.task_name):
            losses[k] = self.meter.losses[task]._update_loss(preds[task], gts[task])
        return losses

    def forward4loss(self, model, inputs, gts, return_preds=False):
        if not self.multi_input:
            preds = self.process_preds(model(inputs))
            losses = self._compute_loss(preds, gts)
        else:
            losses, preds = torch.zeros(self.task_num).to(self.device), {}
            for k, task in enumerate(self.task_name):
                preds[task] = self.process_preds(model(inputs[task], task)[task], task)
                losses[k] = self._compute_loss(preds[task], gts[task], task)
        return (losses, preds) if return_preds else losses

    def train(self, train_dataloaders, test_dataloaders, epochs, val_dataloaders=None, return_weight=False):
        return self.train_singlelevel(
            train_dataloaders, test_dataloaders, epochs, val_dataloaders, return_weight
        )

    def _batch(self, loaders):
        if not self.multi_input:
            return self._process_data(loaders)
        batches = {task: self._process_data(loaders[task]) for task in self.task_name}
        return ({t: batch[0] for t, batch in batches.items()}, {t: batch[1] for t, batch in batches.items()})

    def train_singlelevel(self, train_dataloaders, test_dataloaders, epochs, _val=None, return_weight=False):
        if self.multi_input:
            loaders = {task: [own, iter(own)] for task, own in train_dataloaders.items()}
            n_batches = max(len(own) for own in train_dataloaders.values())
        else:
            loaders, n_batches = [train_dataloaders, iter(train_dataloaders)], len(train_dataloaders)
        self.batch_weight = np.zeros([self.task_num, epochs, n_batches])
        for epoch in range(epochs):
            self.model.epoch = epoch
            self.model.train()
            for batch_index in range(n_batches):
                inputs, gts = self._batch(loaders)
                losses, _ = self.forward4loss(self.model, inputs, gts, return_preds=True)
                self.optimizer.zero_grad(set_to_none=False)
                w = self.model.backward(losses, **self.kwargs["weight_args"])
                if w is not None:
                    self.batch_weight[:, epoch, batch_index] = w
                self.optimizer.step()
                if self.weighting == "FAMO":
                    with torch.no_grad():
                        self.model.update_w(self.forward4loss(self.model, inputs, gts))
            self.meter.display(epoch)
            self.test(test_dataloaders)
        if self.save_path is not None:
            torch.save(self.model.state_dict(), self.save_path)
        return self.batch_weight if return_weight else None

    def test(self, dataloaders) -> None:
        self.model.eval()
        loaders = {"all": dataloaders} if not self.multi_input else dataloaders
        with torch.no_grad():
            for task, loader in loaders.items():
                pairs = [loader, iter(loader)]
                for _ in range(len(loader)):
                    inputs, gts = self._process_data(pairs)
                    if self.multi_input:
                        self._compute_loss(self.model(inputs, task)[task], gts, task)
                    else:
                        self.forward4loss(self.model, inputs, gts)
        for loss in self.meter.losses.values():
            loss.record = []


library = ModuleType("LibMTL")


def package() -> dict[str, ModuleType]:
    """The modules by name."""
    library.__dict__.update(__version__="1.1.5", Trainer=Trainer)
    for name, members in {"weighting": (AbsWeighting, EW, FAMO), "architecture": (HPS,)}.items():
        room = ModuleType(f"LibMTL.{name}")
        room.__dict__.update({member.__name__: member for member in members})
        setattr(library, name, room)
    return {"LibMTL": library, **{f"LibMTL.{n}": getattr(library, n) for n in ("weighting", "architecture")}}
