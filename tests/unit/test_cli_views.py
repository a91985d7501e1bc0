"""What the commands that ask a cluster show of its objects, as text in 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hauberk.cli import kubeconfig, tables, views, waiting
from hauberk.cli.differences import Current, clash, content, difference, same
from hauberk.cli.live import app
from hauberk.cli.sources import Source
from hauberk.cli.states import NodeView, Seen, State, on_nodes
from hauberk.crds.errors import ClusterFault, InputFault
from hauberk.crds.facts import facts_key
from hauberk.crds.models import (
    AppArmor,
    AppArmorFacts,
    Condition,
    Content,
    Facts,
    Failure,
    Metadata,
    NodeSelector,
    NodeStatus,
    OperatingSystem,
    Orphan,
    Placement,
    Problem,
    ProfileNode,
    ProfileSpec,
    ProfileStatus,
    Remark,
    Repairs,
    RevisionSpec,
    Runtime,
    Section,
    SecurityProfile,
    SELinuxFacts,
    Summary,
    Template,
    Text,
    Unrendered,
)
from hauberk.crds.reasons import Reason
from hauberk.operator.publish import content_digest
from hauberk.profiles.check import Accepted
from rich.console import Console, RenderableType
from typer.testing import CliRunner

BOOT = "b" * 8
LINUX = {"kubernetes.io/os": "linux"}
POLICY = "profile web {\n  file,\n  deny /tmp/** w,\n}\n"
DEBIAN = Facts(
    os=OperatingSystem(id="debian", version="12"),
    kernel="6.1.0-28-amd64",
    arch="x86_64",
    lsms=["lockdown", "capability", "apparmor"],
    app_armor=AppArmorFacts(features=["file", "signal"], enabled=True, host_parser="3.0"),
    seccomp=True,
    runtime=Runtime(name="containerd", version="1.7.24"),
)
TRIXIE = msgspec.structs.replace(DEBIAN, os=OperatingSystem(id="debian", version="13"), kernel="6.12.1")


def shown(parts: Iterable[RenderableType]) -> str:
    text = tables.written(Console(file=io.StringIO(), width=80), parts)
    assert max((len(line) for line in text.splitlines()), default=0) <= 80
    return text


def node(name: str, *, ready: bool = True, boot: str = BOOT, **labels: str) -> NodeView:
    return NodeView(name, {**LINUX, **labels}, ready, boot)


def report(name: str, held: str = "", facts: Facts = DEBIAN, boot: str = BOOT, **more: object) -> ProfileNode:
    section = Section(profiles={"web": held} if held else {}, **more)  # pyright: ignore[reportArgumentType]
    status = NodeStatus(boot_id=boot, facts=facts, app_armor=section if facts.app_armor.enabled else None)
    return ProfileNode(metadata=Metadata(name=name), status=status)


def seen(*several: NodeView | ProfileNode) -> Seen:
    nodes = {one.name: one for one in several if isinstance(one, NodeView)}
    return Seen(nodes, {one.metadata.name: one for one in several if isinstance(one, ProfileNode)})


def condition(kind: str, status: str, reason: str, message: str, generation: int = 2) -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, observed_generation=generation)


def spec(policy: str = POLICY, **more: object) -> ProfileSpec:
    return ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy), **more)  # pyright: ignore[reportArgumentType]


def profile(
    *conditions: Condition, generation: int = 2, wanted: ProfileSpec | None = None, **more: object
) -> SecurityProfile:
    status = ProfileStatus(
        observed_generation=2,
        revision="1111111111",
        reference={"appArmorProfile": {"type": "Localhost", "localhostProfile": "web"}},
        profiles=["web", "web//sh"],
        summary=Summary(ready="2/3", mode="Enforce", status="NodesFailed", reference="web"),
        conditions=list(conditions),
        **more,  # pyright: ignore[reportArgumentType]
    )
    metadata = Metadata(name="web", uid="u", generation=generation)
    return SecurityProfile(metadata=metadata, spec=wanted or spec(), status=status)


def revision(digest: str = "1111111111", text: str = POLICY, **placement: object) -> RevisionSpec:
    return RevisionSpec(
        profile="web",
        profile_uid="u",
        type="AppArmor",
        contract=1,
        content=Content(digest=digest, mode="Enforce", texts=[Text(id="t", text=text, names=["web"])]),
        placement=Placement(sequence=2, **placement),  # pyright: ignore[reportArgumentType]
    )


HELD = "1111111111/enforce/0123456789"
REFUSES = Problem(
    revision="1111111111",
    reason="HostOwned",
    message="the node has a profile web of its own, which Hauberk did not load; rename yours, remove the "
    "host's, or set spec.adopt",
)
MIXED = seen(
    *(node("cp-1", role="control"), node("worker-1"), node("worker-2"), node("worker-3", ready=False)),
    *(node("worker-4", boot="new"), node("worker-5"), node("worker-6")),
    NodeView("windows", {"kubernetes.io/os": "windows"}, True, BOOT),
    report("cp-1", HELD),
    report("worker-1", HELD),
    report("worker-2", problems={"web": REFUSES}),
    report("worker-3", HELD),
    report("worker-4", HELD),
    report("worker-6", facts=Facts()),
)
FAILED = profile(
    condition("Accepted", "True", "Accepted", "the policy defines 2 profiles"),
    condition("Available", "True", "Verified", "a revision of it is loaded on 2 nodes"),
    condition("Ready", "False", "NodesFailed", f"failed on 1 of 3 nodes: worker-2: {REFUSES.message}"),
    condition("Reconciling", "False", "Settled", "nothing is left to do until something changes"),
    condition("Stalled", "True", "NodesFailed", "failed on 1 of 3 nodes"),
)


def states(
    found: Seen, wanted: RevisionSpec | None = None, told: SecurityProfile = FAILED
) -> dict[str, State]:
    return {one.node: one.state for one in on_nodes(told, wanted or revision(), found)}


def test_the_state_of_each_node():
    wanted = revision(node_selector=NodeSelector(match_labels=LINUX))
    assert states(MIXED, wanted) == {
        "cp-1": State.READY,
        "windows": State.NOT_SELECTED,
        "worker-1": State.READY,
        "worker-2": State.FAILED,
        "worker-3": State.UNREACHABLE,
        "worker-4": State.UPDATING,
        "worker-5": State.UPDATING,
        "worker-6": State.UNSUPPORTED,
    }


@pytest.mark.parametrize(
    ("held", "state"),
    [
        (HELD, State.READY),
        ("1111111111/complain/0123456789", State.UPDATING),
        ("1111111111~/enforce/0123456789", State.UPDATING),
        ("0000000000/enforce/0123456789", State.UPDATING),
        ("", State.UPDATING),
    ],
)
def test_only_what_was_read_back_is_ready(held: str, state: State):
    assert states(seen(node("one"), report("one", held))) == {"one": state}


def test_a_node_that_is_not_to_hold_it():
    elsewhere = revision(node_selector=NodeSelector(match_labels={"disk": "ssd"}))
    found = seen(node("one"), report("one", HELD), node("two"), report("two"), node("three", disk="ssd"))
    assert states(found, elsewhere) == {
        "one": State.UNLOADING,
        "two": State.NOT_SELECTED,
        "three": State.UPDATING,
    }
    assert states(found, revision(withdrawn=True))["one"] is State.UNLOADING


def test_an_agent_that_is_down_is_known_from_the_status():
    told = profile(failures=[Failure(node="one", reason="AgentDown", message="x")])
    assert states(seen(node("one"), report("one", HELD)), told=told) == {"one": State.AGENT_DOWN}


def test_without_nodes_only_what_was_reported_is_told():
    found = Seen(None, MIXED.reports)
    assert states(found) == {
        "cp-1": State.REPORTED,
        "worker-1": State.REPORTED,
        "worker-2": State.FAILED,
        "worker-3": State.REPORTED,
        "worker-4": State.REPORTED,
        "worker-6": State.UNSUPPORTED,
    }
    elsewhere = revision("2222222222", node_selector=NodeSelector(match_labels={"disk": "ssd"}))
    assert states(found, elsewhere)["cp-1"] is State.UNKNOWN


def test_the_table_of_profiles():
    long = msgspec.structs.replace(FAILED, metadata=Metadata(name="a" * 63, generation=3))
    assert (
        shown([tables.profiles([views.profile_row(FAILED), views.profile_row(long)])])
        == """\
