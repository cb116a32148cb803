"""Defaults and random distributions."""

import numpy as np

from domainbed.lib import misc


def _hparams(algorithm, dataset, random_seed):  # noqa: ARG001
    hparams = {}

    def _hparam(name, default, random_value):
        assert name not in hparams
        state = np.random.RandomState(misc.seed_hash(random_seed, name))
        hparams[name] = (default, random_value(state))

    _hparam("lr", 1e-2, lambda r: 10 ** r.uniform(-3, -2))
    _hparam("weight_decay", 0.0, lambda r: 10 ** r.uniform(-6, -2))
    _hparam("batch_size", 8, lambda r: int(2 ** r.uniform(2, 4)))
    _hparam("nonlinear_classifier", False, lambda _: False)
    _hparam("freeze_bn", dataset == "Frozen", lambda _: dataset == "Frozen")
    return hparams


def default_hparams(algorithm, dataset):
    return {name: default for name, (default, _) in _hparams(algorithm, dataset, 0).items()}


def random_hparams(algorithm, dataset, seed):
    return {name: value for name, (_, value) in _hparams(algorithm, dataset, seed).items()}
