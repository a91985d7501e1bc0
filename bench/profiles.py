"""AppArmor profiles to measure with: as long as those that people write, and the same for each seed.

Pure. Each is different, every one is taken by the parser, and `hauberk lint` has nothing to say of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

_FOLDERS = (
    "bin",
    "etc",
    "home",
    "opt",
    "run",
    "srv",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/share",
    "var/lib",
    "var/log",
)
_WORDS = (
    "app",
    "cache",
    "config",
    "data",
    "db",
    "node",
    "plugins",
    "python3",
    "secrets",
    "spool",
    "static",
    "web",
)
_ENDS = ("", "/", "/*", "/**", "/*.conf", "/*.{so,so.*}", "/[0-9]*/**", ".{pid,sock}")
_ACCESS = ("r", "r", "rw", "rwk", "mr", "rix", "w")
_DENIED = ("w", "wl", "rwklx")
_CAPABILITIES = (
    "chown",
    "dac_override",
    "fowner",
    "kill",
    "net_bind_service",
    "setgid",
    "setuid",
    "sys_chroot",
)
_ABSTRACTIONS = ("nameservice", "openssl", "ssl_certs", "user-tmp")
_LEAST, _MOST = 15, 60


def profiles(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield names and texts of profiles."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    for number in range(count):
        name = f"bench-{number:05}"
        yield name, _profile(name, dice)


def _profile(name: str, dice: random.Random) -> str:
    included = dice.sample(_ABSTRACTIONS, dice.choice((0, 0, 1, 2)))
    rules = [
        *(f"include <abstractions/{one}>" for one in ("base", *included)),
        "",
        *(f"capability {one}," for one in dice.sample(_CAPABILITIES, dice.randint(1, 5))),
        "network inet stream,",
        "network inet6 stream,",
        "signal (receive) peer=runc,",
        "signal (send, receive) peer=@{profile_name},",
        "",
        *dict.fromkeys(_rule(dice) for _ in range(dice.randint(_LEAST, _MOST))),
        "deny @{PROC}/{kcore,sysrq-trigger} rwkl,",
        "deny mount,",
    ]
    body = "".join(f"  {rule}\n" if rule else "\n" for rule in rules)
    head = f"profile {name} flags=(attach_disconnected,mediate_deleted)"
    return f"include <tunables/global>\n\n{head} {{\n{body}}}\n"


def _rule(dice: random.Random) -> str:
    path = f"/{dice.choice(_FOLDERS)}/{dice.choice(_WORDS)}-{dice.randint(1, 99)}{dice.choice(_ENDS)}"
    if dice.random() < 0.25:
        return f"deny {path} {dice.choice(_DENIED)},"
    return f"{path} {dice.choice(_ACCESS)},"
