"""The Flower ClientApp: two questions a coordinator may ask, each answered by this node's own party.

A reviewer can read all of it here: a node says who it is (``query.join``), and it releases one noisy integer sum a
round (``train.centre``, ``train.update``, ``train.calibrate``). Clip, noise and budget are the party's own; see
``fedmarket/federation/party.py``.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmarket.flower import client

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this party is and which terms it holds."""
    return client.join(message, context)


@app.train("centre")
def centre(message: Message, context: Context) -> Message:
    """Release the noisy sum of the encoded rows."""
    return client.release(message, context)


@app.train("update")
def update(message: Message, context: Context) -> Message:
    """Release one round's noisy training update."""
    return client.release(message, context)


@app.train("calibrate")
def calibrate(message: Message, context: Context) -> Message:
    """Release the noisy statistics for the recalibration."""
    return client.release(message, context)
