"""The flow: what it gives, in which order it checks, what it asks of a driver, what it remembers."""

import json
from pathlib import Path

import jwt
import msgspec
import pytest
from tests.core import forge
from tests.core.forge import DROP, FOREIGN, ISSUER, NOW, claims, header, token

from mintmark.core import jwk, verification
from mintmark.core.algorithm import Algorithm
from mintmark.core.claims import Revocation
from mintmark.core.denylist import Denylist
from mintmark.core.policy import Policy, Profile
from mintmark.core.refusal import FACTS, Code
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.verification import NOTHING_PASSES, KeyAbsent, Trust, Trusted, admit, check_exp, verify
from mintmark.errors import (
    ConfigurationError,
    InsufficientScope,
    InvalidToken,
    VerificationError,
    VerifierUnavailable,
)
from mintmark.units import ClientId, Jti, NumericDate, Rid, Seconds

KEY = forge.PUBLIC[Algorithm.ES256]


def code_of(raw: object, trusted: Trusted, now: int = NOW, **options) -> str:
    with pytest.raises(InvalidToken) as caught:
        verify(raw, trusted, NumericDate(now), **options)
    return caught.value.code


def accepts(raw: object, trusted: Trusted, now: int = NOW, **options) -> bool:
    return verify(raw, trusted, NumericDate(now), **options).exp > now - 30


@pytest.mark.parametrize("alg", list(Algorithm))
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_good_token_becomes_its_claims(alg, as_bytes):
    """Each claim of RFC 9068 comes out typed, under every algorithm, from text and from bytes."""
    raw = token(claims(plan="gold", nbf=NOW - 5), alg=alg)
    result = verify(raw.encode() if as_bytes else raw, forge.trusted(), NOW)
    assert (result.iss, result.sub, result.aud) == (ISSUER, claims()["sub"], ("orders",))
    assert (result.client_id, result.jti, result.rid) == ("web-frontend", claims()["jti"], claims()["rid"])
    assert (result.exp, result.iat, result.nbf) == (NOW + 800, NOW - 105, NOW - 5)
    assert result.scopes == {"orders:read", "orders:write"}
    assert (result.auth_time, result.amr, result.acr) == (NOW - 3600, ("pwd", "otp"), "2")
    assert result.kid == forge.PUBLIC[alg].kid
    assert result.revocation == "unsupported"
    assert result.claims["plan"] == "gold"


def test_a_token_is_frozen_and_says_little():
    """Nobody changes a verified token, and its repr names no subject."""
    result = verify(token(), forge.trusted(), NOW)
    with pytest.raises(AttributeError):
        result.sub = "usr_admin"  # type: ignore[misc, assignment]
    with pytest.raises(TypeError):
        result.claims["sub"] = "usr_admin"  # type: ignore[index]
    assert result.sub not in repr(result)
    assert msgspec.structs.fields(type(result))[0].name == "iss"


def test_pyjwt_reads_our_tokens_and_we_read_pyjwts():
    """The two agree on tokens of each algorithm, in both directions."""
    for alg, private in forge.PRIVATE.items():
        public = forge.PUBLIC[alg].key
        theirs = jwt.encode(dict(claims()), private, algorithm=alg.value, headers=header(alg))
        assert verify(theirs, forge.trusted(), NOW).sub == claims()["sub"]
        read = jwt.decode(
            token(alg=alg),
            public,
            algorithms=[alg.value],
            audience="orders",
            issuer=ISSUER,
            options={"verify_exp": False, "verify_iat": False},
        )
        assert read == claims()


# --- the order of checks -------------------------------------------------------------------------

