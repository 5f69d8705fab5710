"""The bank task in Flower's simulation runtime (Ray), in a process of its own: ``run.py FOLDER``; see ``apps.py``.

``run_simulation`` does what ``flwr run`` does behind its SuperLink, without starting one: the quicker of the two.
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
# Ray's workers import the apps by name.
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], *filter(None, [os.environ.get("PYTHONPATH")])])

from apps import client_app, server_app_for, task_in
from flwr.simulation import run_simulation
from measuring import marked


def main() -> None:
    """Run what the options say."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, help="where task.json and rows.npz are")
    options.add_argument("--loader", choices=["documented", "indexed"], default="documented")
    options.add_argument("--mode", choices=["hooks", "ew", "functorch", "ghost"], default="hooks")
    options.add_argument("--cpus", type=float, default=1.0, help="of each client; 1 gives a worker to each core")
    options.add_argument("--threads", type=int, default=1, help="of torch in each worker; 0 leaves them to it")
    chosen = options.parse_args()
    marked("imported")
    folder = chosen.folder.resolve()
    task = task_in(str(folder))
    config: dict[str, str | int] = {"loader": chosen.loader, "mode": chosen.mode, "threads": chosen.threads}
    run_simulation(
        server_app=server_app_for(folder, rounds=task["rounds"], config=config),
        client_app=client_app,
        num_supernodes=len(task["parties"]),
        backend_config={"client_resources": {"num_cpus": chosen.cpus, "num_gpus": 0.0}},
    )
    marked("done")
    if not (folder / "scores.npy").is_file():
        sys.exit("the simulation left no model")


if __name__ == "__main__":
    main()
