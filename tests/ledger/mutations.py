"""Ways to tamper with a valid bundle, each with what a report must name; run by path (``runpy``) from the test.

A way takes a seeded generator and returns the files after it.
"""

import base64
import json
import re
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedmarket.files import sha256_of
from fedmarket.ledger.canonical import canonical
from fedmarket.ledger.envelope import read_envelope, seal

MADE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))
STRANGER = MADE["identity_of"]("stranger")


@cache
def market():
    return MADE["whole"]()


@cache
def files():
    return market().bundle().files()


@dataclass(frozen=True)
class Mutation:
    """What was done, the files after it, and what a report must name: patterns, one of them in one line."""

    label: str
    files: dict
    where: tuple


def lines_of(name):
    return files()[name].split(b"\n")[:-1]


def with_lines(name, lines):
    return files() | {name: b"".join(line + b"\n" for line in lines)}


def at_entry(party, sequence):
    name = re.escape(market().names[party])
    return (rf"party {name}, (log )?entry {sequence}\b", rf"ledger-{party}\.jsonl: line {sequence + 1} ")


def at_log(place):
    there = at_entry(*owner_of(place)) if place < len(market().log) else ()
    return (rf"log entry {place}\b", rf"log\.jsonl: line {place + 1} ", *there)


def owner_of(place):
    """Return party and number of an entry of the log."""
    envelope = market().log[place]
    return next((party.place, party.envelopes.index(envelope)) for party in market().parties
                if envelope in party.envelopes)  # fmt: skip


def first_checkpoint_over(place):
    sizes = [int(note.split(b"\n")[1]) for note in market().checkpoints]
    return (rf"checkpoint-{next(n for n, size in enumerate(sizes) if size > place)}\.note",)


def at_byte(name, offset):
    line = files()[name].count(b"\n", 0, offset)
    if name.startswith("ledger"):
        return at_entry(int(name[7]), line)
    if name.startswith("log"):
        return at_log(line)
    return ("manifest",) if name.startswith("manifest") else (re.escape(name),)


def any_entry(draw):
    party = draw.choice(market().parties)
    return party, draw.randrange(len(party.envelopes))


def changed_line(party, sequence, line):
    """Return the files with an entry replaced, in the ledger and in the log."""
    old = party.envelopes[sequence]
    ledger = [line if each == old else each for each in party.envelopes]
    log = [line if each == old else each for each in market().log]
    return with_lines(f"ledger-{party.place}.jsonl", ledger) | {"log.jsonl": with_lines("log.jsonl", log)["log.jsonl"]}


def flipped(draw):
    name = draw.choice(sorted(files()))
    content = bytearray(files()[name])
    offset = draw.randrange(len(content))
    content[offset] ^= 1 << draw.randrange(8)
    return Mutation(f"bit of {name}", files() | {name: bytes(content)}, at_byte(name, offset))


def dropped(draw):
    party, sequence = any_entry(draw)
    ledger = list(party.envelopes)
    gone = ledger.pop(sequence)
    made = with_lines(f"ledger-{party.place}.jsonl", ledger)
    if draw.random() < 0.5:
        made["log.jsonl"] = with_lines("log.jsonl", [each for each in market().log if each != gone])["log.jsonl"]
        over = first_checkpoint_over(market().log.index(gone)) if sequence == len(ledger) else ()
        return Mutation("entry dropped everywhere", made, (*at_entry(party.place, sequence), *over))
    return Mutation("entry dropped from the ledger", made, at_entry(party.place, sequence))


def dropped_from_log(draw):
    log = list(market().log)
    place = draw.randrange(len(log))
    log.pop(place)
    return Mutation("entry dropped from the log", with_lines("log.jsonl", log), at_log(place))


def swapped(draw):
    party, sequence = any_entry(draw)
    sequence = min(sequence, len(party.envelopes) - 2)
    ledger = list(party.envelopes)
    ledger[sequence], ledger[sequence + 1] = ledger[sequence + 1], ledger[sequence]
    return Mutation("entries swapped", with_lines(f"ledger-{party.place}.jsonl", ledger),
                    at_entry(party.place, sequence))  # fmt: skip


def swapped_in_log(draw):
    log = list(market().log)
    place = draw.randrange(len(log) - 1)
    log[place], log[place + 1] = log[place + 1], log[place]
    return Mutation("log swapped", with_lines("log.jsonl", log), (*at_log(place), *first_checkpoint_over(place)))


