"""Every command shows how it is used, and what it shows can be typed; exit codes are those that errors have."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from fedmarket import errors
from fedmarket.cli.main import EXIT_CODES, app

ROOT = Path(__file__).parents[2]
COMMAND = typer.main.get_command(app)

QUICK = {
    "fedmarket check --contract experiments/demo/contract.toml --data experiments/demo/customers.csv",
    "fedmarket budget plan experiments/demo/config.toml --set privacy.epsilon=0.5 --releases",
}
"""Examples that need nothing but a checkout, and no time."""


def walked(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            yield from walked(one, f"{name} {inner}")


COMMANDS = dict(walked(COMMAND, "fedmarket"))


def examples_of(command: click.Command) -> list[str]:
    """Return the command lines below the word Example; those that are folded are one."""
    _, _, below = (command.help or "").partition("[bold]Example")
    paragraphs = (" ".join(part.split()) for part in below.split("\n\n")[1:])
    return [words for words in paragraphs if words.startswith("fedmarket ")]


EXAMPLES = [(name, words) for name, command in COMMANDS.items() for words in examples_of(command)]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_description_and_an_example_of_itself(name: str):
    command = COMMANDS[name]
    assert (command.help or "").split("\n")[0].endswith((".", "?"))
    assert any(words.startswith(f"{name} ") for words in examples_of(command)), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_each_example(fedmarket, name: str, monkeypatch: pytest.MonkeyPatch):
    ran = fedmarket(*name.split()[1:], "--help")
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert all(words in said for words in examples_of(COMMANDS[name]))


@pytest.mark.parametrize(("name", "words"), EXAMPLES, ids=[words for _, words in EXAMPLES])
def test_each_example_can_be_typed(name: str, words: str):
    """Parsed by the command's own parser, which knows its options, how many values they take, and of which kind."""
    command, parsed = COMMAND, shlex.split(words)[1:]
    while isinstance(command, click.Group):
        context = command.make_context(command.name, list(parsed), resilient_parsing=True)
        _, command, parsed = command.resolve_command(context, parsed)
    command.make_context(command.name, parsed)


@pytest.mark.parametrize(("name", "words"), EXAMPLES, ids=[words for _, words in EXAMPLES])
def test_what_an_example_reads_of_a_checkout_is_there(name: str, words: str):
    for path in re.findall(r"experiments/\S+", words):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("words", sorted(QUICK))
def test_quick_examples_run(fedmarket, monkeypatch: pytest.MonkeyPatch, words: str):
    assert words in {one for _, one in EXAMPLES}
    monkeypatch.chdir(ROOT)
    ran = fedmarket(*shlex.split(words)[1:])
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_and_argument_says_what_it_is(name: str):
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{name}: {parameter.name}"


def error_types(root: type[errors.FedmarketError]) -> Iterator[type[errors.FedmarketError]]:
    yield root
    for inner in root.__subclasses__():
        yield from error_types(inner)


def test_the_exit_codes_are_in_the_help_and_no_error_has_another(fedmarket):
    said = " ".join(fedmarket("--help").out.split())
    assert all(f"{code}: {words}." in said for code, words in EXIT_CODES.items())
    assert {kind.exit_code for kind in error_types(errors.FedmarketError)} == {1, 2}
    assert set(EXIT_CODES) == {0, 1, 2, 130, 143}


@pytest.mark.parametrize("name", ["verify", "attack", "check", "budget plan", "party preflight"])
def test_a_command_whose_code_is_a_finding_says_so(name: str):
    assert "nds with" in " ".join((COMMANDS[f"fedmarket {name}"].help or "").split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["simulat"], "No such command 'simulat'. Did you mean 'simulate'? (see fedmarket --help)"),
        (["budget", "shwo"], "No such command 'shwo'. Did you mean 'show'? (see fedmarket budget --help)"),
        (["check", "--contarct", "x"], "--contract"),
        (["simulate", "x", "--opne"], "--open"),
        (["verify"], "Missing argument 'BUNDLE'. (see fedmarket verify --help)"),
    ],
)
def test_a_word_that_is_nearly_right_is_answered_with_the_right_one(fedmarket, words: list[str], said: str):
    ran = fedmarket(*words)
    assert said in ran.error
    assert ran.code == 2
