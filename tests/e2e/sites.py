"""A cluster of three nodes on this machine, each a user's own: a server and two hospitals."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedkim_ray.data.demo.tiny import CLIENTS, write_tiny_root

BIN = Path(sys.executable).parent
SERVER = "server"
APART = os.geteuid() == 0
"""Only root can start processes as other users; elsewhere all nodes are this user's."""
USER_IDS = {name: 61001 + k for k, name in enumerate((SERVER, *CLIENTS))}
PASSED = reversed(Path(sys.base_prefix).parents)
CLOSED = next((path for path in PASSED if not path.stat().st_mode & 1), None)
"""The first folder on the way to Python that other users may not pass: root's home, where Python
lies in it."""
SEEN_BY_ALL = """
mount --bind "$1" "$2"
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir -p "$3"
mount --bind "$2${3#"$1"}" "$3"
shift 3
exec "$@"
"""
"""In a mount namespace of one's own: an empty folder in place of $1, and in it $3 alone."""


@dataclass
class Sites:
    """The cluster's folder, its processes, and how to run a command as one of its users."""

    folder: Path
    port: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data root."""
        return self.folder / "data"

    def start(self, name: str) -> None:
        """Start a node; a hospital's bears its name as a label and has room for its client."""
        where = f"--address=127.0.0.1:{self.port}"
        if name == SERVER:
            where = f"--head --port={self.port} --include-dashboard=false --num-cpus=2"
        else:
            where += f" --labels=site={name} --num-cpus=1"
        command = [BIN / "ray", "start", "--block", *where.split(), "--disable-usage-stats"]
        command += ["--object-store-memory=150000000", f"--temp-dir={self.folder / name / 'ray'}"]
        self.nodes[name] = self.popen(name, command)

    def wait_for(self, name: str) -> None:
        """Wait until a node has joined."""
        deadline = time.monotonic() + 120.0
        while "Ray runtime started" not in self.said(name):
            assert self.nodes[name].poll() is None, self.said(name)
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.1)

    def lose(self, name: str) -> None:
        """Kill every process of a node."""
        os.killpg(self.nodes[name].pid, signal.SIGKILL)
        self.nodes.pop(name).wait()

    def popen(self, user: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Start a command as one of the users; what it says goes to ``said.txt`` in its home."""
        home = self.folder / user
        environment = os.environ | {
            "HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }
        if command[0] == BIN / "ray":
            del environment["RAY_ADDRESS"]
        with (home / "said.txt").open("ab") as said:
            return subprocess.Popen(
                self._as(user, command),
                env=environment,
                cwd=home,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def said(self, user: str) -> str:
        """Return what a user's processes said."""
        return (self.folder / user / "said.txt").read_text()

    def _as(self, user: str, command: Sequence[str | Path]) -> list[str]:
        words = [str(word) for word in command]
        if not APART:
            return words
        number = str(USER_IDS[user])
        words = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups", *words]
        if CLOSED is None:
            return words
        seen = [str(CLOSED), str(self.folder / "closed"), sys.base_prefix]
        return ["unshare", "--mount", "sh", "-ec", SEEN_BY_ALL, "sh", *seen, *words]

    def close(self) -> None:
        """End every node and remove the folder."""
        for process in self.nodes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def three_sites(folder: Path) -> Iterator[Sites]:
    """Write synthetic data, each hospital's readable by its own user alone, and start the nodes.

    Args:
        folder: An empty folder with a short path (sockets lie in it) that all users may pass.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sites = Sites(folder, free.getsockname()[1])
    write_tiny_root(str(sites.data))
    homes = {name: folder / name for name in USER_IDS}
    (folder / "closed").mkdir()
    for name, home in homes.items():
        home.mkdir()
        _give(home, name)
    for client in CLIENTS:
        _give(sites.data / "clients" / client, client)
    try:
        for name in USER_IDS:
            sites.start(name)
        for name in USER_IDS:
            sites.wait_for(name)
        yield sites
    finally:
        sites.close()


def _give(folder: Path, user: str) -> None:
    """Make a folder a user's own, and close it to all others."""
    if APART:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER_IDS[user], USER_IDS[user])
    folder.chmod(0o700)
