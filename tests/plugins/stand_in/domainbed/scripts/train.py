"""Train one algorithm on three synthetic environments; files as DomainBed leaves them."""

import argparse
import collections
import json
import os
import random

import numpy as np
import torch

from domainbed import algorithms, hparams_registry
from domainbed.lib import misc


def environments(seed=0, n=40):
    """Three environments of 4 classes of points, each shifted its own way."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 6, generator=g)
    y = torch.arange(n) % 4
    return [
        (centres[y] + 0.3 * torch.randn(n, 6, generator=g) + 0.3 * torch.randn(6, generator=g), y)
        for _ in range(3)
    ]


def accuracy(network, x, y):
    network.eval()
    with torch.no_grad():
        correct = (network.predict(x).argmax(1) == y).float().mean().item()
    network.train()
    return correct


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="Plain")
    parser.add_argument("--algorithm", default="ERM")
    parser.add_argument("--hparams")
    parser.add_argument("--hparams_seed", type=int, default=0)
    parser.add_argument("--trial_seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--checkpoint_freq", type=int, default=5)
    parser.add_argument("--test_envs", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", required=True)
    args = parser.parse_args()
    os.makedirs(args.output_dir, exist_ok=True)

    if args.hparams_seed == 0:
        hparams = hparams_registry.default_hparams(args.algorithm, args.dataset)
    else:
        hparams = hparams_registry.random_hparams(
            args.algorithm, args.dataset, misc.seed_hash(args.hparams_seed, args.trial_seed)
        )
    if args.hparams:
        hparams.update(json.loads(args.hparams))

    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)

    envs = environments()
    training = [env for i, env in enumerate(envs) if i not in args.test_envs]
    algorithm_class = algorithms.get_algorithm_class(args.algorithm)
    algorithm = algorithm_class((6,), 4, len(training), hparams)
    algorithm.to("cpu")

    checkpoint_vals = collections.defaultdict(list)
    for step in range(args.steps):
        start = 8 * step % 40
        minibatches = [(x[start : start + 8], y[start : start + 8]) for x, y in training]
        for key, val in algorithm.update(minibatches, None).items():
            checkpoint_vals[key].append(val)
        if step % args.checkpoint_freq == 0 or step == args.steps - 1:
            results = {"step": step, **{key: np.mean(val) for key, val in checkpoint_vals.items()}}
            for i, (x, y) in enumerate(envs):
                results[f"env{i}_out_acc"] = accuracy(algorithm, x, y)
            results.update(hparams=hparams, args=vars(args))
            with open(os.path.join(args.output_dir, "results.jsonl"), "a") as f:
                f.write(json.dumps(results, sort_keys=True) + "\n")
            checkpoint_vals = collections.defaultdict(list)

    save_dict = {"args": vars(args), "model_hparams": hparams, "model_dict": algorithm.state_dict()}
    torch.save(save_dict, os.path.join(args.output_dir, "model.pkl"))
    with open(os.path.join(args.output_dir, "done"), "w") as f:
        f.write("done")
