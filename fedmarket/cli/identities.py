"""Commands for those who take part: a party's identity, and who is in the roster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, group, out, print_json, shown
from fedmarket.errors import UsageError

if TYPE_CHECKING:
    from fedmarket.federation.roster import Roster

keys_app = group("This party's long-term identity.", example="fedmarket keys new ~/.config/fedmarket/identity.pem")
roster_app = group("Who takes part in secure aggregation.", example="fedmarket roster check roster.toml")

KEY, ROSTER = "fedmarket-key/1", "fedmarket-roster-summary/1"


@keys_app.command("new")
def keys_new(
    path: Annotated[Path, typer.Argument(help="Where the private key goes; readable by you alone, never overwritten.")],
    as_json: Json = False,
) -> None:
    """Make this party's long-term identity and print its public key, for the roster.

    [bold]Example[/]

      fedmarket keys new ~/.config/fedmarket/identity.pem
    """
    from fedmarket.federation.identity import new_identity, save_identity

    identity = new_identity()
    save_identity(identity, path)
    if as_json:
        print_json({"format": KEY, "public_key": identity.public_hex})
    else:
        out.print(identity.public_hex)


@roster_app.command("new")
def roster_new(
    path: Annotated[Path, typer.Argument(help="Where the roster goes, a TOML document; never overwritten.")],
    lines: Annotated[Path, typer.Argument(help="One line from each partner; - for standard input.")],
    minimum_survivors: Annotated[
        int | None,
        typer.Option(help="As the experiment has it in [bold]federation[/]; by default the threshold."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the roster from the line that [bold]fedmarket party init[/] printed for each partner.

    LINES is a file, or - for standard input: on each line a public key and a name; blank lines and those that begin
    with # are left out. PATH is never overwritten. Every partner keeps a copy of the roster and compares its hash with
    the others'.

    [bold]Example[/]

      fedmarket roster new roster.toml partners.txt --minimum-survivors 4
    """
    from fedmarket.federation.roster import members_in, new_roster
    from fedmarket.files import write_new

    roster = new_roster(members_in(_text_of(lines), source=str(lines)), minimum_survivors=minimum_survivors)
    write_new(path, roster.to_toml().encode(), mode=0o644)
    _tell(roster, as_json=as_json)


@roster_app.command("check")
def roster_check(
    path: Annotated[Path, typer.Argument(help="The roster, a TOML document.")],
    identity: Annotated[Path | None, typer.Option(help="Your private key: is it in the roster?")] = None,
    as_json: Json = False,
) -> None:
    """Hold a roster against the rules, and print who is in it and how many may be lost.

    [bold]Example[/]

      fedmarket roster check roster.toml --identity ~/.config/fedmarket/identity.pem
    """
    from fedmarket.errors import ConfigError
    from fedmarket.federation.identity import load_identity
    from fedmarket.federation.roster import load_roster

    roster = load_roster(path)
    own = roster.index_of_key(load_identity(identity).public_key) if identity else None
    if identity and own is None:
        raise ConfigError(f"{path}: the key in {identity} is not in this roster")
    _tell(roster, own=own, as_json=as_json)


@roster_app.command("rehearse")
def roster_rehearse(
    config: Annotated[Path, typer.Argument(help="The experiment whose parties are simulated.")],
    folder: Annotated[Path, typer.Argument(help="Where roster.toml and the private keys go; a folder of their own.")],
) -> None:
    """Make fresh keys and a roster for the simulated parties of an experiment.

    One machine then holds every party's key, which is good for a simulation under Flower's own runtime and for nothing
    else. The parties' and the server's ledgers come to lie beside the keys, and the cap is the experiment's epsilon: a
    second run with the same folder is refused. [bold]fedmarket simulate[/] does not need it: it makes keys of its own
    for each run.

    [bold]Example[/]

      fedmarket roster rehearse experiments/demo/config.toml runs/flower/roster
    """
    from fedmarket.config import load_config
    from fedmarket.experiment.market import MarketKey, open_market
    from fedmarket.federation.rehearsal import rehearse

    settings = load_config(config)
    names = open_market(MarketKey(config=config, changes=(), seed=settings.seeds[0])).names
    masked = settings.aggregation.secagg == "secure"
    path = rehearse(folder, names, minimum_survivors=settings.federation.minimum_survivors if masked else None)
    out.print(f"{len(names)} simulated parties: {shown(path)}", soft_wrap=True)


def _text_of(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return content.decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: expected text in UTF-8") from None


def _tell(roster: "Roster", *, own: int | None = None, as_json: bool) -> None:
    if as_json:
        members = [{"name": member.name, "public_key": member.public_key.hex()} for member in roster.members]
        rules = {"threshold": roster.threshold, "minimum_survivors": roster.minimum_survivors}
        print_json({"format": ROSTER, "hash": roster.hash.hex(), "members": members, **rules, "own": own})
        return
    for place, member in enumerate(roster.members):
        mark = "  (this identity)" if place == own else ""
        out.print(f"{member.public_key.hex()}  {escape(member.name)}{mark}", soft_wrap=True)
    spare = len(roster.members) - roster.minimum_survivors
    out.print(
        f"{len(roster.members)} members, threshold {roster.threshold}, at least {roster.minimum_survivors} survivors: "
        f"{spare} may be lost in a round",
        soft_wrap=True,
    )
    out.print(f"hash {roster.hash.hex()}", soft_wrap=True)