def truncated(draw):
    name = draw.choice([name for name in sorted(files()) if name.endswith(("jsonl", "note"))])
    size = draw.randrange(len(files()[name]))
    made = files() | {name: files()[name][:size]}
    return Mutation(f"{name} cut", made, at_byte(name, size))


def cut_at_a_line(draw):
    party, sequence = any_entry(draw)
    made = with_lines(f"ledger-{party.place}.jsonl", party.envelopes[:sequence])
    return Mutation("ledger cut", made, at_entry(party.place, sequence))


def replayed(draw):
    party, sequence = any_entry(draw)
    after = draw.randrange(sequence + 1, len(party.envelopes) + 1)
    ledger = [*party.envelopes[:after], party.envelopes[sequence], *party.envelopes[after:]]
    return Mutation("entry replayed", with_lines(f"ledger-{party.place}.jsonl", ledger),
                    at_entry(party.place, after))  # fmt: skip


def replayed_in_log(draw):
    log = list(market().log)
    place = draw.randrange(len(log))
    after = draw.randrange(place + 1, len(log) + 1)
    log.insert(after, log[place])
    return Mutation("log replayed", with_lines("log.jsonl", log), (rf"log entry {after}\b",))


def old_checkpoint(draw):
    notes = len(market().checkpoints)
    new = draw.randrange(1, notes)
    old = draw.randrange(new)
    made = files() | {f"checkpoint-{new}.note": market().checkpoints[old]}
    return Mutation("checkpoint replayed", made, (rf"checkpoint-{new}\.note",))


def resigned(draw):
    party, sequence = any_entry(draw)
    line = seal(read_envelope(party.envelopes[sequence]).payload, STRANGER)
    return Mutation("entry of another key", changed_line(party, sequence, line), at_entry(party.place, sequence))


def other_signature(draw):
    party, sequence = any_entry(draw)
    document = json.loads(party.envelopes[sequence])
    other = json.loads(party.envelopes[(sequence + 1) % len(party.envelopes)])
    document["signatures"][0]["sig"] = other["signatures"][0]["sig"]
    return Mutation("signature of another entry", changed_line(party, sequence, canonical(document)),
                    at_entry(party.place, sequence))  # fmt: skip


def own_payload(party, sequence, payload):
    """Return the files with a payload that the party itself signed."""
    return changed_line(party, sequence, seal(payload, party.signer))


def chained(draw):
    """Change a number, and put the new hash into the next entry, whose signature is then stale."""
    party, sequence = any_entry(draw)
    sequence = min(sequence, len(party.envelopes) - 2)
    payload = json.loads(read_envelope(party.envelopes[sequence]).payload)
    payload["time"] = "2026-03-03T03:03:03Z"
    document = json.loads(party.envelopes[sequence])
    document["payload"] = base64.b64encode(canonical(payload)).decode()
    ledger = list(party.envelopes)
    ledger[sequence] = canonical(document)
    after = json.loads(read_envelope(ledger[sequence + 1]).payload) | {"previous": sha256_of(ledger[sequence])}
    document = json.loads(ledger[sequence + 1])
    document["payload"] = base64.b64encode(canonical(after)).decode()
    ledger[sequence + 1] = canonical(document)
    return Mutation("recomputed hash", with_lines(f"ledger-{party.place}.jsonl", ledger),
                    at_entry(party.place, sequence))  # fmt: skip


def reencoded(draw):
    """Say the same number in another form; the party itself signs it."""
    party, sequence = any_entry(draw)
    payload = read_envelope(party.envelopes[sequence]).payload
    forms = [(rb'"sequence":(\d+)', form) for form in (rb'"sequence":\1.0', rb'"sequence":0\1', rb'"sequence":\1e0',
             rb'"sequence":"\1"', rb'"sequence": \1', rb'"sequence":-\1', rb'"sequence":1\1')]  # fmt: skip
    forms += [(rb'"(\d+)\.(\d+)"', form) for form in (rb'"\1.\g<2>0"', rb'\1.\2', rb'"0\1.\2"', rb'"+\1.\2"',
              rb'"\1,\2"', rb'"\1.\2 "', rb'"NaN"', rb'"-\1.\2"')]  # fmt: skip
    pattern, form = draw.choice([each for each in forms if re.search(each[0], payload)])
    return Mutation("number in another form", own_payload(party, sequence, re.sub(pattern, form, payload, count=1)),
                    at_entry(party.place, sequence))  # fmt: skip


