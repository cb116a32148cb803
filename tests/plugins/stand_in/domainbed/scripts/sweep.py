"""One process of train.py for every algorithm."""

import argparse
import os
import subprocess
import sys

from domainbed import algorithms

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["launch"])
    parser.add_argument("--algorithms", nargs="+", default=algorithms.ALGORITHMS)
    parser.add_argument("--n_hparams", type=int, default=1)
    parser.add_argument("--output_dir", required=True)
    args = parser.parse_args()
    for algorithm in args.algorithms:
        for hparams_seed in range(args.n_hparams):
            folder = os.path.join(args.output_dir, f"{algorithm}_{hparams_seed}")
            options = ["--algorithm", algorithm, "--hparams_seed", str(hparams_seed), "--output_dir", folder]
            subprocess.run([sys.executable, "-m", "domainbed.scripts.train", *options], check=True)
