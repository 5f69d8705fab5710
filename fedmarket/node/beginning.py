"""A node's folder as it is begun: an identity, and a document to be filled in."""

import json
import os
from pathlib import Path

from fedmarket.aggregation.secagg.roster import Member
from fedmarket.errors import UsageError
from fedmarket.federation.identity import Identity, new_identity, save_identity

DOCUMENT, IDENTITY = "partner.toml", "identity.pem"

EXAMPLE = """\
# This node: what it is, holds and agrees to. No secret belongs in here. Paths are relative to this file.
# Every key: docs/reference/partner.md. When it is filled in: fedmarket party preflight partner.toml
format = "fedmarket-partner/1"
name = {name}

# What was agreed among all partners; your own copies. The [data] of the experiment is a simulation's, and not used.
federation = "federation/config.toml"
roster = "federation/roster.toml"
# The operator's, as you heard it another way (by telephone): name+id+base64.
log_key = ""

# Yours alone.
identity = "identity.pem"
books = "books"
# The public size of your table, written down once and before you look; sampling and step sizes use it.
declared_rows = 1000
# On epsilon, over all runs; for an old ledger it is `fedmarket budget set-cap` that changes it.
cap = 1.0

[socket]
path = "party.sock"
# Where Flower's SuperNode runs as another user: a folder that it may enter, a group of both, and who may ask.
# path = "/run/fedmarket/party.sock"
# group = "fedmarket-relay"
# users = ["flower"]

[data]
kind = "table"
# Of your customers, kept for the private evaluation.
held_out_share = 0.2

[data.source]
kind = "file"
path = "customers.parquet"
# Or one query. The password is in a file of mode 600, never here.
# kind = "postgresql"
# host = "db.internal"
# database = "crm"
# user = "fedmarket_reader"
# query = "select * from fedmarket.customers"
# password_file = "database.password"

[policy]
# Hash of the contract that you read and agreed to: `fedmarket party preflight` prints that of your copy.
contracts = []
largest_epsilon = 1.0
least_survivors = 4
# What is left out is not limited.
# terms = "0123...", of exactly one run's terms
# models = ["logistic"]
# least_noise = 1.0
# least_colluders = 1
# most_runs_a_day = 2
# most_rounds_a_day = 400
# hours = "06:00-20:00"
"""


def begin(folder: Path, *, name: str) -> Identity:
    """Make ``folder`` with an identity and an example document, and return the identity.

    Raises:
        ConfigError: if the name is none that a roster takes.
        UsageError: if something of it is there already, or it cannot be written.

    Guarantees:
        Nothing is overwritten, and nobody but the owner can enter a folder that it makes.
    """
    identity = new_identity()
    Member(name=name, public_key=identity.public_key)
    document = folder / DOCUMENT
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(document, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{document}: exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror or error})") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(EXAMPLE.format(name=json.dumps(name, ensure_ascii=False)))
    try:
        save_identity(identity, folder / IDENTITY)
    except UsageError:
        document.unlink()
        raise
    return identity
