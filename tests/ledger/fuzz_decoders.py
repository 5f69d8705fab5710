"""A coverage-guided fuzzer (atheris) for all that reads strangers' bytes; run by hand, with an environment of its own.

::

    python3.11 -m venv ../fuzzing
    ../fuzzing/bin/pip install atheris --editable . --constraint constraints.txt
    ../fuzzing/bin/python tests/ledger/fuzz_decoders.py TARGET [-max_total_time=60] [FILE or FOLDER of inputs]

TARGET is a key of ``TARGETS``; what starts with a dash is libFuzzer's, and a file is an input to try again. It stops
at the first input that breaks the rule and writes it to the working folder. The rule: only errors of the project
come out, in one line; nothing takes 5 seconds or 2 GiB; what is read is written as the very same bytes; the auditor
always has a verdict, and a good one only of the bundle that is good.

Inputs of ``files``, ``sealed``, ``plan`` and ``merkle`` are not content but choices: what is changed in what is
valid. ``sealed`` and ``plan`` then sign and chain everything again, as a party, the log and all cosigners could.
"""

import base64
import io
import json
import logging
import random
import runpy
import struct
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path

try:
    import atheris
except ImportError:  # pytest looks into this file too, for doctests, and finds nothing
    atheris = None

with atheris.instrument_imports(include=["fedmarket", "tomllib", "zipfile"]) if atheris else nullcontext():
    import zipfile

    from fedmarket.errors import BadMessage, FedmarketError
    from fedmarket.federation.roster import load_roster
    from fedmarket.files import sha256_of
    from fedmarket.ledger.bundle import Bundle, bundle_of, read_bundle, write_bundle
    from fedmarket.ledger.canonical import canonical, read_canonical, real
    from fedmarket.ledger.entries import GENESIS, read_entry
    from fedmarket.ledger.envelope import read_envelope, seal
    from fedmarket.ledger.lines import Lines
    from fedmarket.ledger.merkle import Tree, leaf_hash, need_consistent, need_included
    from fedmarket.ledger.note import VerifierKey, read_checkpoint, read_note
    from fedmarket.ledger.replay import replay
    from fedmarket.ledger.store import is_envelope
    from fedmarket.ledger.verify import verify

DECIMALS = (
    *("0.0", "1.0", "0.1", "0.2", "0.5", "30.0", "0.9999999999999999", "1e-05", "1e-10", "1e-160", "1e-300", "5e-324"),
    *("1e+16", "1e+160", "1.7976931348623157e+308", "9.313225746154785e-10", "inf", "-1.0", "1"),
)
WORDS = (
    "row",
    "update",
    "poisson",
    "all-rows",
    "replace-one",
    "0" * 64,
    "1" * 32,
    "",
    "\0",
    "\n",
    "\x1b[2J",
    "e\u0301",
)
VALUES = (*DECIMALS, *WORDS, None, True, False, 0, 1, 2, -1, 1000, 2**32 - 1, 2**48, 2**53 - 1, [], {}, [[]])
TREE = 40


@cache
def made():
    return runpy.run_path(str(Path(__file__).with_name("bundles.py")))


@cache
def folder():
    return Path(tempfile.mkdtemp(prefix="fuzz-decoders-"))


@cache
def markets():
    """Return whole markets of each way to draw noise, and one with every other kind of entry."""
    found = [made()["whole"](plan=made()["plan_of"](rounds=1, kind=kind)) for kind in ("own", "shared")]
    market = made()["Market"](plan=made()["plan_of"](rounds=1, kind="sampled"))
    market.cap = "1000.0"
    market._figures_of = lambda *_: [{"accountant": "pld", "version": "1", "epsilon": "1.0"}]  # no opacus is needed
    market.__post_init__()
    market.opened().joined().rounds().all("released", run=made()["RUN"], model_hash="a" * 64)
    market.all("withdrawn", model_hash="a" * 64, reason="a customer asked")
    market.all("cap-changed", old="1000.0", new="1001.0", reason="agreed")
    for party in market.parties:
        party.say("data-replaced", old=party.state.data_set, new="b" * 64, overlap=True, reason="another year")
    market.joined("2" * 32).reserved("2" * 32, 0, "update")
    market.all("voided", run="2" * 32, round=0, left=False, reason="too few parties")
    market.all("data-destroyed", data_set="b" * 64, reason="as agreed")
    for party in market.parties:
        party.say("rotated", public_key=made()["identity_of"](f"new {party.name}").public_hex, reason="a new machine")
    return (*found, market.logged())


