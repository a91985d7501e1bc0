"""Judgements on texts: each is made once, whoever asks, and one that never ends holds up no other."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest
from hauberk.crds.facts import facts_key
from hauberk.crds.models import AppArmor, Facts, Metadata, ProfileSpec, SecurityProfile, Template
from hauberk.crds.reasons import Reason
from hauberk.operator.judging import AT_ONCE, Judging
from hauberk.operator.publish import Refusal, content_digest
from hauberk.profiles.check import Accepted, Judge
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer
from hauberk.profiles.sandbox import Limits, Run

ENDLESS = "profile endless {\n  /**a" + "?" * 30 + " rw,\n}\n"
OLD, NEW = COMMON[0], COMMON[1]


class Counting(Parser):
    """The real parser, counting its runs."""

    runs: int = 0

    async def _run(self, *options: str, stdin: bytes = b"") -> Run:
        Counting.runs += 1
        return await super()._run(*options, stdin=stdin)


class Patient(Parser):
    """The real parser on a machine where no text takes too long."""

    async def compile(self, text: str, mode: str) -> bytes:
        return await super().compile("profile p {\n}\n" if "???" in text else text, mode)


def profile(policy: str, name: str = "p", template: Template | None = None) -> SecurityProfile:
    spec = ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy), template=template)
    return SecurityProfile(metadata=Metadata(name=name, uid=f"uid-{name}", generation=1), spec=spec)


def judging_of(parser: Parser) -> Judging:
    return Judging(Judge(parser, Renderer()))


async def test_who_asks_meanwhile_waits_for_the_same_judgement(parser: Parser):
    counting = Counting(parser.program, parser.base, parser.features)
    judging, Counting.runs = judging_of(counting), 0
    asked = profile("profile p { file, }")
    first, *others = await asyncio.gather(*(judging.judged(asked, {}) for _ in range(5)))
    assert isinstance(first, Accepted)
    assert all(one is first for one in others)
    once = Counting.runs
    assert await judging.judged(asked, {}) is first
    assert Counting.runs == once


async def test_it_goes_on_where_nobody_waits_any_more(parser: Parser):
    judging = judging_of(parser)
    asked = profile("profile p { file, }")
    waiting = asyncio.create_task(judging.judged(asked, {}))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(*judging.running.values())
    assert isinstance(judging.judgements[content_digest(asked)], Accepted)


async def test_texts_that_never_end_leave_a_slot_once_they_are_known(parser: Parser):
    quick = dataclasses.replace(parser, limits=Limits(seconds=1.0, cpu_seconds=1))
    judging = judging_of(quick)
    endless = [profile(f"{ENDLESS}# {number}\n", f"e{number}") for number in range(AT_ONCE)]
    said = await asyncio.gather(*(judging.judged(one, {}) for one in endless))
    assert all(isinstance(one, Refusal) and one.reason is Reason.POLICY_TOO_SLOW for one in said)
    # who publishes does not ask again
    assert await judging.judged(endless[0], {}) is said[0]
    # their authors do, all at once: what is good is judged before the second of them has its turn
    again = [asyncio.create_task(judging.judged(one, {}, again=True)) for one in endless]
    await asyncio.sleep(0)
    assert isinstance(await judging.judged(profile("profile p { file, }"), {}), Accepted)
    assert sum(one.done() for one in again) < AT_ONCE - 1
    await asyncio.gather(*again)


async def test_a_template_is_rendered_for_what_is_new_and_keeps_what_was_said(parser: Parser):
    judging = judging_of(parser)
    asked = profile("profile p { file, } # {{ node.os.version }}\n", template=Template())
    kinds: dict[str, Facts] = {facts_key(OLD): OLD}
    first = await judging.judged(asked, kinds)
    assert isinstance(first, Accepted)
    assert first.kinds == kinds.keys()
    both = await judging.judged(asked, {facts_key(NEW): NEW})
    assert isinstance(both, Accepted)
    assert both.kinds == {facts_key(OLD), facts_key(NEW)}
    judging.forget({content_digest(asked)}, {facts_key(NEW)})
    left = judging.judgements[content_digest(asked)]
    assert isinstance(left, Accepted)
    assert left.kinds == {facts_key(NEW)}
    await judging.close()


async def test_what_fails_for_a_new_kind_is_good_for_the_others_still(parser: Parser):
    judging = judging_of(parser)
    policy = "profile p { file, } {% if node.os.version == '13' %}{{ nope }}{% endif %}\n"
    asked = profile(policy, template=Template())
    await judging.judged(asked, {facts_key(OLD): OLD})
    said = await judging.judged(asked, {facts_key(NEW): NEW})
    assert isinstance(said, Accepted)
    (unrendered,) = said.unrendered
    assert unrendered.facts == [facts_key(NEW)]
    assert unrendered.reason == Reason.TEMPLATE_REFUSED
    assert [one.facts for one in said.texts] == [[facts_key(OLD)]]
    assert msgspec.to_builtins(unrendered)["message"].startswith("for debian 13")
    await judging.close()


async def test_what_took_too_long_is_due_again_after_a_pause_that_grows(
    parser: Parser, monkeypatch: pytest.MonkeyPatch
):
    """The machine may have been busy, as when many profiles are applied at once."""
    monkeypatch.setattr("hauberk.operator.judging.AGAIN_SECONDS", (0.0, 600.0))
    judging = judging_of(dataclasses.replace(parser, limits=Limits(seconds=0.5, cpu_seconds=1)))
    asked = profile(ENDLESS)
    digest = content_digest(asked)
    assert not judging.is_due_again(digest)
    await judging.judged(asked, {})
    assert judging.is_due_again(digest)
    judging.slow[digest] = (0.0, 100.0)
    await judging.judged(asked, {}, again=True)
    assert not judging.is_due_again(digest)
    assert judging.slow[digest][1] == 200.0
    judging.judge = Judge(parser, judging.judge.renderer)
    good = profile("profile p { file, }")
    judging.slow[content_digest(good)] = (0.0, 100.0)
    await judging.judged(good, {}, again=True)
    assert not judging.is_due_again(content_digest(good))


async def test_a_template_that_took_too_long_for_one_kind_is_due_again_ever_later(
    parser: Parser, monkeypatch: pytest.MonkeyPatch
):
    """It is good for other kinds, so what is kept of it is no refusal: who asks when it is due, asks anew."""
    monkeypatch.setattr("hauberk.operator.judging.AGAIN_SECONDS", (0.0, 600.0))
    judging = judging_of(dataclasses.replace(parser, limits=Limits(seconds=1.0, cpu_seconds=1)))
    endless = ENDLESS.partition("\n")[2].rpartition("}")[0]
    policy = f"profile p {{\n{{% if node.os.version == '13' %}}\n{endless}{{% endif %}}\n}}\n"
    asked, both = profile(policy, template=Template()), {facts_key(one): one for one in (OLD, NEW)}
    await judging.judged(asked, {facts_key(OLD): OLD})
    assert isinstance(await judging.judged(asked, {facts_key(NEW): NEW}), Accepted)
    digest = content_digest(asked)
    assert judging.is_due_again(digest)
    judging.slow[digest] = (0.0, 100.0)
    assert isinstance(await judging.judged(asked, both, again=True), Accepted)
    assert not judging.is_due_again(digest)
    assert judging.slow[digest][1] == 200.0
    # as when the machine was busy before
    judging.judge = Judge(Patient(parser.program, parser.base, parser.features), judging.judge.renderer)
    done = await judging.judged(asked, both, again=True)
    assert isinstance(done, Accepted)
    assert not done.unrendered
    assert digest not in judging.slow
    await judging.close()
