"""The steps of a round, named by what a party answers in them."""

from typing import Literal

Step = Literal["sum", "advertise", "share", "mask", "consent", "unmask"]

IN_THE_OPEN: tuple[Step, ...] = ("sum",)
"""A plain sum: each party sends its words as they are."""

SECURE: tuple[Step, ...] = ("advertise", "share", "mask", "consent", "unmask")
"""Secure aggregation; see ``docs/reference/secure-aggregation.md``."""

RELEASING: tuple[Step, ...] = ("sum", "mask")
"""The steps in which a party computes on its rows; only they need the model."""

PREPARING: tuple[Step, ...] = ("advertise", "share")
ENDING: tuple[Step, ...] = ("consent", "unmask")
"""The steps before and after the one that releases; the first of one round may go along with the last of another."""