@cache
def identities():
    names = (*made()["NAMES"], *(f"new {name}" for name in made()["NAMES"]), "server", "auditor")
    return {found.public_hex: found for found in map(made()["identity_of"], names)}


def need(holds, what):
    if not holds:
        raise AssertionError(what)


def need_one_line(text):
    need(text.isprintable(), f"not one printable line: {text!r}")


# Targets that take content.


def of_canonical(content):
    need(canonical(read_canonical(content)) == content, "another form")


def of_envelope(content):
    envelope = read_envelope(content)
    need(envelope.to_bytes() == content, "another form")
    envelope.need_signed_by(bytes.fromhex(next(iter(identities()))))


def of_entry(content):
    need(read_entry(content).payload() == content, "another form")


def of_note(content):
    note = read_note(content)
    need(note.to_bytes() == content, "another form")
    key = VerifierKey.from_text(markets()[0].manifest().log_key)
    with suppress(BadMessage):
        note.need_signed_by(key)
    for reading in (key, *note.signatures[:1]):
        with suppress(BadMessage):
            known = VerifierKey(name=reading.name, public_key=key.public_key, kind=4)
            note.cosigned((key, known))
    need(read_checkpoint(note.text, origin=made()["ORIGIN"]).to_text() == note.text, "another form")


def of_checkpoint(content):
    text = content.decode("utf-8", "surrogateescape")
    need(read_checkpoint(text, origin=made()["ORIGIN"]).to_text() == text, "another form")


def of_key(content):
    text = content.decode("utf-8", "surrogateescape")
    need(str(VerifierKey.from_text(text)) == text, "another form")


def of_manifest(content):
    files = {"manifest.json": content, "log.jsonl": b""}
    bundle = bundle_of(files)
    need(bundle.files() == files, "another form")
    need(not judged(bundle).good, "a good verdict of a manifest alone")


def of_zip(content):
    path = folder() / "bundle.zip"
    path.write_bytes(content)
    bundle = read_bundle(path)
    need(bundle_of(bundle.files()) == bundle, "another form")


def of_lines(content):
    place = folder() / "lines"
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    (place / "log.jsonl").write_bytes(content)
    with Opened(place) as lines:
        torn = lines.torn.read_bytes() if lines.torn else b""
        kept = b"".join(line + b"\n" for line in lines.content)
        need(kept + torn in (content, content + b"\n"), "something is lost")
        found = list(lines.content)
    with Opened(place) as again:
        need(again.content == found and not again.torn, "another content when opened again")


class Opened(Lines):
    """Lines of envelopes that are closed in the end."""

    def __init__(self, place):
        super().__init__(place, "log", whole=is_envelope)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def of_roster(content):
    path = folder() / "roster.toml"
    path.write_bytes(content)
    roster = load_roster(path)
    path.write_text(roster.to_toml(), encoding="utf-8")
    need(load_roster(path) == roster, "another form")


# Targets that take choices.


def of_merkle(content):
    """Proofs made from the true hashes and from made-up ones; with true sizes and roots, only what is true is taken."""
    draw = atheris.FuzzedDataProvider(content)
    leaves = [b"%d" % number for number in range(TREE)]
    tree = Tree(leaves)
    size, index = draw.ConsumeIntInRange(0, TREE), draw.ConsumeIntInRange(-1, TREE)
    if draw.ConsumeBool():
        index = draw.ConsumeInt(8)
    known = [leaf_hash(leaf) for leaf in leaves] + [tree.root(number) for number in range(TREE + 1)]
    known += [*(tree.inclusion(index, size) if 0 <= index < size else []), b"", b"\0" * 32, b"\0" * 33]
    known += tree.consistency(index, size) if 0 <= index <= size else []
    start = tree.inclusion(index, size) if 0 <= index < size and draw.ConsumeBool() else []
    proof = start + [draw.PickValueInList(known) for _ in range(draw.ConsumeIntInRange(0, 8))]
    leaf, root = draw.PickValueInList(known), tree.root(size)
    with suppress(BadMessage):
        need_included(leaf, proof, index=index, size=size, root=root)
        need(leaf == leaf_hash(leaves[index]), "a leaf that is not there")
    if 0 <= index <= size and draw.ConsumeBool():
        proof = tree.consistency(index, size) + proof[: draw.ConsumeIntInRange(0, 2)]
    with suppress(BadMessage):
        need_consistent(proof, old=index, old_root=leaf, size=size, root=root)
        need(leaf == tree.root(index), "a tree that is not continued")
    need_consistent(proof, old=index, old_root=root, size=draw.ConsumeInt(8), root=leaf)


