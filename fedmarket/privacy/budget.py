"""The party's own count of what left it, checked before each release.

The count is the party's: nothing the coordinator says changes it. A release is charged before it is computed.
"""

from dataclasses import dataclass

from fedmarket.errors import Refusal
from fedmarket.privacy.accountant import Spent
from fedmarket.privacy.mechanism import PHASES, Phase
from fedmarket.privacy.plan import PrivacyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """How often each mechanism of the plan has run, in all rounds so far."""

    centre: int = 0
    update: int = 0
    calibrate: int = 0
    level: int = 0
    segment: int = 0
    evaluate: int = 0

    def releases(self) -> dict[Phase, int]:
        """Return the counts by phase."""
        return {phase: getattr(self, phase) for phase in PHASES}

    def charged(self, plan: PrivacyPlan, phase: Phase, count: int) -> "Spending":
        """Return the spending after ``count`` more uses of the mechanism of ``phase``.

        Raises:
            Refusal: if the plan allows fewer; nothing must leave then.
        """
        counts = self.releases()
        allowed = plan.mechanism(phase).releases
        if counts[phase] + count > allowed:
            left = allowed - counts[phase]
            raise Refusal(f"budget: {count} more release(s) of {phase} asked, {left} left of {allowed}")
        counts[phase] += count
        return Spending(**counts)

    def spent(self, plan: PrivacyPlan) -> Spent:
        """Return the epsilon of everything that left so far, composed."""
        return plan.spent(self.releases())
