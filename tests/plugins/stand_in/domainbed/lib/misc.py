"""Seeds of hyperparameters and jobs."""

import hashlib


def seed_hash(*args):
    return int(hashlib.md5(str(args).encode("utf-8")).hexdigest(), 16) % (2**31)
