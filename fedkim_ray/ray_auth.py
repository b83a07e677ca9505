"""Ray's token authentication, as the project's clients meet it.

``ray start`` turns authentication on by itself where the user has a token, and Ray's own clients
send that token only where ``RAY_AUTH_MODE=token`` is exported: a fresh shell gets status 401.
"""

import os
from pathlib import Path

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def default_token_path() -> Path:
    """Return where Ray keeps a user's token."""
    return Path.home() / ".ray" / "auth_token"


def has_token() -> bool:
    """Return whether this user has a token, by variable or in the home."""
    return any(os.environ.get(name) for name in TOKEN_VARIABLES) or default_token_path().is_file()


def send_token_if_there_is_one() -> bool:
    """Turn on token authentication for this process, unless the user has chosen a mode.

    Call it before Ray is imported: Ray reads the mode once. A head without authentication takes
    requests about jobs all the same, and starts no actor of a driver that sends a token.

    Returns:
        Whether requests carry a token.
    """
    if AUTH_MODE not in os.environ and has_token():
        os.environ[AUTH_MODE] = "token"
    return os.environ.get(AUTH_MODE, "").lower() == "token"
