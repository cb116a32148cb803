"""Train what a config file describes: ``python run.py configs/quickstart.yaml``."""

from mtlsuite.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