def unicode_trick(draw):
    party, sequence = any_entry(draw)
    payload = read_envelope(party.envelopes[sequence]).payload.decode()
    name = party.name
    trick = draw.choice([
        name.replace("a", "\u0430"), name + "\u200b", name + "\u202e", "\ufeff" + name, name.replace(" ", "\u00a0"),
        name + " ", name.replace("n", "n\u0303"), name.upper(), name + "\\u0000", name.replace("a", "\\u0061"),
        name + "\ud800", name + "\\ud800", name + "\n", name.replace(" ", "  "),
    ])  # fmt: skip
    trick = name + "\u2028" if trick == name else trick
    payload = payload.replace(name, trick).encode("utf-8", "surrogatepass")
    return Mutation("Unicode", own_payload(party, sequence, payload), at_entry(party.place, sequence))


def twice(draw):
    party, sequence = any_entry(draw)
    payload = read_envelope(party.envelopes[sequence]).payload
    key = draw.choice([b'"format":"fedmarket-ledger/1",', b'"kind":"opened",', b'"party":"Nobody",', b'"extra":1,'])
    place = draw.choice([1, payload.index(b'"sequence"')])
    made = payload[:place] + key + payload[place:]
    return Mutation("a key twice", own_payload(party, sequence, made), at_entry(party.place, sequence))


def huge(draw):
    party, sequence = any_entry(draw)
    lines = [b"[" * 90_000, b"1" * 80_000, b"{" + b'"a":' * 20_000, b"x" * 5_000_000, b'"' + b"\\u0041" * 10_000 + b'"',
             b"\0" * 1000, b"\xff" * 1000, b"", b" ", b"{}", b"null", b"-0", b"1e999999"]  # fmt: skip
    content = draw.choice(lines)
    if draw.random() < 0.5 and len(content) <= 65536:
        return Mutation("huge payload", own_payload(party, sequence, content), at_entry(party.place, sequence))
    return Mutation("huge line", changed_line(party, sequence, content), at_entry(party.place, sequence))


def huge_file(draw):
    name, content = draw.choice([
        ("manifest.json", b" " * (1 << 21)), ("checkpoint-1.note", b"a\n" * 40_000), ("log.jsonl", b"\n" * 300_000),
        ("ledger-2.jsonl", b"\n" * 300_000), ("manifest.json", b"[" * 500_000), ("checkpoint-2.note", b"\xff" * 999),
        ("checkpoint-0.note", b""), ("manifest.json", b""), ("manifest.json", b"\xef\xbb\xbf{}"),
    ])  # fmt: skip
    return Mutation("huge or empty file", files() | {name: content}, (re.escape(name),))


def other_files(draw):
    party = draw.choice(market().parties)
    name = f"ledger-{party.place}.jsonl"
    other = f"ledger-{(party.place + 1) % 4}.jsonl"
    last = f"checkpoint-{len(market().checkpoints) - 1}.note"
    made, where = draw.choice([
        ({key: files()[key] for key in files() if key != name}, re.escape(name)),
        ({key: files()[key] for key in files() if key != "log.jsonl"}, r"log\.jsonl"),
        ({key: files()[key] for key in files() if key != last}, r"log\.jsonl"),
        ({key: files()[key] for key in files() if key != "checkpoint-2.note"}, "checkpoint"),
        ({key: files()[key] for key in files() if not key.startswith("checkpoint")}, "checkpoint"),
        (files() | {name: files()[other], other: files()[name]}, re.escape(name)),
        (files() | {name: files()[other]}, re.escape(name)),
        (files() | {"../manifest.json": b"{}"}, "manifest"),
        (files() | {"ledger-4.jsonl": b""}, "ledger-4"),
        (files() | {"ledger-00.jsonl": b""}, "ledger-00"),
        (files() | {f"checkpoint-{len(market().checkpoints) + 1}.note": b""}, "checkpoint"),
    ])  # fmt: skip
    return Mutation("files", made, (where,))