BAD_KEY = forge.FOREIGN_PRIVATE
EXPIRED = {"exp": NOW - 31}
LADDER = [
    # Each has the fault of its own step and of every later one; the first decides.
    (Code.TOO_LARGE, lambda: "\x00" * 9000),
    (Code.NOT_COMPACT, lambda: "===.=="),
    (Code.NOT_BASE64URL, lambda: "e30=.e30=.="),
    (Code.BAD_HEADER, lambda: "e30x.e30x."),
    (Code.ALG_NOT_ALLOWED, lambda: token(b"[", {"alg": "none", "typ": "x", "crit": []}, key=BAD_KEY)),
    (Code.BAD_KID, lambda: token(b"[", header(typ=1, kid="", crit=[]), key=BAD_KEY)),
    (Code.TYP_NOT_ALLOWED, lambda: token(b"[", header(typ=1, crit=[]), key=BAD_KEY)),
    (Code.FORBIDDEN_HEADER, lambda: token(b"[", header(typ="x", crit=[]), key=BAD_KEY)),
    (Code.TYP_NOT_ALLOWED, lambda: token(b"[", header(typ="x"), key=BAD_KEY)),
    (Code.BAD_PAYLOAD, lambda: token(b"[", key=BAD_KEY)),
    (Code.UNKNOWN_ISSUER, lambda: token(claims(iss="x", aud="x", **EXPIRED, sub=DROP), key=BAD_KEY)),
    (Code.WRONG_AUDIENCE, lambda: token(claims(aud="x", **EXPIRED, sub=DROP), key=BAD_KEY)),
    (Code.EXPIRED, lambda: token(claims(**EXPIRED, nbf=NOW + 99, sub=DROP), key=BAD_KEY)),
    (Code.NOT_YET_VALID, lambda: token(claims(nbf=NOW + 99, sub=DROP), key=BAD_KEY)),
    (
        Code.ALG_MISMATCH,
        lambda: token(claims(sub=DROP), header(kid=forge.PUBLIC[Algorithm.RS256].kid), key=BAD_KEY),
    ),
    (Code.BAD_SIGNATURE, lambda: token(claims(sub=DROP, cnf={}), key=BAD_KEY)),
    (Code.LIFETIME_TOO_LONG, lambda: token(claims(iat=NOW + 99, exp=NOW + 99, sub=DROP, cnf={}))),
    (Code.ISSUED_IN_FUTURE, lambda: token(claims(iat=NOW + 99, sub=DROP, cnf={}))),
    (Code.MISSING_CLAIM, lambda: token(claims(sub=DROP, cnf={}))),
    (Code.SENDER_CONSTRAINED, lambda: token(claims(cnf={}))),
    (Code.REVOKED, token),
]


@pytest.mark.parametrize(("code", "make"), LADDER, ids=[f"{i}-{c.value}" for i, (c, _) in enumerate(LADDER)])
def test_the_first_failure_wins(code, make):
    """A token with every fault from some step on gets that step's code, cold and warm."""
    denied = Denylist()
    denied.apply(event(Kind.JTI, claims()["jti"]))
    trusted = forge.trusted(forge.trust(denied))
    warm = forge.trusted(forge.trust(denied))
    verify(token(claims(jti="another")), warm, NOW)
    for each in (trusted, warm):
        assert code_of(make(), each, scopes=frozenset({"absent"})) == code


def test_the_ladder_follows_the_table():
    """The steps of the ladder's codes never go down, as the table numbers them."""
    # A missing claim is found in step 7 or in step 10, whichever needs it.
    steps = [FACTS[code].step for code, _ in LADDER if code is not Code.MISSING_CLAIM]
    assert steps == sorted(steps)
    assert max(steps) == 12


def test_every_code_has_its_line():
    """The table names every code once, with one of the three statuses and a sentence."""
    assert set(FACTS) == set(Code)
    assert {fact.status for fact in FACTS.values()} == {401, 403, 503}
    assert all(fact.meaning and 1 <= fact.step <= 13 for fact in FACTS.values())
    assert InsufficientScope.code == Code.INSUFFICIENT_SCOPE


# --- keys ----------------------------------------------------------------------------------------


def test_an_absent_key_is_the_drivers_to_judge():
    """Without the key the driver learns issuer, kid, algorithm and iat; the error is none of the SDK's."""
    trusted = forge.trusted(forge.trust(keys={}))
    with pytest.raises(KeyAbsent) as caught:
        verify(token(), trusted, NOW)
    absent = caught.value
    assert (absent.issuer, absent.kid, absent.alg, absent.iat) == (
        ISSUER,
        KEY.kid,
        Algorithm.ES256,
        NOW - 105,
    )
    assert not isinstance(absent, VerificationError)