NAME                            TYPE      MODE     READY  STATUS       REFERENCE
web                             AppArmor  Enforce  2/3    NodesFailed  web
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  AppArmor  Enforce  2/3    Progressing  web
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
aaa
"""
    )


def test_all_of_a_profile():
    assert (
        shown(tables.profile(views.profile_view(FAILED, revision(), MIXED)))
        == """\
Name:      web
Type:      AppArmor, Enforce
Ready:     2/3 nodes
Revision:  1111111111
Defines:   web, web//sh

CONDITION         REASON       MESSAGE
Accepted     yes  Accepted     the policy defines 2 profiles
Available    yes  Verified     a revision of it is loaded on 2 nodes
Ready        no   NodesFailed  failed on 1 of 3 nodes: worker-2: the node has a
                               profile web of its own, which Hauberk did not
                               load; rename yours, remove the host's, or set
                               spec.adopt
Reconciling  no   Settled      nothing is left to do until something changes
Stalled      yes  NodesFailed  failed on 1 of 3 nodes

Use it in a pod or a container:
  securityContext:
    appArmorProfile:
      type: Localhost
      localhostProfile: web

NODE      STATE         REVISION    MODE     REASON
cp-1      ready         1111111111  enforce  -
windows   not selected  -           -        -
worker-1  ready         1111111111  enforce  -
worker-2  failed        -           -        HostOwned
worker-3  unreachable   1111111111  enforce  NodesUnreachable
worker-4  updating      -           -        -
worker-5  updating      -           -        -
worker-6  unsupported   -           -        -

  windows: no Linux kernel of its own
  worker-2: the node has a profile web of its own, which Hauberk did not load;
  rename yours, remove the host's, or set spec.adopt
  worker-3: the node is not Ready
  worker-4: the node was restarted, and its agent has not reported since
  worker-5: no report yet
  worker-6: its kernel runs without AppArmor
