"""Which code ran: the version, and one hash over every file of the installed package."""

import hashlib
from functools import lru_cache
from pathlib import Path

import fedmarket
from fedmarket.files import sha256_of
from fedmarket.ledger.entries import Code


@lru_cache(maxsize=1)
def installed_code() -> Code:
    """Return what an entry says of the code that is running; see :func:`code_hash`."""
    return Code(version=fedmarket.__version__, hash=code_hash(Path(fedmarket.__file__).parent))


def code_hash(folder: Path) -> str:
    r"""Return SHA-256 over a line ``HASH  PATH`` for each file in ``folder``, sorted by path, without bytecode.

    It is what ``find . -type f ! -path '*__pycache__*' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum`` pipes
    into ``sha256sum``, so that nobody needs this code to check it.
    """
    digest = hashlib.sha256()
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(names, key=str.encode):
        if "__pycache__" not in name:
            digest.update(f"{sha256_of((folder / name).read_bytes())}  {name}\n".encode())
    return digest.hexdigest()