def of_files(content):
    """Any edit of the files, without anybody's key."""
    draw = atheris.FuzzedDataProvider(content)
    whole = Chosen(draw).choice(markets()[:2]).bundle()
    files = dict(whole.files())
    for _ in range(draw.ConsumeIntInRange(1, 4)):
        edit(draw, files)
    bundle = bundle_of(files)
    same = (bundle.manifest, bundle.ledgers, bundle.log) == (whole.manifest, whole.ledgers, whole.log)
    known = set(b"\n".join(whole.checkpoints).split(b"\n"))
    same = same and all(line in known for note in bundle.checkpoints for line in note.split(b"\n"))
    need(not judged(bundle).good or same, "a good verdict of files that were changed")


def edit(draw, files):
    names = sorted(files)
    name = draw.PickValueInList(names) if names else "log.jsonl"
    there = files.get(name, b"")
    at = draw.ConsumeIntInRange(0, len(there))
    lines, other = there.split(b"\n"), files.get(draw.PickValueInList([*names, "none"]), b"").split(b"\n")
    line, from_other = draw.ConsumeIntInRange(0, len(lines) - 1), draw.ConsumeIntInRange(0, len(other) - 1)
    match draw.ConsumeIntInRange(0, 8):
        case 0:
            files[name] = there[:at] + bytes([draw.ConsumeIntInRange(0, 255)]) + there[at + 1 :]
        case 1:
            files[name] = there[:at] + draw.ConsumeBytes(8) + there[at:]
        case 2:
            files[name] = there[:at] + there[at + draw.ConsumeIntInRange(1, 200) :]
        case 3:
            files[name] = b"\n".join([*lines[:line], *lines[line + 1 :]])
        case 4:
            files[name] = b"\n".join([*lines[:line], other[from_other], *lines[line:]])
        case 5:
            files[name] = b"\n".join([*lines[:line], other[from_other], *lines[line + 1 :]])
        case 6:
            files.pop(name, None)
        case 7:
            files[draw.ConsumeUnicode(20)] = there
        case 8:
            with suppress(ValueError):
                document = json.loads(there)
                changed(document, Chosen(draw))
                files[name] = canonical(document)


def of_sealed(content):
    """Any change of entries, signed and chained again by all who have a key: there is a verdict all the same."""
    draw = atheris.FuzzedDataProvider(content)
    market = Chosen(draw).choice(markets())
    said = [[json.loads(read_envelope(line).payload) for line in party.envelopes] for party in market.parties]
    for _ in range(draw.ConsumeIntInRange(1, 4)):
        place, chosen = draw.ConsumeIntInRange(0, len(said) - 1), Chosen(draw)
        number = chosen.randrange(max(1, len(said[place])))
        for each in range(len(said)) if draw.ConsumeBool() else [place]:
            match draw.ConsumeIntInRange(0, 9):
                case 0:
                    del said[each][number:]
                case 1:
                    said[each].insert(number, dict(chosen.choice(chosen.choice(said) or [{}])))
                case _ if said[each]:
                    changed(said[each][number % len(said[each])], chosen)
    ledgers = [chained(entries, party) for entries, party in zip(said, market.parties, strict=True)]
    log = [line for _, line in sorted((number, line) for ledger in ledgers for number, line in enumerate(ledger))]
    bundle = Bundle(
        manifest=market.manifest(),
        ledgers=tuple(map(tuple, ledgers)),
        log=tuple(log),
        checkpoints=(market.checkpoint(log),),
    )
    bundle = bundle_of(bundle.files())
    if judged(bundle).good:
        for ledger in bundle.ledgers:
            replay(ledger)