@pytest.mark.parametrize(("code", "make"), LADDER[:14] + LADDER[16:20])
def test_a_token_that_is_wrong_in_itself_is_worth_no_fetch(code, make):
    """Every check that needs no key comes before KeyAbsent: garbage never makes a driver fetch."""
    assert code_of(make(), forge.trusted(forge.trust(keys={}))) == code


def test_a_mintmark_kid_has_the_shape_of_a_thumbprint():
    """Where the issuer is a Mintmark, a kid of another shape is unknown at once; a good one is asked for."""
    rules = forge.policy(thumbprint_kids=True)
    trusted = forge.trusted(forge.trust(policy=rules, keys={}))
    for kid in ("short", "k" * 43 + "k", "k" * 42 + "l", "k" * 42 + "=", "/" * 43):
        assert code_of(token(head=header(kid=kid)), trusted) == Code.UNKNOWN_KID
    with pytest.raises(KeyAbsent):
        verify(token(), trusted, NOW)
    with pytest.raises(KeyAbsent):
        verify(token(head=header(kid="short")), forge.trusted(forge.trust(keys={})), NOW)


def test_a_key_belongs_to_its_issuer_alone():
    """VF5: a key of one trusted issuer verifies nothing of another, whichever kid the header names."""
    for kid in (forge.FOREIGN_PUBLIC.kid, KEY.kid):
        raw = token(head=header(kid=kid), key=forge.FOREIGN_PRIVATE)
        with pytest.raises((KeyAbsent, InvalidToken)) as caught:
            verify(raw, forge.trusted(), NOW)
        assert getattr(caught.value, "code", "absent") == ("bad_signature" if kid == KEY.kid else "absent")


def test_one_kid_at_two_issuers_is_two_keys():
    """The same kid may name different keys of different issuers, also when both headers are remembered."""
    shared = jwk.parse_jwk({**forge.FOREIGN_PUBLIC.jwk, "kid": KEY.kid})
    other = forge.foreign_trust(policy=forge.policy(issuer=FOREIGN), keys={KEY.kid: shared})
    trusted = forge.trusted(forge.trust(), other)
    for _ in range(2):
        assert verify(token(), trusted, NOW).iss == ISSUER
        raw = token(claims(iss=FOREIGN), key=forge.FOREIGN_PRIVATE)
        assert verify(raw, trusted, NOW).iss == FOREIGN
        assert code_of(token(claims(iss=FOREIGN)), trusted) == Code.BAD_SIGNATURE
        assert code_of(token(key=forge.FOREIGN_PRIVATE), trusted) == Code.BAD_SIGNATURE


def test_a_remembered_header_gives_another_issuer_nothing():
    """A header that verified for one issuer is judged anew for another: its algorithms, its typ."""
    trusted = forge.trusted()
    assert verify(token(alg=Algorithm.EDDSA), trusted, NOW).iss == ISSUER
    raw = token(claims(iss=FOREIGN), alg=Algorithm.EDDSA)
    assert code_of(raw, trusted) == Code.ALG_NOT_ALLOWED
    verify(forge.foreign_token(), trusted, NOW)
    head = {"alg": "ES256", "kid": forge.FOREIGN_PUBLIC.kid, "typ": "JWT"}
    assert code_of(token(head=head, key=forge.FOREIGN_PRIVATE), trusted) == Code.TYP_NOT_ALLOWED


def test_a_key_that_leaves_takes_its_memory_with_it():
    """After a swap without the key nothing of the old snapshot's memory lets its tokens pass."""
    trusted = forge.trusted()
    verify(token(), trusted, NOW)
    rest = {key.kid: key for key in forge.PUBLIC.values() if key is not KEY}
    swapped = trusted.replace(forge.trust(keys=rest))
    with pytest.raises(KeyAbsent):
        verify(token(), swapped, NOW)
    assert accepts(token(alg=Algorithm.EDDSA), swapped, NOW)
    assert accepts(forge.foreign_token(), swapped, NOW)
    assert accepts(token(), trusted, NOW), "a caller in flight finishes with the old one"


