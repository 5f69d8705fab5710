"""Commands for those who take part: a party's identity, and who is in the roster."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedmarket.cli.console import out, shown

keys_app = typer.Typer(help="This party's long-term identity.", no_args_is_help=True)
roster_app = typer.Typer(help="Who takes part in secure aggregation.", no_args_is_help=True)


@keys_app.command("new")
def keys_new(
    path: Annotated[Path, typer.Argument(help="Where the private key goes; readable by you alone, never overwritten.")],
) -> None:
    """Make this party's long-term identity and print its public key, for the roster.

    [bold]Example[/]

      fedmarket keys new ~/.config/fedmarket/identity.pem
    """
    from fedmarket.federation.identity import new_identity, save_identity

    identity = new_identity()
    save_identity(identity, path)
    out.print(identity.public_hex)


@roster_app.command("check")
def roster_check(
    path: Annotated[Path, typer.Argument(help="The roster, a TOML document.")],
    identity: Annotated[Path | None, typer.Option(help="Your private key: is it in the roster?")] = None,
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
