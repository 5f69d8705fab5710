"""Run a federation of five banks between processes of this machine, and hold what it leaves against three checks."""

import argparse
import sys
from pathlib import Path

from fedmarket.loopback.loading import loading

with loading():
    from fedmarket.loopback.documents import make_consortium
    from fedmarket.loopback.federation import Federation, Say
    from fedmarket.loopback.findings import need_bit_equal, need_verified, simulated_model
    from fedmarket.loopback.script import options_for, output_of, scripted

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("config.toml")
SECONDS_A_ROUND, SECONDS_BESIDE = 120.0, 300.0
"""After which a run is given up."""


def main() -> int:
    """Run what the options say; 0 if everything holds."""
    options = parsed()
    return scripted(lambda sockets, say: run(options, sockets, say))


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = options_for(CONFIG, __doc__)
    parser.add_argument("--rounds", type=int, help="of training; default: as the experiment says")
    parser.add_argument(
        "--test-seeds",
        action="store_true",
        help="noise from a seed, which protects nobody: the model must be a simulation's to the last bit",
    )
    return parser.parse_args()


def run(options: argparse.Namespace, sockets: Path, say: Say) -> int:
    """Make the folders, run the federation, stop it, and check what it left; 0 if it all holds."""
    changes = {"training.rounds": options.rounds} if options.rounds else {}
    changes |= {"privacy.generator": "seeded-for-tests"} if options.test_seeds else {}
    folder = output_of(options.output, ROOT)
    output, log = folder / "run", folder / "server" / "logs"
    say(f"making folders, keys and documents of a server and its parties in {folder}")
    consortium = make_consortium(folder, options.config, app=ROOT, sockets=sockets, changes=changes)
    say("starting the party processes, the SuperLink and the SuperNodes")
    with Federation.of(consortium) as federation:
        federation.preflight(say)
        say(f"the operator runs the experiment; logs are in {log} and {folder}/parties")
        federation.run(output, seconds=SECONDS_BESIDE + SECONDS_A_ROUND * consortium.terms.rounds, say=say)
        say("the run has ended; stopping what was started")
    verdict = need_verified(consortium, output / "bundle.zip")
    say("the bundle holds under everybody's keys: integrity, completeness, every epsilon")
    if consortium.seeded:
        need_bit_equal(output / "model.safetensors", simulated_model(consortium, app=ROOT))
        say("the model is that of a simulation of the same documents, to the last bit")
    for party in verdict.parties:
        print(f"  {party.name:<12} epsilon {party.epsilon:.4f} of {party.cap:g} spent, in {party.entries} entries")
    for what, name in (("model", "model.safetensors"), ("bundle", "bundle.zip"), ("outcome", "outcome.json")):
        print(f"  {what:<12} {output / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
