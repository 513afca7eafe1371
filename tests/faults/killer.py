"""Kills training runs at chosen moments: killer.py JOBS.json; one import, then a fork for each attempt.

A job is {"recipe", "points"}: the run is started, killed at the first point, resumed, killed at the next ...
and then resumed to its end. A point is {"seconds": s}, killed from outside after so long, or {"write": n},
killed in the middle of the n-th file that it writes.
"""

import itertools
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import safetensors.torch
import torch

import nlp_transfer.models.classifier
import nlp_transfer.models.embed
import nlp_transfer.shift.report
import nlp_transfer.training.extract
import nlp_transfer.training.run
import nlp_transfer.training.trainer
import nlp_transfer.training.tune  # noqa: F401
from nlp_transfer import Recipe, train


def die_while_writing(number: int) -> None:
    """Let the n-th file be cut in half, then end the process as kill -9 does."""
    count = itertools.count(1)

    def cut(write):
        def planted(*args, **kwargs):
            outcome = write(*args, **kwargs)
            if next(count) == number:
                path = next((a for a in args if isinstance(a, (str, Path)) and os.path.isfile(a)), None)
                if path is not None:
                    os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return outcome

        return planted

    import transformers.modeling_utils
    from peft import peft_model
    from transformers.trainer_callback import TrainerState

    torch.save = cut(torch.save)
    for module in (transformers.modeling_utils, peft_model):
        name = "safe_save_file" if hasattr(module, "safe_save_file") else "save_file"
        setattr(module, name, cut(getattr(module, name, safetensors.torch.save_file)))
    to_json = TrainerState.save_to_json
    TrainerState.save_to_json = lambda self, path: cut(lambda p: to_json(self, p))(path)
    Path.write_text = cut(Path.write_text)


def attempt(recipe: Recipe, point: dict, *, resume: bool) -> int:
    """Run in a child; returns how it ended: 0, or minus the signal's number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if "write" in point:
                die_while_writing(point["write"])
            train(recipe, resume=resume)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if "seconds" in point:
        time.sleep(point["seconds"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    outcomes = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        recipe = Recipe.from_dict(job["recipe"])
        folder, kills = Path(recipe.output_dir), 0
        for point in job["points"]:
            if (folder / "metrics.json").exists():
                break
            kills += attempt(recipe, point, resume=folder.exists()) == -signal.SIGKILL
        finished = (folder / "metrics.json").exists()
        code = 0 if finished else attempt(recipe, {}, resume=True)
        outcomes.append({"kills": kills, "code": code})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