def manifest_changed(draw):
    known = json.loads(files()["manifest.json"])
    key = draw.choice(
        ["roster_hash", "threshold", "minimum_survivors", "log_key", "auditors", "runs", "parties", "own"]
    )
    runs, parties = known["runs"], known["parties"]
    other = {
        "roster_hash": "0" * 64,
        "threshold": 4,
        "minimum_survivors": 4,
        "log_key": known["log_key"].replace("ledger.example", "ledger.exampIe"),
        "auditors": draw.choice([[], sorted([*known["auditors"], "0" * 64]), ["0" * 64]]),
        "runs": draw.choice([[], [runs[0] | {"assumed_colluders": 0}], [*runs, runs[0] | {"run": "2" * 32}],
                             [runs[0] | {"minimum_survivors": 2}]]),
        "parties": draw.choice([parties[:3], [parties[0] | {"public_key": STRANGER.public_hex}, *parties[1:]],
                                [*parties, {"name": "Ömega", "public_key": STRANGER.public_hex}],
                                [parties[0] | {"name": "Alpha Bänk"}, *parties[1:]]]),
    }  # fmt: skip
    made = known | ({key: other[key]} if key != "own" else {"extra": 1})
    return Mutation(f"manifest {key}", files() | {"manifest.json": canonical(made)}, ("manifest",))


def forked(draw):
    """The log's own key, and fewer parties than a quorum, sign a log with another entry."""
    place = draw.randrange(len(market().log))
    party, _ = owner_of(place)
    payload = json.loads(read_envelope(market().log[place]).payload) | {"time": "2026-03-03T03:03:03Z"}
    log = list(market().log)
    log[place] = seal(canonical(payload), market().parties[party].signer)
    made = with_lines("log.jsonl", log)
    sizes = [int(note.split(b"\n")[1]) for note in market().checkpoints]
    cosigners = draw.choice([2, 4])  # even if all sign the fork, the party's ledger is another
    for number, size in enumerate(sizes):
        if size > place:
            made[f"checkpoint-{number}.note"] = market().checkpoint(log[:size], cosigners=cosigners)
    return Mutation("forked log", made, at_log(place))


def few_cosigners(draw):
    number = draw.randrange(len(market().checkpoints))
    log = market().log[: int(market().checkpoints[number].split(b"\n")[1])]
    made = files() | {f"checkpoint-{number}.note": market().checkpoint(log, cosigners=draw.choice([1, 2]))}
    return Mutation("no quorum", made, (rf"checkpoint-{number}\.note",))


def another_root(draw):
    number = draw.randrange(len(market().checkpoints))
    log = market().log[: int(market().checkpoints[number].split(b"\n")[1])]
    made = files() | {f"checkpoint-{number}.note": market().checkpoint([*log[:-1], b"another"])}
    return Mutation("another root", made, (rf"checkpoint-{number}\.note",))


def dishonest(draw):
    """A party lies and everybody signs: only recomputing tells."""
    party = draw.randrange(4)
    sequence = draw.choice([1, 2, 4, 6, 8, 10])

    def changed(place, number, statement):
        if (place, number) != (party, sequence):
            return statement
        if statement["kind"] == "joined":
            plan = json.loads(json.dumps(statement["plan"]))
            plan["mechanisms"][1]["noise_multiplier"] = "6.5"
            return statement | draw_join(statement, plan)
        figures = [dict(figure) for figure in statement["figures"]]
        said = figures[how % len(figures)]
        said["epsilon"] = str(float(said["epsilon"]) + (1e-5, -1e-5, 0.1)[how % 3])
        return statement | {"figures": figures if how else [statement["figures"][0] | {"accountant": "prv"}]}

    def draw_join(statement, plan):
        return ({"plan": plan}, {"terms_hash": "0" * 64}, {"roster_hash": "0" * 64},
                {"plan": statement["plan"] | {"generator": "seeded-for-tests"}})[how % 4]  # fmt: skip

    how = draw.randrange(12)
    made = MADE["Market"](change=changed, _figures=market()._figures).opened().joined().rounds()
    made.all("released", run=MADE["RUN"], model_hash="0" * 64).logged()
    return Mutation(f"lie {how}", made.bundle().files(), at_entry(party, sequence))


HOW = (
    flipped, flipped, flipped, flipped, dropped, dropped_from_log, swapped, swapped_in_log, truncated, cut_at_a_line,
    replayed, replayed_in_log, old_checkpoint, resigned, other_signature, chained, reencoded, reencoded, unicode_trick,
    unicode_trick, twice, huge, huge_file, other_files, manifest_changed, forked, few_cosigners, another_root,
    dishonest,
)  # fmt: skip
