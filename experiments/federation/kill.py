"""Kill each kind of process in each phase of real runs, and hold every run and every ledger to what was promised."""

import argparse
import sys
import time
from pathlib import Path

from fedmarket.loopback.loading import loading

with loading():
    from fedmarket.federation.answering import CLOSE, JOIN
    from fedmarket.loopback.documents import make_consortium
    from fedmarket.loopback.federation import Federation, Say
    from fedmarket.loopback.findings import need_verified
    from fedmarket.loopback.kills import VICTIMS, Case, all_cases, need_nothing_lost, run_with_kills
    from fedmarket.loopback.script import options_for, output_of, scripted

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("config.toml")
MOST_RUNS, RUN_MINUTES = 20, 45.0


def main() -> int:
    """Kill what the options say; 0 if everything holds and every case happened."""
    options = parsed()
    return scripted(lambda sockets, say: told(kill(options, sockets, say)))


def told(left: list[Case]) -> int:
    """Say which cases did not happen; 0 if there is none."""
    for case in left:
        print(f"  not tried: {case}")
    return 1 if left else 0


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = options_for(CONFIG, __doc__)
    parser.add_argument("--rounds", type=int, default=25, help="of training in each run; default: 25")
    parser.add_argument("--minutes", type=float, default=90.0, help="after which no further run is begun; default: 90")
    parser.add_argument("--victims", default=",".join(VICTIMS), help=f"default: {','.join(VICTIMS)}")
    parser.add_argument("--phases", default="", help="default: join, the steps of a round, close")
    parser.add_argument("--moments", default="asked,answered", help="default: asked,answered")
    return parser.parse_args()


def kill(options: argparse.Namespace, sockets: Path, say: Say) -> list[Case]:
    """Return the cases that did not happen, after as many runs as the others took."""
    until = time.monotonic() + 60.0 * options.minutes
    folder = output_of(options.output, ROOT, suffix="-kills")
    changes = {"training.rounds": options.rounds}
    say(f"making folders, keys and documents of a server and its parties in {folder}")
    consortium = make_consortium(folder, options.config, app=ROOT, sockets=sockets, changes=changes, cap=MOST_RUNS)
    victims, moments = options.victims.split(","), options.moments.split(",")
    phases = options.phases.split(",") if options.phases else (JOIN, *consortium.terms.steps, CLOSE)
    left, done = all_cases(phases, victims, moments), []
    with Federation.of(consortium) as federation:
        for number in range(1, 1 + MOST_RUNS):
            if not left or (number > 1 and time.monotonic() > until):
                break
            output = folder / f"run-{number}"
            say(f"run {number}, {len(left)} cases are left")
            happened = run_with_kills(federation, left, output, seconds=60.0 * RUN_MINUTES, say=say)
            verdict = need_verified(consortium, output / "bundle.zip")
            spent = max(party.epsilon for party in verdict.parties)
            say(f"run {number} has a model, and its bundle holds: {len(happened)} cases, at most epsilon {spent:.2f}")
            done += [(number, case, round_number) for case, round_number in happened]
            if not happened:
                break
        say(f"{need_nothing_lost(federation)} answers released something, and the ledgers paid for all of them")
    for number, case, round_number in done:
        where = "" if case.phase in (JOIN, CLOSE) else f", round {round_number}"
        print(f"  {case!s:<34} run {number}{where}: a model, and a ledger that holds")
    return left


if __name__ == "__main__":
    sys.exit(main())
