"""The app that a hostile operator ships in place of ours: it attacks the party beside which it runs."""

import json
from dataclasses import asdict
from pathlib import Path

from attempts import (
    about_budget,
    about_life,
    about_masks,
    about_terms,
    about_the_log,
    honest_round,
    on_the_machine,
)
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from frames import Operator

app = ClientApp()


@app.query("attack")
def attack(message: Message, context: Context) -> Message:
    """Do everything that the operator asks for, and tell how it went, one line of JSON for each attempt."""
    plan = json.loads(str(message.content.config_records["plan"]["json"]))
    operator = Operator(Path(plan["operator"]), Path(str(context.node_config["socket"])))
    found = list(on_the_machine(Path(plan["node"]), plan["pid"], plan["uid"], plan["listed"]))
    found += about_terms(operator)
    operator.join()
    found.append(honest_round(operator, "before"))
    found += about_masks(operator)
    found += about_life(operator, plan["largest"])
    found.append(honest_round(operator, "after all that"))
    found += about_the_log(operator)
    found += about_budget(operator, plan["most_rounds"])
    told = ConfigRecord({"lines": [json.dumps(asdict(one)) for one in found]})
    return Message(RecordDict({"told": told}), reply_to=message)
