"""The SuperLink's control interface, with the operator's token: nodes are registered, runs are started and watched."""

import base64
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_ssh_public_key, ssh_key_fingerprint
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext

from fedmarket.errors import ConfigError, UsageError
from fedmarket.files import sha256_of
from fedmarket.flower.guarded import read_token

RunConfig = dict[str, bool | float | int | str]

_TAKEN = (httpx.codes.CONFLICT, httpx.codes.PRECONDITION_FAILED, httpx.codes.BAD_REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where Flower says that a run is: its status, how it finished, and why."""

    status: str
    sub_status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether nothing happens any more."""
        return self.status == "finished"

    @property
    def completed(self) -> bool:
        """Whether it finished as it should."""
        return self.sub_status == "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKey:
    """A SuperNode's public key.

    Attributes:
        content: as Flower has it.
        fingerprint: as ``ssh-keygen -l`` shows it to the partner who made the key.
    """

    content: bytes
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the key in a file of OpenSSH's form.

        Raises:
            ConfigError: if the file holds no key that Flower takes.
        """
        try:
            key = load_ssh_public_key(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(f"{path}: expected a public key in OpenSSH's form") from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ConfigError(f"{path}: expected an ECDSA key of a NIST curve")
        digest = base64.b64encode(ssh_key_fingerprint(key, SHA256())).decode().rstrip("=")
        return cls(content=public_key_to_bytes(key), fingerprint=f"SHA256:{digest}")


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)


class Unreachable(UsageError):
    """The SuperLink does not answer."""


class Control:
    """An open connection; see :meth:`of`."""

    def __init__(self, client: ControlHttpClient, address: str) -> None:
        """Use :meth:`of`."""
        self._client, self._address = client, address

    @classmethod
    def of(cls, address: str, *, ca: Path, token: Path) -> Self:
        """Return a connection to the SuperLink at ``address``, with the files of its authority and of the token.

        Raises:
            ConfigError: if one of them cannot be read.
        """
        try:
            root = ca.read_bytes()
        except OSError as error:
            raise ConfigError(f"{ca}: cannot be read ({error.strerror or error})") from None
        version = RuntimeVersionHttpInterceptor(component_name="fedmarket")
        interceptors: list[ProtobufClientInterceptor] = [version, _Bearer(read_token(token))]
        client = ControlHttpClient.from_server_address(
            address, insecure=False, root_certificates=root, interceptors=interceptors
        )
        return cls(client, address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def healthy(self) -> bool:
        """Return whether the SuperLink answers.

        Raises:
            UsageError: if what answers does not take the token: it is another one.
        """
        try:
            self._client.ListNodes(ListNodesRequest())
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                raise _said(error) from None
            return False
        except httpx.HTTPError:
            return False
        return True

    def register(self, key: NodeKey, *, name: str) -> bool:
        """Let the SuperNode with this key connect, under this name; return whether it is new."""
        request = RegisterNodeRequest(public_key=key.content, name=name)
        try:
            self._client.RegisterNode(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _TAKEN and "already" in error.response.text.lower():
                return False
            raise _said(error) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        return True

    def node_numbers(self) -> dict[bytes, int]:
        """Return Flower's number of each SuperNode that may connect, by its key's content."""
        try:
            listed = self._client.ListNodes(ListNodesRequest()).nodes_info
        except httpx.HTTPStatusError as error:
            raise _said(error) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        return {bytes(node.public_key): int(node.node_id) for node in listed if not node.HasField("unregistered_at")}

    def start(self, app: Path, config: RunConfig) -> int:
        """Start a run of the project in ``app`` and return Flower's number of it.

        Raises:
            UsageError: if there is no project, or the SuperLink does not start it.
        """
        try:
            content = build_fab_from_disk(app)
        except Exception as error:  # Flower raises its own kinds, and a shell's
            raise UsageError(f"{app}: cannot be shipped as an app ({error})") from None
        fab = Fab(sha256_of(content), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(config))
        try:
            answer = self._client.StartRun(request)
        except httpx.HTTPStatusError as error:
            raise _said(error) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if not answer.HasField("run_id"):
            raise UsageError("the SuperLink did not start the run; see its log")
        return int(answer.run_id)

    def status(self, run: int) -> RunStatus:
        """Return where a run is.

        Raises:
            Unreachable: if the SuperLink does not answer.
            UsageError: if it knows no such run.
        """
        try:
            found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        except httpx.HTTPStatusError as error:
            raise _said(error) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if run not in found:
            raise UsageError(f"run {run}: the SuperLink knows no such run")
        status = found[run].status
        return RunStatus(status=status.status, sub_status=status.sub_status, details=status.details)

    def stop(self, run: int) -> None:
        """Stop a run."""
        try:
            self._client.StopRun(StopRunRequest(run_id=run))
        except httpx.HTTPStatusError as error:
            raise _said(error) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        return Unreachable(f"the SuperLink at {self._address} does not answer ({type(error).__name__}); is it started?")


def _said(error: httpx.HTTPStatusError) -> UsageError:
    said = " ".join(error.response.text.split())[:300]
    return UsageError(f"the SuperLink refused ({error.response.status_code}): {said}")
