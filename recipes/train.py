"""What ``accelerate launch`` runs: accelerate launch recipes/train.py RECIPE [key=value ...]."""

import sys

from nlp_transfer.cli import main

main(["train", *sys.argv[1:]])