"""
    )


def test_a_profile_of_which_nothing_is_known_yet():
    fresh = SecurityProfile(metadata=Metadata(name="web", generation=1), spec=spec())
    view = views.profile_view(fresh, None, MIXED)
    assert not view.ready
    assert (
        shown(tables.profile(view))
        == """\
Name:      web
Type:      AppArmor, Enforce
Ready:     0/0 nodes
Revision:  nothing was published

The operator has not looked at generation 1 yet; is hauberk-operator running?
"""
    )


def test_the_table_of_nodes():
    rocky = OperatingSystem(id="rocky", version="9")
    unseen = Facts(kernel="5.14.0", os=rocky, lsms=["selinux"], seccomp=True)
    permissive = msgspec.structs.replace(unseen, selinux=SELinuxFacts(mode="permissive"))
    enforcing = msgspec.structs.replace(unseen, selinux=SELinuxFacts(mode="enforcing"))
    found = seen(
        *(node("se-1"), node("se-2"), report("se-1", facts=unseen), report("se-2", facts=enforcing)),
        *(MIXED.nodes or {}).values(),
        *MIXED.reports.values(),
        report("worker-6", facts=permissive),
    )
    assert (
        shown([tables.nodes(views.node_rows(found))])
        == """\
NODE      OS         KERNEL  TYPES            RUNTIME         PROFILES  PROBLEMS
cp-1      debian 12  6.1.0   AppArmor,        containerd      1/1       0
                             Seccomp          1.7.24
se-1      rocky 9    5.14.0  SELinux,         -               -         0
                             Seccomp
se-2      rocky 9    5.14.0  SELinux          -               -         0
                             enforcing,
                             Seccomp
windows   -          -       -                -               -         0
worker-1  debian 12  6.1.0   AppArmor,        containerd      1/1       0
                             Seccomp          1.7.24
worker-2  debian 12  6.1.0   AppArmor,        containerd      0/1       1
                             Seccomp          1.7.24
worker-3  debian 12  6.1.0   AppArmor,        containerd      1/1       0
                             Seccomp          1.7.24
worker-4  debian 12  6.1.0   AppArmor,        containerd      1/1       0
                             Seccomp          1.7.24
worker-5  -          -       -                -               -         0
worker-6  rocky 9    5.14.0  SELinux          -               -         0
                             permissive,
                             Seccomp

  windows: no Linux node with a kernel of its own; Hauberk leaves it alone
  worker-3: the node is not Ready; its last report stands here
  worker-4: the node was restarted, and its agent has not reported since
  worker-5: no report yet; is its hauberk-agent pod running?
"""
    )


def test_all_of_a_node():
    found = report(
        "worker-2",
        HELD,
        problems={"db": REFUSES},
        repairs={"web": Repairs(count=2, message="it was removed")},
        orphans={"old": Orphan(uid="u-1")},
        remarks=[Remark(reason="StateTorn", message="a record was unreadable")],
    )
    detail = views.node_detail("worker-2", seen(node("worker-2"), found))
    assert detail
    assert not detail.fine
    assert (
        shown([tables.node(detail)])
        == """\
