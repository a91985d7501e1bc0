"""Makes SecurityProfiles to start from: what `hauberk new` prints. Pure.

Each works as it is, and its comments say what to change. Called by the command of its name.
"""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

from ..crds.models import AppArmor, ProfileSpec, Seccomp, SELinux
from .manifest import manifest
from .syscalls import ENOSYS, NAMESPACES, ORDINARY

_APPARMOR = """\
# what many rules refer to, such as @{{PROC}}
include <tunables/global>

# attach_disconnected: files from outside of the container, such as sockets and volumes, have a path too
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  include <abstractions/base>

  # What is allowed: all that a container may do by default. Whatever no rule allows is denied: put narrower
  # rules in the place of these, such as `/srv/data/** rw,` and `network inet stream,`.
  file,
  network,
  capability,

  # a pod can be stopped: by the node's programs, and by runc and crun, which may have profiles of their own
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  # its own processes see one another
  signal (send, receive) peer=@{{profile_name}},
  ptrace (trace, read, tracedby, readby) peer=@{{profile_name}},

  # What is denied, whatever is allowed above; `audit` logs it.
  deny mount,
  deny @{{PROC}}/{{kcore,keys,sysrq-trigger}} rwkl,
  deny /sys/kernel/security/** rwkl,
  audit deny /{{bin,boot,lib*,sbin,usr}}/** w,
}}
"""
_SELINUX = """\
; pods name the process type {block}.process in seLinuxOptions
(block {block}
    (type process)
    (roletype system_r process)

    ; what every container may do; container_net_domain is the network, mcs_constrained_type keeps pods apart
    (typeattributeset domain (process))
    (typeattributeset container_domain (process))
    (typeattributeset container_net_domain (process))
    (typeattributeset mcs_constrained_type (process))
    ; a name that only some nodes' policies have, in an optional: elsewhere it is left out
    (optional {block}_debian
        (typeattributeset container_system_domain (process)))

    ; the container's own files: its image, its volumes
    (allow process container_file_t (dir (add_name create getattr ioctl lock open read remove_name rename)))
    (allow process container_file_t (dir (reparent rmdir search setattr write)))
    (allow process container_file_t (file (append create getattr ioctl link lock open read rename setattr)))
    (allow process container_file_t (file (execute execute_no_trans map unlink write)))
    (allow process container_file_t (lnk_file (create getattr read rename setattr unlink)))
    (allow process container_file_t (fifo_file (append create getattr open read rename setattr unlink write)))
    (allow process container_file_t (sock_file (append create getattr open read rename setattr unlink write)))
    (allow process container_file_t (chr_file (append getattr ioctl lock map open read write)))
    (allow process proc_t (file (getattr ioctl lock open read)))

    ; what this one may do besides: read the node's logs, in a hostPath of /var/log
    (allow process var_log_t (dir (getattr open read search)))
    (allow process var_log_t (file (getattr ioctl lock map open read)))
)
"""
_HEADS = {
    "AppArmor": """\
# For nodes with AppArmor. Check it with `hauberk lint FILE`, apply it, and wait:
# `kubectl wait --for=condition=Ready secprof/{name}`.
{usage}""",
    "SELinux": """\
# A module in CIL, for nodes with SELinux: docs/how-to/selinux.md goes through one. Try: `hauberk lint FILE`.
{usage}""",
    "Seccomp": """\
# The JSON of the OCI runtime specification: what is not listed fails with EPERM. It holds for containers that
# start once it is Ready; docs/how-to/seccomp.md says more.
{usage}""",
}
_USAGES = {
    "AppArmor": "appArmorProfile: {{type: Localhost, localhostProfile: {name}}}",
    "SELinux": "seLinuxOptions: {{type: {block}.process}}",
    "Seccomp": "seccompProfile: {{type: Localhost, localhostProfile: hauberk/{name}.json}}",
}
_FEET = {
    "AppArmor": """\
    # Complain denies nothing and logs what would be: a way to try it
    # mode: Complain
""",
    "SELinux": """\
    # Permissive denies nothing and logs what would be: a way to try it
    # mode: Permissive
""",
}
_FOOT = """\
  # only on these nodes; without it, on all
  # nodeSelector: {matchLabels: {kubernetes.io/arch: amd64}}
"""


def new(kind: str, name: str, policy: str = "") -> str:
    """Return a SecurityProfile of a type as YAML; `policy`: instead of the one to start from."""
    # within a block's name a dot would be a block in a block
    block = re.sub(r"[^a-z0-9_]", "_", name)
    block = block if block[0].isalpha() else f"c_{block}"
    if kind == "AppArmor":
        spec = ProfileSpec(type=kind, app_armor=AppArmor(policy=policy or _APPARMOR.format(name=name)))
    elif kind == "SELinux":
        spec = ProfileSpec(type=kind, selinux=SELinux(policy=policy or _SELINUX.format(block=block)))
    else:
        spec = ProfileSpec(type=kind, seccomp=Seccomp(policy=policy or _seccomp()))
    # what a given policy defines is its own affair
    usage = f"# Pods name it: securityContext: {{{_USAGES[kind].format(name=name, block=block)}}}\n"
    head = _HEADS[kind].format(name=name, usage="" if policy else usage)
    return head + manifest(name, spec) + _FEET.get(kind, "") + _FOOT


def _seccomp() -> str:
    """Return an OCI profile as JSON that is read well: the names of system calls fill their lines."""
    unshared = {"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules = [_rule(calls.split(), {"action": "SCMP_ACT_ALLOW"}) for calls in ORDINARY.values()]
    rules.append(_rule(["clone"], {"action": "SCMP_ACT_ALLOW", "args": [unshared]}))
    rules.append(_rule(["clone3"], {"action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}))
    return (
        '{\n  "defaultAction": "SCMP_ACT_ERRNO",\n  "defaultErrnoRet": 1,\n'
        '  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],\n'
        '  "syscalls": [\n' + ",\n".join(rules) + "\n  ]\n}\n"
    )


def _rule(calls: list[str], rest: dict[str, Any]) -> str:
    names = textwrap.fill(", ".join(json.dumps(one) for one in calls), 80)
    names = f"\n{textwrap.indent(names, ' ' * 8)}\n      " if len(calls) > 1 else names
    fields = "".join(f',\n      "{key}": {json.dumps(value)}' for key, value in rest.items())
    return f'    {{\n      "names": [{names}]{fields}\n    }}'
