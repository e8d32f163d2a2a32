"""What to do when a box cannot be made: the known complaints and their cures."""

APPARMOR = (
    "Ubuntu 23.10 and newer let only programs with an AppArmor profile make user namespaces: give "
    "bwrap one that contains `userns,`, or sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0"
)
IN_CONTAINER = (
    "inside a container, start it with --security-opt seccomp=unconfined (or a profile that allows "
    "unshare and mount); else ask the host's administrator to allow user namespaces"
)
NESTED = (
    "this is a sandbox already, or the machine's namespaces are used up: run openzaya outside of "
    "it, or sysctl -w user.max_user_namespaces=15000"
)
OLD = "this bubblewrap is too old: install version 0.8 or newer"
LIMIT = (
    "boxes inherit the hard limits of whoever starts openzaya: raise that one (ulimit -H, "
    "limits.conf, docker --ulimit), or give programs less in `Limits`"
)
CURES = (
    ("setting up uid map: Permission denied", APPARMOR),
    ("Failed RTM_NEWADDR", APPARMOR),
    ("No permissions to creat", IN_CONTAINER),
    ("namespaces exceeded", NESTED),
    ("Unknown option", OLD),
    ("but the hard limit here is", LIMIT),
)
"""Part of what bubblewrap or the supervisor says, and what helps; the first that fits."""


def remedy(reason: str) -> str:
    """Return what helps where no box starts."""
    return next((cure for complaint, cure in CURES if complaint in reason), IN_CONTAINER)