Name:      worker-2
System:    debian 12
Kernel:    6.1.0-28-amd64 x86_64
Runtime:   containerd 1.7.24
Modules:   lockdown, capability, apparmor
AppArmor:  yes, 2 features; the node's own parser knows ABI 3.0
SELinux:   no
Seccomp:   yes
Boot:      bbbbbbbb

PROFILE  TYPE      REVISION    MODE     DIGEST
web      AppArmor  1111111111  enforce  0123456789

Problems:
  db: HostOwned: the node has a profile web of its own, which Hauberk did not
  load; rename yours, remove the host's, or set spec.adopt

Repairs:
  web: 2 times: it was removed

Orphans, loaded without a SecurityProfile:
  old: of a SecurityProfile with the UID u-1

Remarks:
  StateTorn: a record was unreadable
"""
    )
    assert views.node_detail("nope", MIXED) is None


def test_all_of_a_node_with_selinux():
    facts = Facts(
        os=OperatingSystem(id="rocky", version="9"),
        kernel="5.14.0",
        lsms=["capability", "selinux"],
        selinux=SELinuxFacts(policy="targeted", mls=True, mode="enforcing"),
        seccomp=True,
    )
    status = NodeStatus(
        boot_id=BOOT,
        facts=facts,
        selinux=Section(profiles={"web": "1111111111/enforcing/0123456789"}),
        seccomp=Section(profiles={"calls": "2222222222/enforce/0123456789"}),
    )
    detail = views.node_detail(
        "one", seen(node("one"), ProfileNode(metadata=Metadata(name="one"), status=status))
    )
    assert detail
    assert (
        shown([tables.node(detail)])
        == """\
Name:      one
System:    rocky 9
Kernel:    5.14.0
Runtime:   -
Modules:   capability, selinux
AppArmor:  no
SELinux:   yes, enforcing; policy targeted, with levels
Seccomp:   yes
Boot:      bbbbbbbb