def test_replacing_keeps_the_others_and_the_limit():
    """Replace changes one issuer's trust, adds a new one, and keeps the size limit."""
    trusted = Trusted([forge.trust()], max_size=900)
    wider = trusted.replace(forge.foreign_trust())
    assert wider.trust(ISSUER) is trusted.trust(ISSUER)
    assert wider.trust(FOREIGN) is not None
    assert trusted.trust(FOREIGN) is None
    assert code_of("a" * 901, wider) == Code.TOO_LARGE


def test_memory_of_headers_is_bounded():
    """A thousand different good headers leave at most 256 remembered, and a long one none."""
    trusted = forge.trusted()
    for number in range(600):
        verify(token(head=header(n=number), alg=Algorithm.ES256), trusted, NOW)
    assert 0 < len(trusted.headers) <= 256
    fresh = forge.trusted()
    assert accepts(token(head=header(x="y" * 1000)), fresh, NOW)
    assert not fresh.headers


def test_memory_of_scopes_is_bounded_and_only_signed():
    """A thousand different scopes leave at most 512 remembered, long ones none, and unsigned ones none."""
    trusted = forge.trusted()
    for number in range(600):
        assert verify(token(claims(scope=f"s{number}")), trusted, NOW).scopes == {f"s{number}"}
    assert 0 < len(trusted.scopes) <= 512
    fresh = forge.trusted()
    assert verify(token(claims(scope="x" * 300)), fresh, NOW).scopes == {"x" * 300}
    with pytest.raises(InvalidToken):
        verify(token(claims(scope="forged"), key=BAD_KEY), fresh, NOW)
    with pytest.raises(KeyAbsent):
        verify(token(claims(scope="forged"), header(kid="unknown"), key=BAD_KEY), fresh, NOW)
    assert not fresh.scopes


def test_a_larger_limit_lets_larger_claims_in():
    """The limit of a token is the only limit of its size: a payload over 8 KiB passes where it is raised."""
    raw = token(claims(roles=["role"] * 2_000))
    assert code_of(raw, forge.trusted()) == Code.TOO_LARGE
    assert len(verify(raw, forge.trusted(max_size=32_768), NOW).claims["roles"]) == 2_000


# --- times, audiences, policy --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "now", "good"),
    [
        ({"exp": NOW}, NOW + 29, True),
        ({"exp": NOW}, NOW + 30, False),
        ({"nbf": NOW + 60}, NOW, True),
        ({"nbf": NOW + 61}, NOW, False),
        ({"iat": NOW + 60, "exp": NOW + 100}, NOW, True),
        ({"iat": NOW + 61, "exp": NOW + 100}, NOW, False),
    ],
)
def test_leeways_end_to_the_second(changes, now, good):
    """VF8: 30 s on exp, 60 s on iat and nbf, and not a second more."""
    if good:
        assert accepts(token(claims(**changes)), forge.trusted(), NumericDate(now))
    else:
        code_of(token(claims(**changes)), forge.trusted(), now)


def test_a_policy_sets_its_own_numbers():
    """Leeways of zero and a short max_lifetime are obeyed exactly."""
    rules = forge.policy(leeway=Seconds(0), exp_leeway=Seconds(0), max_lifetime=Seconds(905))
    trusted = forge.trusted(forge.trust(policy=rules))
    assert accepts(token(), trusted, NumericDate(NOW + 799))
    assert code_of(token(), trusted, NOW + 800) == Code.EXPIRED
    assert code_of(token(claims(exp=NOW + 801)), trusted) == Code.LIFETIME_TOO_LONG
    assert code_of(token(claims(iat=NOW + 1)), trusted) == Code.ISSUED_IN_FUTURE
    assert code_of(token(claims(nbf=NOW + 1)), trusted) == Code.NOT_YET_VALID
    check_exp(NOW + 1, rules, NOW)
    with pytest.raises(InvalidToken):
        check_exp(NOW, rules, NOW)


