"""The clauses of :mod:`mintmark.ports.relying_party`, one test each."""

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qs

import pytest

from mintmark.ports.relying_party import Answered, RelyingParties, Unanswered
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.origin import Fault, Origin, Reply, Request

TOKEN = "eyJ0eXAiOiJsb2dvdXQrand0In0.e30.c2ln"  # noqa: S105 - nobody's


class PartyRig:
    """What is under test, and a relying party with the paths ``/logout`` and ``/other``."""

    def __init__(self, parties: RelyingParties) -> None:
        self.parties = parties
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.seen: list[Request] = []
        self.site = Origin(
            routes={"/logout": "logout", "/other": "other"},
            answer=self._answer,
            clock=SYSTEM_CLOCK,
            method="POST",
        )
        self.site.start()

    def uri(self, path: str = "/logout") -> str:
        """Where it is told."""
        return f"http://127.0.0.1:{self.site.port}{path}"

    def _answer(self, _name: str, request: Request) -> Reply:
        self.seen.append(request)
        return Reply(status=self.status, headers=self.headers, body=self.body)


class RelyingPartyConformance:
    """PARTY-1 to PARTY-5."""

    @pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 429, 500, 503])
    async def test_token_is_posted_as_a_form(self, rig: PartyRig, status: int) -> None:
        """PARTY-1, s.2.5: one member, in a form, at that very path and query; the status comes back."""
        rig.status, rig.body = status, b"" if status == 204 else b"{}"
        answer = await rig.parties.tell(rig.uri("/logout?tenant=7%2F8"), TOKEN)
        (request,) = rig.seen
        assert answer == Answered(status)
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert parse_qs(request.body.decode(), strict_parsing=True) == {"logout_token": [TOKEN]}
        assert (request.path, request.query) == ("/logout", {"tenant": "7/8"})
        assert not {"cookie", "authorization", "referer"} & request.headers.keys()

    @pytest.mark.parametrize(
        ("headers", "span"),
        [
            ({"Retry-After": "7"}, 7),
            ({"Retry-After": "0"}, 0),
            ({"Retry-After": "-7"}, None),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "9" * 400}, None),
            ({"Retry-After": "\u0667"}, None),
            ({"Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT"}, None),
            ({"Retry-After": "Fri, 20 Nov 2026 10:00:30 +" + "9" * 40}, None),
            (
                {
                    "Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT",
                    "Date": "Fri, 20 Nov 2026 10:00:" + "9" * 40 + " GMT",
                },
                None,
            ),
            (
                {
                    "Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT",
                    "Date": "Fri, 20 Nov 2026 10:00:00 GMT",
                },
                30,
            ),
            (
                {
                    "Retry-After": "Fri, 20 Nov 2026 09:00:00 GMT",
                    "Date": "Fri, 20 Nov 2026 10:00:00 GMT",
                },
                0,
            ),
        ],
    )
    async def test_answer_says_when_to_come_again(
        self, rig: PartyRig, headers: Mapping[str, str], span: int | None
    ) -> None:
        """PARTY-1: Retry-After is told as a span, in either of its forms; what is neither is left out."""
        rig.status = 503
        rig.headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
        assert await rig.parties.tell(rig.uri(), TOKEN) == Answered(503, span)  # type: ignore[arg-type]

    @pytest.mark.parametrize("fault", [Fault.DRIP, Fault.HUGE, Fault.BOMB, Fault.TRUNCATE], ids=str)
    async def test_body_is_of_no_interest(self, rig: PartyRig, fault: Fault) -> None:
        """PARTY-1: a body without an end, without measure or without its second half delays nothing."""
        rig.site.fail(fault)
        assert await rig.parties.tell(rig.uri(), TOKEN) == Answered(200)

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (Fault.REFUSE, "network"),
            pytest.param(Fault.HOLD, "timeout", marks=pytest.mark.slow),
            pytest.param(Fault.DRIP_HEAD, "timeout", marks=pytest.mark.slow),
        ],
        ids=str,
    )
    async def test_no_answer_has_a_reason(self, rig: PartyRig, fault: Fault, reason: str) -> None:
        """PARTY-2: silence, a head that never ends and a closed connection; the next answer is heard."""
        rig.site.fail(fault)
        with pytest.raises(Unanswered) as raised:
            await rig.parties.tell(rig.uri(), TOKEN)
        assert raised.value.reason == reason
        assert TOKEN not in str(raised.value)
        rig.site.recover()
        assert await rig.parties.tell(rig.uri(), TOKEN) == Answered(200)

    async def test_nobody_there_has_a_reason(self, rig: PartyRig) -> None:
        """PARTY-2: a port on which nobody listens."""
        rig.site.close()
        with pytest.raises(Unanswered) as raised:
            await rig.parties.tell(rig.uri(), TOKEN)
        assert raised.value.reason == "connect"

    async def test_redirect_leads_nowhere(self, rig: PartyRig) -> None:
        """PARTY-3, DP4: whoever is told cannot have the token sent to another address."""
        for status in (301, 302, 303, 307, 308):
            rig.status, rig.headers = status, {"Location": rig.uri("/other")}
            assert await rig.parties.tell(rig.uri(), TOKEN) == Answered(status)
        assert rig.site.count("other") == 0

    async def test_cookie_is_not_kept(self, rig: PartyRig) -> None:
        """PARTY-3: what one answer sets is in no later request."""
        rig.headers = {"Set-Cookie": "id=1; Path=/"}
        for _ in range(3):
            await rig.parties.tell(rig.uri(), TOKEN)
        assert ["cookie" in request.headers for request in rig.seen] == [False] * 3

    @pytest.mark.parametrize(
        "uri",
        [
            "http://192.0.2.1/logout",
            "http://169.254.169.254/latest/meta-data",
            "https://user:password@192.0.2.1/",
            "ftp://127.0.0.1/logout",
            "file:///etc/passwd",
            "not a uri",
            "",
        ],
    )
    async def test_nothing_leaves_this_machine_in_clear(self, rig: PartyRig, uri: str) -> None:
        """PARTY-4, DP1: an address that no client may have is asked nothing, even if a row names it."""
        with pytest.raises(Unanswered) as raised:
            await rig.parties.tell(uri, TOKEN)
        assert raised.value.reason == "uri"

    async def test_no_proxy_sees_what_stays_here(
        self, rig: PartyRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PARTY-4: the environment's proxy, where nobody listens here, is not asked for loopback."""
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert await rig.parties.tell(rig.uri(), TOKEN) == Answered(200)

    async def test_one_that_hangs_holds_up_no_other(self, rig: PartyRig) -> None:
        """PARTY-5: while many calls wait for one that is silent, others are answered."""
        rig.site.fail(Fault.HOLD, "other")
        waiting = [asyncio.ensure_future(rig.parties.tell(rig.uri("/other"), TOKEN)) for _ in range(10)]
        for _ in range(3):
            assert await rig.parties.tell(rig.uri(), TOKEN) == Answered(200)
        assert not any(call.done() for call in waiting)
        rig.site.recover()
        assert await asyncio.gather(*waiting) == [Answered(200)] * 10
