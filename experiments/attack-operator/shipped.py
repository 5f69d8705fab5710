"""The process that a SuperNode starts for a message, here without one: message in, Flower's ClientApp, reply out."""

import json
import sys

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hostile import app


def main() -> None:
    """Read the operator's plan, have the app answer it, and print its lines."""
    plan = sys.stdin.read()
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    context = Context(
        run_id=1, node_id=1, node_config={"socket": json.loads(plan)["socket"]}, state=RecordDict(), run_config={}
    )
    asked = RecordDict({"plan": ConfigRecord({"json": plan})})
    reply = app(Message(asked, dst_node_id=1, message_type="query.attack"), context)
    lines = reply.content.config_records["told"]["lines"]
    print("\n".join(map(str, lines)) if isinstance(lines, list) else lines)


if __name__ == "__main__":
    main()