def test_any_of_several_audiences_will_do():
    """VF6: a service of two names takes tokens for either and for neither other."""
    trusted = forge.trusted(forge.trust(policy=forge.policy(audiences=frozenset({"a", "b"}))))
    for aud in ("a", ["b"], ["x", "a"]):
        assert accepts(token(claims(aud=aud)), trusted, NOW)
    assert code_of(token(claims(aud=["x"])), trusted) == Code.WRONG_AUDIENCE


def test_only_the_policys_algorithms_pass():
    """VF1: an algorithm that the policy leaves out is refused although its key is in the set."""
    rules = forge.policy(algorithms=frozenset({Algorithm.ES256}))
    trusted = forge.trusted(forge.trust(policy=rules))
    assert accepts(token(), trusted, NOW)
    for alg in (Algorithm.RS256, Algorithm.PS256, Algorithm.EDDSA):
        assert code_of(token(alg=alg), trusted) == Code.ALG_NOT_ALLOWED


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"issuer": ""}, "issuer"),
        ({"audiences": frozenset()}, "audience"),
        ({"audiences": frozenset({""})}, "audience"),
        ({"audiences": "orders"}, "audience"),
        ({"audiences": {"orders"}}, "audience"),
        ({"algorithms": frozenset()}, "algorithms"),
        ({"algorithms": frozenset({"HS256"})}, "algorithms"),
        ({"algorithms": frozenset({"none"})}, "algorithms"),
        ({"leeway": -1}, "leeway"),
        ({"leeway": 301}, "leeway"),
        ({"exp_leeway": 301}, "exp_leeway"),
        ({"exp_leeway": -1}, "exp_leeway"),
        ({"max_lifetime": 0}, "max_lifetime"),
        ({"audience_claim": "azp"}, "audience_claim"),
    ],
)
def test_a_policy_that_accepts_anything_or_nothing_is_refused(options, key):
    """A wrong setting stops the start, and the error names it."""
    with pytest.raises(ConfigurationError) as caught:
        forge.policy(**options)
    assert caught.value.key == key


def test_an_issuer_is_trusted_once():
    """Two policies for one issuer are a mistake, not a union."""
    with pytest.raises(ConfigurationError):
        Trusted([forge.trust(), forge.trust()])


# --- other issuers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "head", "expected"),
    [
        ({}, {}, {"client_id": "spa", "scopes": {"openid", "orders:read"}, "jti": "onrtac:1"}),
        ({"typ": "bearer"}, {"typ": DROP}, {"client_id": "spa"}),
        ({"typ": DROP}, {"typ": "at+jwt"}, {"client_id": "spa"}),
        ({"jti": DROP, "azp": DROP}, {}, {"jti": None, "client_id": None}),
        ({"azp": DROP, "appid": "entra-v1", "scope": DROP, "scp": "User.Read Mail.Read"}, {"x5t": "abc"},
         {"client_id": "entra-v1", "scopes": {"User.Read", "Mail.Read"}}),
        ({"scope": DROP, "scp": ["a", "b"]}, {}, {"scopes": {"a", "b"}}),
        ({"scope": DROP, "scp": []}, {}, {"scopes": set()}),
        ({"scope": " a  b "}, {}, {"scopes": {"a", "b"}}),
        ({"scope": DROP, "scp": ""}, {}, {"scopes": set()}),
        ({"scope": DROP}, {}, {"scopes": set()}),
        ({"client_id": "first", "azp": "second"}, {}, {"client_id": "first"}),
        ({"token_use": "access", "typ": DROP}, {}, {"client_id": "spa"}),
        ({"rid": "their-own"}, {}, {"rid": "their-own"}),
    ],
)  # fmt: skip
def test_tokens_of_other_products(changes, head, expected):
    """Keycloak, Auth0, Entra, Okta and Cognito tokens pass under the profile jwt, and read alike."""
    result = verify(forge.foreign_token(changes, head), forge.trusted(), NOW)
    assert {name: getattr(result, name) for name in expected} == expected