PROFILE  TYPE     REVISION    MODE       DIGEST
calls    Seccomp  2222222222  enforce    0123456789
web      SELinux  1111111111  enforcing  0123456789
"""
    )


def test_what_the_unprivileged_agent_can_not_see_of_selinux():
    facts = Facts(lsms=["selinux"], seccomp=True)
    detail = views.node_detail("one", seen(node("one"), report("one", facts=facts), node("two")))
    assert detail
    told = shown([tables.node(detail)])
    assert "SELinux:   yes; its mode and policy are seen once a SELinux or Seccomp profile\n" in told
    unknown = views.node_detail("two", seen(node("two")))
    assert unknown
    assert "AppArmor:  -\nSELinux:   -\nSeccomp:   -\n" in shown([tables.node(unknown)])


def test_what_would_steer_a_terminal_is_taken_out():
    hostile = "\x1b]0;owned\x07\x9b2J\u202e[bold]:smile:"
    told = profile(condition("Ready", "False", hostile, hostile))
    text = shown(
        tables.profile(views.profile_view(told, revision(), seen(node(hostile), report(hostile, HELD))))
    )
    text += shown([tables.exactly(hostile)])
    assert not [one for one in text if not one.isprintable() and one != "\n"]
    assert "[bold]:smile:" in text


def test_records_are_json_in_the_apis_own_spelling():
    told = json.loads(json.dumps(msgspec.to_builtins(views.profile_view(FAILED, revision(), MIXED))))
    assert told["nodes"][2] == {
        "node": "worker-1",
        "state": "ready",
        "revision": "1111111111",
        "mode": "enforce",
        "reason": "",
        "message": "",
    }
    (row,) = msgspec.to_builtins(views.node_rows(seen(report("one", HELD))))
    assert row["appArmor"] is True


REFUSED = condition("Accepted", "False", "PolicyRefused", "")
REFUSED_BEFORE = condition("Accepted", "False", "PolicyRefused", "", 1)

# --- wait -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "goal", "reached", "refused"),
    [
        (profile(condition("Ready", "True", "Ready", "")), "Ready", True, False),
        (profile(condition("Ready", "True", "Ready", "", 1)), "Ready", False, False),
        (profile(condition("Ready", "True", "Ready", ""), generation=3), "Ready", False, False),
        (profile(REFUSED, condition("Ready", "False", "PolicyRefused", "")), "Ready", False, True),
        (profile(REFUSED_BEFORE, condition("Ready", "False", "Updating", "")), "Ready", False, False),
        (profile(REFUSED, condition("Available", "True", "Verified", "")), "Available", True, False),
        (None, "Ready", False, False),
        (None, "delete", True, False),
        (FAILED, "delete", False, False),
    ],
)  # fmt: skip
def test_what_is_waited_for(told: SecurityProfile | None, goal: str, reached: bool, refused: bool):
    found = waiting.standing("web", told, waiting.Goal(goal))
    assert (found.reached, found.refused) == (reached, refused)


def test_another_object_of_the_name_is_not_the_one_that_was_deleted():
    assert waiting.standing("web", FAILED, waiting.Goal.DELETE, "earlier").reached


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1m30s", 90), ("500ms", 0.5), ("0", 0), ("5", 5), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float):
    assert waiting.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "-1s", "1m30", "."])
def test_what_is_no_duration(text: str):
    with pytest.raises(ValueError, match="no duration"):
        waiting.seconds(text)
    said = CliRunner().invoke(app, ["wait", "web", f"--timeout={text}"])
    assert said.exit_code == 2


# --- diff -------------------------------------------------------------------------------------------------


def accepted(text: str = POLICY, **more: object) -> Accepted:
    return Accepted((Text(id="t", text=text, names=["web"], **more),))  # pyright: ignore[reportArgumentType]


def source(wanted: ProfileSpec) -> Source:
    return Source("web.yaml", "web", wanted, 1)


def test_the_digest_is_the_operators():
    for one in (
        spec(),
        spec(template=Template(values={"a": 1})),
        ProfileSpec(type="AppArmor", app_armor=AppArmor(policy="x", mode="Complain", allow_attachment=True)),
    ):
        assert content(one) == content_digest(profile(wanted=one))


def test_a_name_clashes_within_a_type_only():
    others = {
        kind: SecurityProfile(
            metadata=Metadata(name="other"),
            spec=ProfileSpec(type=kind),
            status=ProfileStatus(profiles=["web"]),
        )
        for kind in ("AppArmor", "SELinux")
    }
    fault = clash(source(spec()), accepted(), others)
    assert fault
    assert fault.reason is Reason.NAME_CLASH
    assert clash(source(spec()), accepted(), {"other": others["SELinux"]}) is None


def test_a_changed_policy():
    wanted = spec(POLICY.replace("/tmp", "/var"), node_selector=NodeSelector(match_labels={"disk": "ssd"}))
    found = seen(
        *(node("one", disk="ssd"), node("two"), node("three", disk="ssd", ready=False)),
        *(report("one", HELD), report("two", HELD), report("three")),
    )
    told = difference(source(wanted), Current(FAILED, revision()), accepted(), found)
    assert (
        shown(tables.difference(told))
        == """\
web: changed (web.yaml)
  spec.nodeSelector: {} -> {"matchLabels": {"disk": "ssd"}}

  the policy:
--- in the cluster
+++ applied
@@ -1,4 +1,4 @@
 profile web {
   file,
-  deny /tmp/** w,
+  deny /var/** w,
 }

  nodes that load it: one, three (not Ready)
  nodes that unload it: two
"""
    )


def test_a_new_profile():
    found = seen(node("one"), report("one"), node("two"), report("two", facts=Facts()))
    told = difference(source(spec(adopt=True)), Current(), accepted(), found)
    assert (
        shown(tables.difference(told))
        == """\
web: new (web.yaml)
  spec.adopt: true

  the policy:
--- in the cluster
+++ applied
@@ -0,0 +1,4 @@
+profile web {
+  file,
+  deny /tmp/** w,
+}

  nodes that load it: one
"""
    )


def test_what_would_be_refused_changes_no_node():
    fault = InputFault(Reason.POLICY_REFUSED, "apparmor_parser refuses the policy: line 2: syntax error")
    told = difference(source(spec("x")), Current(FAILED, revision()), fault, MIXED)
    assert (
        shown(tables.difference(told))
        == """\
web: changed (web.yaml)
  refused: PolicyRefused: apparmor_parser refuses the policy: line 2: syntax
  error
  it would be refused, and the nodes keep what they hold

  the policy:
--- in the cluster
+++ applied
@@ -1,4 +1 @@
-profile web {
-  file,
-  deny /tmp/** w,
-}
+x
"""
    )


def test_what_only_changes_where_it_goes_stays_on_the_others():
    now = profile(wanted=spec())
    held = f"{content(now.spec)}/enforce/-"
    found = seen(node("one", a="b"), report("one", held), node("two"), report("two", held))
    wanted = spec(node_selector=NodeSelector(match_labels={"a": "b"}))
    told = difference(source(wanted), Current(now, revision(content(now.spec))), accepted(), found)
    assert (told.nodes.stay, told.nodes.unload, told.nodes.load, told.texts) == (("one",), ("two",), (), ())


def test_a_suspended_profile_takes_no_new_text():
    wanted = spec("other", suspend=True)
    found = seen(node("one"), report("one", HELD))
    told = difference(source(wanted), Current(FAILED, revision()), accepted("other"), found)
    assert (told.nodes.stay, told.nodes.load) == (("one",), ())


def test_a_template_is_told_by_what_it_becomes():
    old, new = facts_key(DEBIAN), facts_key(TRIXIE)
    now = profile(wanted=spec("t1", template=Template()))
    published = msgspec.structs.replace(
        revision(),
        content=Content(digest="1111111111", texts=[Text(id="a", facts=[old, new], text="a\n", names=[])]),
    )
    judged = Accepted(
        (Text(id="b", facts=[old], text="b\n", names=[]),),
        (Unrendered(facts=[new], reason="TemplateRefused", message="no"),),
    )
    found = seen(node("one"), report("one", HELD), node("two"), report("two", HELD, facts=TRIXIE))
    wanted = spec("t2", template=Template(values={"x": [1]}))
    told = difference(source(wanted), Current(now, published), judged, found)
    assert (
        shown(tables.difference(told))
        == """\
web: changed (web.yaml)
  debian 13 (kernel 6.12, x86_64): TemplateRefused: no
  spec.template.values.x: (not set) -> [1]

  for debian 12 (kernel 6.1, x86_64):
--- in the cluster
+++ applied
@@ -1 +1 @@
-a
+b

  nodes that load it: one
  nodes that stay as they are: two
"""
    )


def test_a_template_that_renders_to_the_same():
    now = profile(wanted=spec("t1", template=Template()))
    found = seen(node("one"), report("one", HELD))
    told = difference(source(spec("t2", template=Template())), Current(now, revision()), accepted(), found)
    assert [(one.of, one.lines[-2:]) for one in told.texts] == [
        ("the template, which renders to the same for every node", ("-t1", "+t2"))
    ]


def test_nothing_to_change():
    assert same(source(spec()), Current(profile(wanted=spec())))
    assert not same(source(spec()), Current())


# --- kubeconfig -------------------------------------------------------------------------------------------


def config(name: str, current: str = "", **user: object) -> dict[str, object]:
    return {
        "current-context": current,
        "clusters": [{"name": name, "cluster": {"server": name, "certificate-authority": "ca.pem"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": user}],
    }


def test_the_first_kubeconfig_wins_and_files_are_relative_to_their_own():
    first, second = config("a"), {**config("a", "b"), **config("b", "b", tokenFile="/t")}
    found = kubeconfig.merged([(Path("/one"), first), (Path("/two"), second), (Path("/three"), None)])
    assert found["current-context"] == "b"
    assert [one["cluster"]["certificate-authority"] for one in found["clusters"]] == [
        "/one/ca.pem",
        "/two/ca.pem",
    ]
    assert found["users"][1]["user"]["tokenFile"] == "/t"


def test_a_login_program_is_asked_as_kubectl_asks_it():
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "args": ["x"]}
    (user,) = kubeconfig.merged([(Path("/one"), config("a", exec=program))])["users"]
    told = user["user"]["exec"]
    assert (told["command"], told["apiVersion"]) == ("/one/login", "client.authentication.k8s.io/v1beta1")
    (variable,) = told["env"]
    assert json.loads(variable["value"])["apiVersion"] == "client.authentication.k8s.io/v1"


def test_files_that_are_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ClusterFault, match="has not the shape"):
        kubeconfig.merged([(tmp_path, ["x"])])
    (tmp_path / "torn").write_text("a: [")
    with pytest.raises(ClusterFault, match="it is no YAML"):
        kubeconfig.load(tmp_path / "torn")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert kubeconfig.load(None) is None


@pytest.mark.parametrize("command", ["status", "why", "wait", "nodes", "diff"])
def test_help_has_examples_and_exit_codes(command: str):
    out = CliRunner().invoke(app, [command, "--help"]).stdout
    assert f"\n    hauberk {command}" in out or f"&& hauberk {command}" in out
    assert "Exit codes: 0 " in out
    assert max(len(line) for line in out.splitlines()) <= 80
