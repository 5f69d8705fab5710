"""The ClientApp: a party that releases one noisy sum a round, masked or in the open, and counts what that costs."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.steps import Step
from fedmarket.federation.rehearsal import load_seat
from fedmarket.privacy.budget import Spending
from noisyapp import private
from noisyapp.agreed import PARTIES, Agreement, hash_of

app = ClientApp()


@lru_cache
def agreement(**config: object) -> Agreement:
    """Return the terms; noise is calibrated once for all rounds."""
    return Agreement.of(config)


def released(message: Message, context: Context) -> np.ndarray:
    """Return the words of this round's noisy sum. It is charged before it is computed."""
    terms, name = _terms(context), _name(context)
    if (name, message.content["asked"]["round"]) == (context.run_config["silent-party"], _silent_round(context)):
        raise RuntimeError("this party has left")
    # 1. Charge: the plan allows so many sums and no more, whatever the server asks for.
    spending = _spending(context).charged(terms.plan, "update", 1)
    context.state["spent"] = ConfigRecord({"update": spending.update})
    # 2. Clip, add, add noise; 3. write it as integers.
    parameters = message.content["model"]["parameters"].numpy()
    noisy = private.noisy_sum(parameters, private.rows_of(PARTIES.index(name)), terms.update)
    return terms.words.encode(noisy)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this is."""
    return _reply(message, {"party": _name(context)})


@app.query("spent")
def spent(message: Message, context: Context) -> Message:
    """Say the epsilon of all that left so far, by this party's own count."""
    return _reply(message, {"epsilon": _spending(context).spent(_terms(context).plan).epsilon})


@app.train("sum")
def in_the_open(message: Message, context: Context) -> Message:
    """Release the noisy sum as it is: this party's noise is enough alone."""
    if _terms(context).masked:
        raise ValueError("a share of noise must not leave without a mask")
    return _reply(message, {"answer": words_to_bytes(released(message, context))})


def answering(step: Step) -> Callable[[Message, Context], Message]:
    """Return the handler of a step of secure aggregation."""

    def answered(message: Message, context: Context) -> Message:
        asked = message.content["asked"]
        seat = load_seat(Path(str(context.run_config["roster"])), _name(context))
        about = _terms(context).round(asked["run"], asked["round"])
        if step == "advertise":
            memory, answer = seat.enter(about)
        else:
            memory = context.state.pop("round")["memory"]  # good for one answer
            if step == "mask":
                about = about.bound_to(hash_of(message.content["model"]["parameters"].numpy()))
            memory, answer = seat.follow(
                seat.resume(about, step, memory),
                step,
                packet=asked["packet"],
                words=lambda: released(message, context),
            )
        context.state["round"] = ConfigRecord({"memory": memory})
        return _reply(message, {"answer": answer})

    return answered


app.query("advertise")(answering("advertise"))
app.query("share")(answering("share"))
app.train("mask")(answering("mask"))
app.query("consent")(answering("consent"))
app.query("unmask")(answering("unmask"))


def _terms(context: Context) -> Agreement:
    return agreement(**context.run_config)


def _name(context: Context) -> str:
    return PARTIES[int(context.node_config["partition-id"])]


def _silent_round(context: Context) -> int:
    return int(context.run_config["silent-round"])


def _spending(context: Context) -> Spending:
    return Spending(update=int(context.state["spent"]["update"]) if "spent" in context.state else 0)


def _reply(message: Message, content: dict[str, str | float | bytes]) -> Message:
    return Message(RecordDict({"told": ConfigRecord(content)}), reply_to=message)
