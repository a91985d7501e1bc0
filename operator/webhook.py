"""The admission's HTTPS server: the API server's questions in, `review`'s and `pod_review`'s answers out.

Started by `admission`. Not kopf's own server: that takes 1 MiB of a request, less than an update of a large
policy has (both objects, each with kubectl's copy of it), and is away while it takes a new certificate.

Protocol: admission.k8s.io/v1, AdmissionReview (k8s.io/api/admission/v1/types.go).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiohttp import web

from ..crds.errors import Fault
from ..crds.metrics import REVIEWED, WEBHOOK_ANSWERS, WEBHOOK_DURATION, Counts, Uncounted
from ..crds.models import SecurityProfile, decode
from ..crds.pods import PodObject
from ..profiles.parser import fault_message
from .gating import Known, lacking
from .pod_review import PodAnswer, may_be_early, review_ephemeral, review_pod
from .publisher import Publisher
from .review import Answer, review

log = structlog.get_logger()

PORT = 9443
REVIEW_PATH = "/securityprofiles"
# Of namespaces that have pods refused that name unknown profiles, and of those that don't.
PODS_DENY_PATH, PODS_PATH = "/pods/deny", "/pods"
# Two objects of up to 1.5 MiB each, which is what etcd takes.
_REQUEST_BYTES = 4 << 20
# Less than the configuration's timeoutSeconds: who waits hears why.
_ANSWER_SECONDS = 27.0
_AUTHORS_FAULT = 422
_PROFILE, _POD = REVIEWED
# The verdict in a word, and the answer.
_Said = tuple[str, web.Response]
# How long a pod that names a profile which nobody defines waits for one that does: they may have been applied
# together. Less than the configuration's timeoutSeconds.
EARLY_SECONDS = 2.0
# How long after some news it is looked for again: in a burst of profiles not for each.
LOOK_SECONDS = 0.1


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    namespace: str = ""
    sub_resource: str = ""
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None


class _Review(msgspec.Struct, frozen=True):
    request: _Request


@dataclass
class Webhook:
    """The server; `context` has its certificate from `trust`, `is_ready` says whether to ask it.

    While it `is_ending`, or another replica publishes, each answer is the last on its connection.
    """

    publisher: Publisher
    context: ssl.SSLContext
    is_ready: Callable[[], bool]
    port: int = PORT
    is_ending: bool = False
    counts: Counts = field(default_factory=Uncounted)
    _runner: web.AppRunner | None = field(default=None, init=False)

    async def start(self) -> None:
        """Listen; `context` has to have a certificate."""
        app = web.Application(client_max_size=_REQUEST_BYTES)
        app.add_routes(
            [
                web.post(REVIEW_PATH, self._review),
                web.post(PODS_PATH, self._pod),
                web.post(PODS_DENY_PATH, self._pod),
                web.get("/readyz", self._readyz),
            ]
        )
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self.port, ssl_context=self.context).start()
        log.info("webhook", port=self.port)

    async def stop(self) -> None:
        """Answer what was asked, and stop to listen."""
        if runner := self._runner:
            self._runner = None
            await runner.cleanup()

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok") if self.is_ready() else web.Response(status=503, text="not ready")

    async def _review(self, asked: web.Request) -> web.Response:
        return await self._counted(_PROFILE, self._said_of_profile, asked)

    async def _pod(self, asked: web.Request) -> web.Response:
        return await self._counted(_POD, self._said_of_pod, asked)

    async def _counted(
        self, kind: str, answer: Callable[[web.Request], Awaitable[_Said]], asked: web.Request
    ) -> web.Response:
        began = time.monotonic()
        verdict = "failed"
        try:
            verdict, said = await answer(asked)
        finally:  # also where the API server waits no longer
            self.counts.count(WEBHOOK_ANSWERS, kind, verdict)
            self.counts.observe(WEBHOOK_DURATION, time.monotonic() - began, kind)
        return said

    async def _said_of_profile(self, asked: web.Request) -> _Said:
        try:
            request = msgspec.json.decode(await asked.read(), type=_Review).request
            profile = decode(SecurityProfile, request.object or {})
        except msgspec.MsgspecError as error:
            log.error("unreadable question", error=str(error))
            why = f"no AdmissionReview of a SecurityProfile: {error}"
            return "failed", web.Response(status=400, text=why)
        answer, code = await self._answered(profile)
        verdict = _verdict(answer, code)
        log.info("review", profile=profile.metadata.name, verdict=verdict, refused=answer.refused)
        return verdict, self._sent(_response(request, answer, code))

    async def _said_of_pod(self, asked: web.Request) -> _Said:
        """Answer what becomes of a pod; what can't be answered is let through: no pod waits for that."""
        try:
            request = msgspec.json.decode(await asked.read(), type=_Review).request
            pod = decode(PodObject, request.object or {})
            before = decode(PodObject, request.old_object or {})
        except msgspec.MsgspecError as error:
            log.error("unreadable question", error=str(error))
            return "failed", web.Response(status=400, text=f"no AdmissionReview of a Pod: {error}")
        try:
            deny = asked.path == PODS_DENY_PATH
            if request.sub_resource == "ephemeralcontainers":
                answer = review_ephemeral(before, pod, self._known(), deny_unknown=deny)
            else:
                await self._wait_for_profiles(pod)
                answer = review_pod(request.object or {}, pod, self._known(), deny_unknown=deny)
            verdict = "changed" if answer.patch else _verdict(answer, _AUTHORS_FAULT)
        except Exception:  # a bug that one pod meets holds up no pod
            log.exception("bug", namespace=request.namespace)
            answer = PodAnswer(warnings=("Hauberk met a bug as it looked at the pod; its log has more",))
            verdict = "failed"
        # the pods of a controller have no name yet
        name = pod.metadata.name or pod.metadata.generate_name
        changed = [one["path"] for one in answer.patch]
        about = {"namespace": request.namespace, "name": name, "verdict": verdict}
        log.info("pod", **about, refused=answer.refused, changed=changed)
        response = _response(request, answer, 403)
        if answer.patch:
            patch = base64.b64encode(msgspec.json.encode(answer.patch)).decode()
            response |= {"patchType": "JSONPatch", "patch": patch}
        return verdict, self._sent(response)

    def _known(self) -> Known:
        publisher = self.publisher
        reports = publisher.reports
        return Known(
            publisher.profiles,
            publisher.owners(),
            lacking(reports.values()),
            publisher.revisions,
            reports,
        )

    async def _wait_for_profiles(self, pod: PodObject) -> None:
        """Return when every profile is known that a pod names and that somebody may define, or none came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EARLY_SECONDS):
                while may_be_early(pod, self._known()):
                    await self.publisher.news.wait()
                    await asyncio.sleep(LOOK_SECONDS)

    def _sent(self, response: dict[str, Any]) -> web.Response:
        said = web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        )
        # The API server goes on to ask whom it is connected to. That had better be the one that publishes,
        # which need not judge again what it was asked about: any other lets go of it, to be chosen anew.
        if self.is_ending or not self.publisher.leads():
            said.force_close()
        return said

    async def _answered(self, profile: SecurityProfile) -> tuple[Answer, int]:
        """Return what to answer, and the HTTP status of a refusal: 422 for the author's fault, else 500."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await review(profile, self.publisher), _AUTHORS_FAULT
        except TimeoutError:
            return Answer("Hauberk has too many policies to check right now; apply it again in a minute"), 500
        except Fault as fault:
            log.error("can't judge", profile=profile.metadata.name, message=fault.message)
            return Answer(f"Hauberk can't check the policy: {fault_message(fault)}; apply it again"), 500
        except Exception:  # a bug that one text meets is told, and ends nothing else
            log.exception("bug", profile=profile.metadata.name)
            return Answer("Hauberk met a bug while it checked the policy; its log has more"), 500


def _response(request: _Request, answer: Answer | PodAnswer, code: int) -> dict[str, Any]:
    """Return an AdmissionResponse; `code` is the HTTP status of a refusal."""
    response: dict[str, Any] = {"uid": request.uid, "allowed": not answer.refused}
    if answer.refused:
        response["status"] = {"code": code, "message": answer.refused}
    if answer.warnings:
        response["warnings"] = answer.warnings
    return response


def _verdict(answer: Answer | PodAnswer, code: int) -> str:
    if answer.refused:
        return "refused" if code == _AUTHORS_FAULT else "failed"
    return "warned" if answer.warnings else "allowed"
