"""The ServerApp: asks for noisy sums, adds them, takes a step. Of a masked round it learns the sum and nothing else."""

import os
from logging import INFO

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.steps import RELEASING
from fedmarket.aggregation.summation import IdealSum, RoundSum
from fedmarket.errors import BadMessage, RoundVoid
from noisyapp.agreed import MINIMUM_SURVIVORS, MODULUS_BITS, PARTIES, ROWS, Agreement, hash_of, start

TIMEOUT = 120.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and leave model, sums and what each party says that it spent in ``context.state``."""
    terms, run = Agreement.of(context.run_config), os.urandom(16)
    parameters, learning_rate = start(), float(context.run_config["learning-rate"])
    nodes = {str(reply["party"]): node for node, reply in asked(grid, "query.join", grid.get_node_ids()).items()}
    for number in range(terms.rounds):
        sums: RoundSum = SecureSum(terms.round(run, number)) if terms.masked else in_the_open(number, terms)
        try:
            total = terms.words.decode(summed(grid, nodes, sums, parameters, run=run, number=number))
        except RoundVoid as void:  # too few were left: there is no partial sum, and what was charged is spent
            log(INFO, "%s", void)
            continue
        log(INFO, "round %d: the sum of %s", number, ", ".join(sums.survivors))
        parameters = parameters - learning_rate * total / (len(sums.survivors) * ROWS)
        context.state[f"sum-{number}"] = ArrayRecord({"total": Array(total)})
        context.state[f"survivors-{number}"] = ConfigRecord({"names": list(sums.survivors)})
    told = asked(grid, "query.spent", nodes.values())
    spent = {name: float(told[node]["epsilon"]) for name, node in nodes.items() if node in told}
    log(INFO, "epsilon at delta %g: %s", terms.plan.delta, spent)
    context.state["model"] = ArrayRecord({"parameters": Array(parameters)})
    context.state["spent"] = ConfigRecord(spent)


def in_the_open(number: int, terms: Agreement) -> IdealSum:
    """Return a round in which each party sends its noisy sum as it is."""
    return IdealSum(
        round_number=number,
        parties=PARTIES,
        least=MINIMUM_SURVIVORS,
        length=terms.update.length,
        modulus_bits=MODULUS_BITS,
    )


def summed(
    grid: Grid, nodes: dict[str, int], sums: RoundSum, parameters: np.ndarray, *, run: bytes, number: int
) -> np.ndarray:
    """Take one round through its steps and return the sum of the survivors' words.

    Raises:
        RoundVoid: if too few were left at any step.
    """
    sums.bind(hash_of(parameters))
    for step in sums.steps:
        contents = {}
        for name, packet in sums.outgoing(step).items():
            if name in nodes:
                records = {"asked": ConfigRecord({"run": run, "round": number, "packet": packet})}
                if step in RELEASING:  # only what is computed on rows needs the model
                    records["model"] = ArrayRecord({"parameters": Array(parameters)})
                contents[nodes[name]] = RecordDict(records)
        replies = asked(grid, f"{'train' if step in RELEASING else 'query'}.{step}", contents, contents)
        for name, node in nodes.items():
            if node in replies:
                try:
                    sums.receive(step, name, replies[node]["answer"])
                except BadMessage as error:  # whoever sends nonsense is out of this round
                    log(INFO, "%s", error)
        sums.close(step)
    return sums.total()


def asked(grid: Grid, kind: str, nodes, contents=None) -> dict[int, ConfigRecord]:
    """Send each node a message; return the answers by node, and none of a node that failed or is silent."""
    messages = [
        Message((contents or {}).get(node, RecordDict()), dst_node_id=node, message_type=kind) for node in nodes
    ]
    replies = grid.send_and_receive(messages, timeout=TIMEOUT)
    answered = (reply for reply in replies if reply.has_content() and "told" in reply.content)
    return {reply.metadata.src_node_id: reply.content["told"] for reply in answered}
