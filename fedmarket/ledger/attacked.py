"""What somebody measured by attacks, held against epsilon as the auditor recomputed it.

The measurement is believed in one direction alone: it can refute what the ledgers say, and confirms nothing.
"""

from collections.abc import Iterator

from fedmarket.attacks.measured import Measured, same_epsilon
from fedmarket.ledger.findings import Finding, PartyAccount, Question, RunAccount, clipped

SOURCE = "risk document"


def findings_of(
    measured: Measured, parties: tuple[PartyAccount, ...], runs: tuple[RunAccount, ...]
) -> Iterator[Finding]:
    """Yield what contradicts the ledgers: another epsilon, delta or unit that was attacked, or a lower bound above it.

    Attacked is a plan, so its epsilon is held against that of each run's whole plan, as the cap is.
    """
    planned = [epsilon for run in runs for name, _, epsilon in run.observers if name == "coalition"]
    if not any(same_epsilon(measured.epsilon, epsilon) for epsilon in planned):
        yield _finding("integrity", "epsilon that was attacked", _written(planned), f"{measured.epsilon:.4f}")
    for what, said, there in (
        ("delta", measured.delta, {party.delta for party in parties}),
        ("unit", measured.unit, {party.unit for party in parties}),
    ):
        if said not in there:
            yield _finding("integrity", f"{what} that was attacked", _listed(there), clipped(str(said)))
    bound = measured.lower_bound
    if measured.gate.verdict == "violated" or bound > max(planned, default=0.0):
        yield _finding("promise", "epsilon, measured from below", f"at most {_written(planned)}", _shown(measured))


def _finding(question: Question, what: str, expected: str, found: str) -> Finding:
    return Finding(question=question, source=SOURCE, what=what, expected=expected, found=found)


def _shown(measured: Measured) -> str:
    refuted = ", and its audit refuted the claim" if measured.gate.verdict == "violated" else ""
    return f"{measured.lower_bound:.4f}{refuted}"


def _written(planned: list[float]) -> str:
    return _listed({f"{epsilon:.4f}" for epsilon in planned})


def _listed(values: set[str] | set[float]) -> str:
    return " or ".join(sorted(map(str, values))) or "that of a run"
