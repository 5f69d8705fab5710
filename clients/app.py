"""The Flower ClientApp: the questions a coordinator may ask, each answered by this node's own party.

A reviewer can read all of it here: a node says who it is (``query.join``), and it releases one noisy integer sum a
round. Where sums are in the open that is ``train.sum``. Under secure aggregation it is ``train.mask``, with keys and
shares before it and one share for each party after it. At the end it hands over its ledger's last entries and cosigns
the server's log (``query.close``). Clip, noise, budget, ledger and keys are the party's own; see
``fedmarket/federation/party.py``.

The server ships this file. On a node between organisations it only passes frames to the socket of the party's own
process, named by the node's ``socket`` key; in a simulation, without that key, the party is in this process.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


def answered(message: Message, context: Context) -> Message:
    """Return the party's answer; each way loads what it needs, so that a relay never loads what could train."""
    if "socket" in context.node_config:
        from fedmarket.flower import relay  # noqa: PLC0415

        return relay.answer(message, context)
    from fedmarket.flower import client  # noqa: PLC0415

    return client.answer(message, context)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this party is and which terms it holds."""
    return answered(message, context)


@app.train("sum")
def noisy_sum(message: Message, context: Context) -> Message:
    """Release the noisy sum of this round, in the open."""
    return answered(message, context)


@app.query("advertise")
def advertise(message: Message, context: Context) -> Message:
    """Enter a round of secure aggregation: sign fresh keys."""
    return answered(message, context)


@app.query("share")
def share(message: Message, context: Context) -> Message:
    """Deal sealed shares of this round's secrets to the other parties."""
    return answered(message, context)


@app.train("mask")
def mask(message: Message, context: Context) -> Message:
    """Release the noisy sum of this round, masked."""
    return answered(message, context)


@app.query("consent")
def consent(message: Message, context: Context) -> Message:
    """Sign whose masked sums the server has."""
    return answered(message, context)


@app.query("unmask")
def unmask(message: Message, context: Context) -> Message:
    """Give one share for each party: of the mask that hides it alone, or, of one that was lost, of its pair masks."""
    return answered(message, context)


@app.query("close")
def close(message: Message, context: Context) -> Message:
    """Give the ledger's last entries, and then cosign the log that has them all."""
    return answered(message, context)
