"""What secure aggregation costs: ``python benchmarks/secagg.py``, beside Flower's own SecAgg+ functions.

Prints a table and writes JSON. Ratios within one run mean something; milliseconds are this machine's. Both sides do the
same work in the same process: one client's keys, shares and masking with every other party, and the server's sum with
nobody and with a third dropped. Flower's side is its functions as its modules call them, on the complete graph.
"""

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket.aggregation.secagg import party
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.secagg.suite import verified
from fedmarket.aggregation.steps import SECURE
from fedmarket.federation.identity import new_identity
from fedmarket.federation.roster import Member, new_roster

CLOCK = time.perf_counter

HEAD = """\
Milliseconds. "third": a third dropped after sharing. "up": bytes beside the vector. Flower's server: an estimate.
              |         one client      |           server          |  bytes of one client  |        Flower 1.41
              |  keys +         consent |                     third |    up     up          |           mask       third
   n   length |  shares    mask  unmask |   checks   unmask    gone | whole  third     down |   share   mask ratio  in s
"""


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return milliseconds and result; nobody profits from signatures that another party has checked."""
    verified.cache_clear()
    start = CLOCK()
    result = act()
    return (CLOCK() - start) * 1e3, result


def our_round(members: int, length: int, *, drop: bool) -> dict[str, Any]:
    """Return the costs of one whole round: medians over clients of each step, the server's sum, bytes of one client."""
    identities = {f"party-{i:03d}": new_identity() for i in range(members)}
    roster = new_roster(Member(name=name, public_key=each.public_key) for name, each in identities.items())
    context = RoundContext(
        run=bytes(16),
        round_number=0,
        phase="update",
        length=length,
        modulus_bits=32,
        terms_hash=bytes(32),
        inputs=bytes(32),
        roster=roster,
    )
    kept = members - min(members - roster.threshold, members // 3) if drop else members
    words = np.random.default_rng(0).integers(0, 2**32, length, dtype=np.uint32)
    server, states = SecureSum(context), {}
    client: dict[str, list[float]] = {step: [] for step in SECURE}
    check, up, down = 0.0, 0, 0
    for step in SECURE:
        start = CLOCK()
        outgoing = server.outgoing(step)
        check += CLOCK() - start
        for name in list(outgoing)[: kept if step == "mask" else None]:
            incoming = outgoing[name]
            start = CLOCK()
            if step == "advertise":
                states[name], message = party.advertise(context, identities[name])
            elif step == "mask":
                states[name], message = party.mask(states[name], incoming, words)
            else:
                states[name], message = getattr(party, step)(states[name], incoming)
            middle = CLOCK()
            server.receive(step, name, message)
            check += CLOCK() - middle
            client[step].append((middle - start) * 1e3)
            if name == "party-000":
                up, down = up + len(message), down + len(incoming)
        start = CLOCK()
        server.close(step)
        check += CLOCK() - start
    unmask, total = timed(server.total)
    if not np.array_equal(total, words * np.uint32(kept)):
        raise SystemExit("the total is wrong")
    return {
        "dropped": members - kept,
        "client_ms": {step: float(np.median(each)) for step, each in client.items()},
        "server_checks_ms": check * 1e3,
        "server_unmask_ms": unmask,
        "bytes_up": up,
        "bytes_up_beside_vector": up - 4 * length,
        "bytes_down": down,
    }


def flowers_client(members: int, length: int, threshold: int) -> dict[str, float]:
    """Return what one client's keys and shares, and its masking, take with Flower's functions."""
    from flwr.common.secure_aggregation.crypto.shamir import create_shares  # noqa: PLC0415
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key  # noqa: PLC0415
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (  # noqa: PLC0415
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import (  # noqa: PLC0415
        pseudo_rand_gen,
        share_keys_plaintext_concat,
    )
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes  # noqa: PLC0415

    others = [generate_key_pairs()[1] for _ in range(members - 1)]
    words = [np.random.default_rng(0).integers(0, 2**32, length, dtype=np.int64)]

    def share() -> list[bytes]:
        secret = generate_key_pairs()[0]
        keys = [generate_shared_key(secret, other) for other in others]
        of_seed = create_shares(bytes(range(32)), threshold, members)
        of_key = create_shares(private_key_to_bytes(secret), threshold, members)
        for place, key in enumerate(keys):
            encrypt(key, share_keys_plaintext_concat(0, place, of_seed[place], of_key[place]))
        return keys

    share_ms, keys = timed(share)

    def mask() -> Any:
        masked = parameters_addition(words, pseudo_rand_gen(bytes(range(32)), 2**32, [(length,)]))
        for place, key in enumerate(keys):
            apply = parameters_addition if place % 2 else parameters_subtraction
            masked = apply(masked, pseudo_rand_gen(key, 2**32, [(length,)]))
        return parameters_mod(masked, 2**32)

    mask_ms, masked = timed(mask)
    return {"share_ms": share_ms, "mask_ms": mask_ms, "bytes_up_vector": float(masked[0].nbytes)}


def flowers_mask(length: int) -> float:
    """Return milliseconds of generating and removing one mask, of which a server with drop-outs does very many."""
    from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_subtraction  # noqa: PLC0415
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen  # noqa: PLC0415

    vector = [np.zeros(length, dtype=np.int64)]
    return min(
        timed(lambda: parameters_subtraction(vector, pseudo_rand_gen(b"k" * 44, 2**32, [(length,)])))[0]
        for _ in range(3)
    )


def compare(members: int, length: int) -> dict[str, Any]:
    """Return one line of the table."""
    gc.collect()
    whole, third = (our_round(members, length, drop=drop) for drop in (False, True))
    result: dict[str, Any] = {"members": members, "length": length, "whole": whole, "third": third}
    try:
        result["flower"] = flowers_client(members, length, 2 * members // 3 + 1)
    except ImportError as error:
        result["flower_missing"] = str(error)
        return result
    one, gone = flowers_mask(length), third["dropped"]
    kept = members - gone
    # Estimated from one mask, as the real thing takes minutes: self-masks of the kept, pair masks of the gone.
    result["flower"] |= {
        "server_whole_estimated_ms": one * members,
        "server_third_estimated_ms": one * (kept + kept * gone),
    }
    return result


def line(one: dict[str, Any]) -> str:
    """Return a line of the table."""
    whole, third, flower = one["whole"], one["third"], one.get("flower")
    ours = whole["client_ms"]
    shown = (
        f"{one['members']:4d} {one['length']:8d} |{ours['advertise'] + ours['share']:8.1f}{ours['mask']:8.1f}"
        f"{ours['consent'] + ours['unmask']:8.1f} |{whole['server_checks_ms']:9.1f}{whole['server_unmask_ms']:9.1f}"
        f"{third['server_unmask_ms']:9.1f} |{whole['bytes_up_beside_vector']:7d}{third['bytes_up_beside_vector']:7d}"
        f"{whole['bytes_down']:8d} |"
    )
    if flower is None:
        return shown
    return shown + (
        f"{flower['share_ms']:9.1f}{flower['mask_ms']:9.1f}{flower['mask_ms'] / ours['mask']:6.1f}x"
        f"{flower['server_third_estimated_ms'] / 1e3:9.1f}"
    )


def main() -> None:
    """Run what the options choose."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--members", type=int, nargs="+", default=[4, 10, 50, 100])
    options.add_argument("--lengths", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--output", type=Path, default=Path("runs/benchmark-secagg.json"))
    chosen = options.parse_args()
    print(HEAD, flush=True)
    results = []
    for members in chosen.members:
        for length in chosen.lengths:
            results.append(compare(members, length))
            print(line(results[-1]), flush=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "numpy": np.__version__}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