def of_plan(content):
    """Any numbers of one party's plan and reservations: they are accounted or refused."""
    draw = Chosen(atheris.FuzzedDataProvider(content))
    market = draw.choice(markets())
    said = [json.loads(read_envelope(line).payload) for line in market.parties[0].envelopes]
    plans = [entry["plan"] for entry in said if entry["kind"] == "joined"]
    mechanisms = [mechanism for plan in plans for mechanism in plan["mechanisms"]]
    grids = [mechanism["grid"] for mechanism in mechanisms if mechanism["grid"]]
    reserved = [entry for entry in said if entry["kind"] == "reserved"]
    for _ in range(1 + draw.randrange(6)):
        numbered(draw.choice([said[0], *plans, *mechanisms, *mechanisms, *grids, *reserved]), draw)
    for mechanism in mechanisms:
        mechanism["sampling"] = "all-rows" if mechanism["sample_rate"] == "1.0" else "poisson"
    ledger = tuple(chained(said, market.parties[0]))
    ledgers = (ledger, *[()] * (len(market.parties) - 1))
    need(not judged(Bundle(manifest=market.manifest(), ledgers=ledgers, log=ledger, checkpoints=())).good, "good")


def numbered(document, draw):
    """Put another number of its type in the place of one."""
    key = draw.choice([key for key, value in sorted(document.items()) if type(value) is int or is_decimal(value)])
    if type(document[key]) is int:
        document[key] = draw.choice((0, 1, 2, 3, 1000, 2**20, 2**31, 2**32 - 1, draw.getrandbits(32)))
    else:
        exponent = (draw.randrange(25) - 12) if draw.randrange(4) else (draw.randrange(640) - 330)
        document[key] = draw.choice((*DECIMALS, *[repr(float(f"{1 + draw.getrandbits(16)}e{exponent - 2}"))] * 20))


def chained(entries, party):
    lines, signer = [], party.signer
    for number, said in enumerate(entries):
        previous = sha256_of(lines[-1]) if lines else GENESIS
        lines.append(seal(canonical(said | {"sequence": number, "previous": previous}), signer))
        if said.get("kind") == "rotated":
            signer = identities().get(str(said.get("public_key")), signer)
    return lines


def judged(bundle):
    verdict = verify(bundle)
    for finding in verdict.findings:
        need_one_line(str(finding))
    json.dumps(verdict.to_document(), allow_nan=False)
    return verdict


class Chosen:
    """What of :class:`random.Random` is needed here, from the fuzzer's choices."""

    def __init__(self, draw):
        self.draw = draw

    def randrange(self, stop):
        return self.draw.ConsumeIntInRange(0, stop - 1)

    def choice(self, listed):
        return listed[self.randrange(len(listed))]

    def getrandbits(self, bits):
        return self.draw.ConsumeUInt(bits // 8)


def changed(document, draw):
    """Change one value of a document in place: drop it, or put another one there."""
    parents = list(containers(document))
    keys = [(parent, key) for parent in parents for key in (parent if isinstance(parent, dict) else range(len(parent)))]
    if not keys:
        return
    parent, key = draw.choice(keys)
    match draw.randrange(8):
        case 0:
            del parent[key]
        case 1:
            other, from_key = draw.choice(keys)
            parent[key] = json.loads(json.dumps(other[from_key]))
        case 2 if isinstance(parent, list):
            parent.append(json.loads(json.dumps(parent[key])))
        case 2:
            parent[str(draw.choice(VALUES))] = parent[key]
        case 3:
            (number,) = struct.unpack("<d", draw.getrandbits(64).to_bytes(8, "little"))
            parent[key] = repr(number)
        case 4 if type(parent[key]) is int:
            parent[key] += draw.randrange(5) - 2
        case 4 if is_decimal(parent[key]):
            parent[key] = repr(real(parent[key]) * draw.choice((0.5, 2.0, 0.1, 10.0, 1e-3, 1e3, 1 + 1e-12)))
        case 5:
            parent[key] = draw.choice(DECIMALS)
        case _:
            parent[key] = draw.choice(VALUES)


def is_decimal(value):
    with suppress(FedmarketError):
        return isinstance(value, str) and real(value) is not None
    return False


def containers(value):
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


# What the fuzzer starts from, and how it changes documents.


def payloads():
    lines = {line for market in markets() for party in market.parties[:2] for line in party.envelopes}
    return [read_envelope(line).payload for line in sorted(lines)]


def envelopes():
    return [line for market in markets() for line in market.parties[0].envelopes]


def notes():
    return [note for market in markets() for note in market.checkpoints]


@cache
def zips():
    """Return a whole bundle's zip, stored too, and a small one, which is changed faster."""
    small = {"manifest.json": canonical(markets()[0].manifest().model_dump()), "log.jsonl": b""}
    found = []
    for files, method in ((small, zipfile.ZIP_STORED), (small, zipfile.ZIP_DEFLATED), (small, zipfile.ZIP_LZMA)):
        with io.BytesIO() as whole:
            with zipfile.ZipFile(whole, "w", method) as archive:
                for name, content in files.items():
                    with archive.open(name, "w", force_zip64=len(found) == 1) as member:
                        member.write(content)
            found.append(whole.getvalue())
    path = folder() / "whole.zip"
    write_bundle(markets()[0].bundle(), path)
    return [*found, path.read_bytes()]


def choices():
    draw = random.Random(0)
    return [draw.randbytes(draw.randrange(20, 200)) for _ in range(50)]


def by_document(content, draw):
    """Return the document in ``content`` with one value changed, in its one form."""
    document = json.loads(content)
    changed(document, draw)
    return canonical(document)


def by_envelope(content, draw):
    """Change the payload and sign it, or change what is around it."""
    if draw.randrange(2):
        return seal(by_document(read_envelope(content).payload, draw), draw.choice(list(identities().values())))
    return by_document(content, draw)


def by_line(content, draw):
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, draw.choice(lines))
        case 2:
            lines[place] = by_envelope(lines[place], draw) if lines[place][:1] == b"{" else draw.choice(lines)
        case _:
            text = lines[place].decode().split(" ")
            part = base64.b64decode(text[-1])
            at = draw.randrange(len(part) + 1)
            part = part[:at] + bytes([draw.randrange(256)]) * draw.randrange(3) + part[at + draw.randrange(2) :]
            lines[place] = " ".join([*text[:-1], base64.b64encode(part).decode()]).encode()
    return b"\n".join(lines)