def test_cognito_names_its_audience_client_id():
    """Cognito's access tokens have no aud: with audience_claim the client_id is checked in its place."""
    rules = forge.policy(
        issuer=FOREIGN, profile=Profile.JWT, audience_claim="client_id", audiences=frozenset({"app1"})
    )
    trusted = forge.trusted(forge.foreign_trust(policy=rules))
    cognito = {"aud": DROP, "azp": DROP, "typ": DROP, "token_use": "access", "client_id": "app1"}
    result = verify(forge.foreign_token(cognito, {"typ": DROP}), trusted, NOW)
    assert (result.aud, result.client_id) == (("app1",), "app1")
    assert code_of(forge.foreign_token(cognito | {"client_id": "app2"}), trusted) == Code.WRONG_AUDIENCE
    id_token = cognito | {"token_use": "id", "aud": "app1", "client_id": DROP}
    assert code_of(forge.foreign_token(id_token), trusted) == Code.MISSING_CLAIM


# --- revocation and scopes -----------------------------------------------------------------------


def event(kind: Kind, value: str, not_before: int | None = None) -> RevocationEvent:
    when = None if not_before is None else NumericDate(not_before)
    return RevocationEvent(kind=kind, value=value, not_before=when, expires_at=NumericDate(NOW + 10**6))


@pytest.mark.parametrize(
    ("denied", "refused"),
    [
        (event(Kind.RID, claims()["rid"]), True),
        (event(Kind.JTI, claims()["jti"]), True),
        (event(Kind.KID, KEY.kid), True),
        (event(Kind.CLIENT, "web-frontend", NOW - 105), True),
        (event(Kind.CLIENT, "web-frontend", NOW - 106), False),
        (event(Kind.ALL, "", NOW - 105), True),
        (event(Kind.ALL, "", NOW - 106), False),
        (event(Kind.RID, claims()["jti"]), False),
        (event(Kind.JTI, claims()["rid"]), False),
        (event(Kind.CLIENT, claims()["sub"], NOW), False),
    ],
)
def test_the_denylist_is_asked(denied, refused):
    """A token is refused by its session, itself, its key, its client or its time, at each later use too."""
    listed = Denylist()
    trust = forge.trust(listed)
    trusted = forge.trusted(trust)
    before = verify(token(), trusted, NOW)
    assert before.revocation == "checked"
    admit(before, trust)
    listed.apply(denied)
    if refused:
        assert code_of(token(), trusted) == Code.REVOKED
        with pytest.raises(InvalidToken) as caught:
            admit(before, trust)
        assert caught.value.code == Code.REVOKED
    else:
        assert accepts(token(), trusted, NOW)
        admit(before, trust)


def test_another_issuers_events_mean_nothing_here():
    """A denylist is its issuer's: the same rid at another issuer is another session."""
    listed = Denylist()
    listed.apply(event(Kind.RID, "shared"))
    trusted = forge.trusted(forge.trust(listed), forge.foreign_trust())
    assert code_of(token(claims(rid="shared")), trusted) == Code.REVOKED
    assert accepts(forge.foreign_token({"rid": "shared"}), trusted, NOW)


def test_a_token_newer_than_what_is_known_is_503():
    """Past the cutoff a validly signed token cannot be judged; older ones pass, and say ``stale``."""
    stale = forge.trust(Denylist(), revocation=Revocation.STALE, cutoff=NumericDate(NOW - 105))
    trusted = forge.trusted(stale)
    assert verify(token(), trusted, NOW).revocation == "stale"
    with pytest.raises(VerifierUnavailable) as caught:
        verify(token(claims(iat=NOW - 104)), trusted, NOW)
    assert caught.value.code == Code.REVOCATION_STALE
    assert code_of(token(claims(iat=NOW - 104), key=BAD_KEY), trusted) == Code.BAD_SIGNATURE


def test_a_cutoff_before_everything_lets_nothing_pass():
    """A driver without any snapshot sets NOTHING_PASSES: good tokens are 503, bad ones still 401."""
    trusted = forge.trusted(forge.trust(Denylist(), revocation=Revocation.STALE, cutoff=NOTHING_PASSES))
    with pytest.raises(VerifierUnavailable):
        verify(token(), trusted, NOW)
    assert code_of(token(claims(exp=NOW - 31)), trusted) == Code.EXPIRED


def test_a_revoked_token_is_401_also_while_stale():
    """What is known to be revoked is refused as that, before anything is said about staleness."""
    listed = Denylist()
    listed.apply(event(Kind.RID, claims()["rid"]))
    stale = forge.trust(listed, revocation=Revocation.STALE, cutoff=NOTHING_PASSES)
    assert code_of(token(), forge.trusted(stale)) == Code.REVOKED


@pytest.mark.parametrize("status", list(Revocation))
def test_fresh_revocation_demands_a_live_feed(status):
    """A route that asks for fresh revocation gets 503 from a stale feed and from an issuer without one."""
    listed = None if status is Revocation.UNSUPPORTED else Denylist()
    trusted = forge.trusted(forge.trust(listed, revocation=status))
    assert verify(token(), trusted, NOW).revocation is status
    if status is Revocation.CHECKED:
        assert accepts(token(), trusted, NOW, fresh_revocation=True)
    else:
        with pytest.raises(VerifierUnavailable) as caught:
            verify(token(), trusted, NOW, fresh_revocation=True)
        assert FACTS[Code(caught.value.code)].status == caught.value.status


def test_trust_says_unsupported_only_without_a_denylist():
    """A trust whose status and denylist contradict each other is never made."""
    for listed, status in ((None, Revocation.CHECKED), (Denylist(), Revocation.UNSUPPORTED)):
        with pytest.raises(ValueError, match="unsupported"):
            forge.trust(listed, revocation=status)


def test_missing_scopes_are_403_and_named():
    """A good token without a scope is 403 with the missing ones in order; revocation comes first."""
    trusted = forge.trusted()
    assert accepts(token(), trusted, NOW, scopes=frozenset({"orders:read"}))
    with pytest.raises(InsufficientScope) as caught:
        verify(token(), trusted, NOW, scopes=frozenset({"b", "orders:read", "a"}))
    assert caught.value.missing == ("a", "b")


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("", set()),
        ("a", {"a"}),
        ("a b", {"a", "b"}),
        (" a  b ", {"a", "b"}),
        ("a\tb", {"a\tb"}),
        ("a\u2003b", {"a\u2003b"}),
        ("A a", {"A", "a"}),
    ],
)
def test_scope_is_split_at_spaces_alone(scope, scopes):
    """RFC 6749 s.3.3: only U+0020 separates; another blank can't turn one scope into two."""
    assert verify(token(claims(scope=scope)), forge.trusted(), NOW).scopes == scopes


# --- what the module is --------------------------------------------------------------------------


def test_an_error_shows_no_token():
    """Neither message nor args of a refusal hold a part of the token."""
    raw = token(claims(sub="usr_secretname", aud="elsewhere"))
    with pytest.raises(InvalidToken) as caught:
        verify(raw, forge.trusted(), NOW)
    shown = json.dumps([str(caught.value), *map(str, caught.value.args)])
    assert not any(part in shown for part in [*raw.split("."), "usr_secretname", "elsewhere"])


def test_there_is_no_symmetric_algorithm():
    """The four algorithms are all there are: no name of another is in the code that verifies."""
    assert [alg.value for alg in Algorithm] == ["RS256", "PS256", "ES256", "EdDSA"]
    folder = Path(verification.__file__).parent
    for name in ("algorithm.py", "jws.py", "verification.py", "policy.py"):
        text = (folder / name).read_text()
        assert "hmac" not in text.lower().replace("hs*", "")


def test_names_are_typed():
    """The parts of a token have the types of units, so that a checker tells a rid from a jti."""
    hints = {
        field.name: field.type for field in msgspec.structs.fields(verify(token(), forge.trusted(), NOW))
    }
    assert (hints["rid"], hints["jti"], hints["client_id"]) == (Rid | None, Jti | None, ClientId | None)


def test_policy_and_trust_are_immutable():
    """A policy in use cannot be loosened, and the trust that holds it cannot be swapped in place."""
    rules = forge.policy()
    with pytest.raises(AttributeError):
        rules.profile = Profile.JWT  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Trust(policy=rules, keys={}).policy = rules  # type: ignore[misc]
    assert isinstance(rules, Policy)