TARGETS = {
    "canonical": (of_canonical, payloads, by_document),
    "envelope": (of_envelope, envelopes, by_envelope),
    "entry": (of_entry, payloads, by_document),
    "note": (of_note, notes, by_line),
    "checkpoint": (of_checkpoint, lambda: [note.split(b"\n\n")[0] + b"\n" for note in notes()], by_line),
    "key": (of_key, lambda: [markets()[0].manifest().log_key.encode()], None),
    "manifest": (of_manifest, lambda: [canonical(one.manifest().model_dump()) for one in markets()], by_document),
    "zip": (of_zip, zips, None),
    "merkle": (of_merkle, choices, None),
    "lines": (of_lines, lambda: [b"".join(line + b"\n" for line in envelopes()[:3]), b"\0\n", b"{}\n"], by_line),
    "roster": (of_roster, lambda: [markets()[0].roster.to_toml().encode()], None),
    "files": (of_files, choices, None),
    "sealed": (of_sealed, choices, None),
    "plan": (of_plan, choices, None),
}
"""What is called with an input, what to begin with, and how an input is changed with its form kept."""


def main():
    if atheris is None or len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected atheris to be installed, and one of {', '.join(TARGETS)}")
    target, seeds, mutated = TARGETS[sys.argv[1]]
    ends: Counter[str] = Counter()

    def tried(content):
        try:
            target(content)
            ends["accepted"] += 1
        except FedmarketError as error:
            need_one_line(str(error))
            ends[type(error).__name__] += 1

    def mutator(content, largest, seed):
        draw = random.Random(seed)
        if mutated and draw.randrange(2):
            with suppress(ValueError, LookupError, FedmarketError):
                return mutated(content, draw)[:largest]
        return atheris.Mutate(content, largest)

    logging.disable()
    corpus = folder() / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
        tried(seed)
    print(f"{sys.argv[1]}: begins with {number + 1} inputs: {dict(ends)}", flush=True)
    known = ["-timeout=5", "-rss_limit_mb=2048", f"-max_len={max(map(len, seeds())) * 2}", *sys.argv[2:]]
    again = any(Path(argument).is_file() for argument in sys.argv[2:])
    atheris.Setup([sys.argv[0], *known, *([] if again else [str(corpus)])], tried, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
