"""Keys in a PKCS#11 token, in this process: signer.token, on SoftHSM."""

import threading
from collections.abc import Iterator

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass, TokenFlag
from tests.softhsm import PIN, SoftHsm, soft_hsm

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.errors import SignerUnavailable
from mintmark.ports.signer import Refusal, SignerRefused, TokenState
from mintmark.signer import token as token_module
from mintmark.signer.cryptoki import Module, ModuleUnusable
from mintmark.signer.token import ALGORITHMS, Token
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, Seconds

ISSUER, OTHER = Issuer("https://auth.example.com"), Issuer("https://other.example.com")
HOUR = Seconds(3600)
NOTHING: frozenset[Kid] = frozenset()


class Held:
    """A token, the clock that it goes by, and a look into it beside it."""

    def __init__(self, found: SoftHsm) -> None:
        self.found = found
        self.clock = FakeClock()
        self.module = Module(found.module)
        self.token = self.open(PIN)

    def open(self, pin: str) -> Token:
        return Token(self.module, label=self.found.label, pin=pin, rsa_bits=2048, clock=self.clock)

    def session(self) -> pkcs11.Session:
        """Another session of the same login."""
        return self.module.token(self.found.label).open(rw=True)

    def begin_anew(self) -> None:
        """Nothing that was found is remembered."""
        self.token.close()
        self.clock.advance(2)

    def objects(self, kid: Kid) -> dict[ObjectClass, pkcs11.Object]:
        """The halves of a key."""
        found = self.session().get_objects({Attribute.ID: kid.encode()})
        return {item[Attribute.CLASS]: item for item in found}

    def reasons(self, kid: Kid, alg: Algorithm = Algorithm.ES256) -> Refusal:
        """Why the key is not opened."""
        with pytest.raises(SignerRefused) as refused:
            self.token.open(kid=kid, issuer=ISSUER, alg=alg)
        return refused.value.reason


@pytest.fixture
def held(tmp_path, monkeypatch) -> Iterator[Held]:
    found = soft_hsm(tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    made = Held(found)
    yield made
    made.token.close()


@pytest.mark.parametrize("alg", sorted(ALGORITHMS))
def test_key_is_made_in_the_token_and_cannot_come_out(held, alg):
    """KY5: sensitive, not extractable, made there, kept there, for signing alone, named by its thumbprint."""
    public, key = held.token.generate(issuer=ISSUER, alg=alg)
    private = held.objects(public.kid)[ObjectClass.PRIVATE_KEY]
    for attribute in (
        Attribute.TOKEN,
        Attribute.PRIVATE,
        Attribute.SENSITIVE,
        Attribute.ALWAYS_SENSITIVE,
        Attribute.NEVER_EXTRACTABLE,
        Attribute.LOCAL,
        Attribute.SIGN,
    ):
        assert private[attribute] is True
    for attribute in (
        Attribute.EXTRACTABLE,
        Attribute.DECRYPT,
        Attribute.UNWRAP,
        Attribute.DERIVE,
        Attribute.SIGN_RECOVER,
    ):
        assert private[attribute] is False
    secret = Attribute.VALUE if alg is Algorithm.ES256 else Attribute.PRIVATE_EXPONENT
    with pytest.raises(pkcs11.AttributeSensitive):
        private[secret]
    label = private[Attribute.LABEL].split(" ")
    assert (label[0], label[2:]) == ("mintmark", [alg.value, str(held.clock.now())])
    assert ISSUER not in private[Attribute.LABEL]
    message = b"x" * 1000
    jws.verify(public, message, key.sign(message))


def test_key_for_one_algorithm_is_not_opened_for_another(held):
    """KY2: the pair of RS256 would fit PS256 as well, and is refused."""
    public, _ = held.token.generate(issuer=ISSUER, alg=Algorithm.RS256)
    assert held.reasons(public.kid, Algorithm.PS256) is Refusal.ABSENT
    assert held.token.open(kid=public.kid, issuer=ISSUER, alg=Algorithm.RS256)


def test_key_that_could_come_out_is_not_used(held, caplog):
    """KY5: one that somebody put there with the right name and label, but extractable, is refused."""
    session = held.session
    public, _ = held.token.generate(issuer=ISSUER, alg=Algorithm.RS256)
    halves = held.objects(public.kid)
    label = halves[ObjectClass.PRIVATE_KEY][Attribute.LABEL]
    _, loose = session().generate_keypair(
        KeyType.RSA,
        2048,
        label=label,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template={Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False},
    )
    halves[ObjectClass.PRIVATE_KEY].destroy()
    loose[Attribute.ID] = public.kid.encode()
    held.begin_anew()
    assert held.reasons(public.kid, Algorithm.RS256) is Refusal.ABSENT
    assert "would give" in caplog.text


def test_pair_whose_halves_do_not_belong_together_is_not_used(held):
    """A public half that was exchanged, or a private one under a name that is not its own, is refused."""
    (first, _), (second, _) = (held.token.generate(issuer=ISSUER, alg=Algorithm.ES256) for _ in range(2))
    one, other = held.objects(first.kid), held.objects(second.kid)
    one[ObjectClass.PRIVATE_KEY].destroy()
    other[ObjectClass.PRIVATE_KEY][Attribute.ID] = first.kid.encode()
    held.begin_anew()
    assert held.reasons(first.kid) is Refusal.ABSENT
    assert held.reasons(second.kid) is Refusal.ABSENT
    held.objects(first.kid)[ObjectClass.PUBLIC_KEY].destroy()
    held.objects(second.kid)[ObjectClass.PUBLIC_KEY][Attribute.ID] = first.kid.encode()
    held.begin_anew()
    assert held.reasons(first.kid) is Refusal.ABSENT


def test_two_keys_of_one_name_are_none(held):
    """Which of the two would sign is nobody's choice."""
    (first, _), (second, _) = (held.token.generate(issuer=ISSUER, alg=Algorithm.ES256) for _ in range(2))
    held.objects(second.kid)[ObjectClass.PRIVATE_KEY][Attribute.ID] = first.kid.encode()
    held.begin_anew()
    assert held.reasons(first.kid) is Refusal.ABSENT


def test_sweep_leaves_what_is_not_ours(held):
    """Objects that other programs keep in the same token stay, whatever their age."""
    held.token.connect()
    session = held.session()
    for label in ("payroll", "mintmark", "mintmark a b c", "mintmark a b 1 2"):
        session.generate_keypair(KeyType.RSA, 2048, label=label, store=True)
    assert held.token.sweep(keep=NOTHING, issuer=ISSUER, older_than=Seconds(-1)) == ()
    assert len(list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))) == 4


def test_sweep_takes_what_was_made_and_never_named(held):
    """A maker that ended between making a pair and naming it leaves nothing for good."""
    public, _ = held.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    for half in held.objects(public.kid).values():
        half[Attribute.ID] = b""
    assert held.token.sweep(keep=NOTHING, issuer=OTHER, older_than=Seconds(-1)) == ()
    assert held.token.sweep(keep=NOTHING, issuer=ISSUER, older_than=HOUR) == ()
    assert len(list(held.session().get_objects())) == 2
    held.clock.advance(HOUR + 1)
    assert held.token.sweep(keep=NOTHING, issuer=ISSUER, older_than=HOUR) == ()
    assert list(held.session().get_objects()) == []


def test_key_that_another_node_destroyed_fails_alone(held):
    """It signs nothing more; the token is not away for that, and other keys sign on."""
    (_, gone), (stays, here) = (held.token.generate(issuer=ISSUER, alg=Algorithm.ES256) for _ in range(2))
    first = gone.sign(b"m")
    assert first
    for half in held.objects(Kid(gone._kid)).values():
        half.destroy()
    for _ in range(2):
        with pytest.raises(SignerUnavailable):
            gone.sign(b"m")
        assert held.token.state is TokenState.READY
        jws.verify(stays, b"m", here.sign(b"m"))


def test_everything_is_unavailable_while_the_token_is_away(held, caplog):
    """SIGNER-14: nothing is called absent that may be there; what it was is said once, and it comes back."""
    public, key = held.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    held.found.take_away()
    for _ in range(3):
        for call in (
            lambda: key.sign(b"m"),
            lambda: held.token.generate(issuer=ISSUER, alg=Algorithm.ES256),
            lambda: held.token.open(kid=public.kid, issuer=ISSUER, alg=Algorithm.ES256),
            lambda: held.token.open(kid=Kid("A" * 43), issuer=ISSUER, alg=Algorithm.ES256),
            lambda: held.token.destroy(public.kid),
            held.token.connect,
        ):
            with pytest.raises(SignerUnavailable) as failed:
                call()
            assert type(failed.value) is SignerUnavailable
        assert held.token.state is TokenState.AWAY
        held.clock.advance(2)
    assert caplog.text.count("does not answer") == 1
    held.found.bring_back()
    jws.verify(public, b"m", key.sign(b"m"))
    assert held.token.state is TokenState.READY
    assert caplog.text.count("the token answers") == 1


@pytest.mark.parametrize("what", ["sign", "open", "open another", "generate", "destroy", "sweep"])
def test_whichever_call_meets_an_absent_token_first_is_unavailable(held, what):
    """SoftHSM shows an empty token where there is none: nothing is believed to be absent for that."""
    public, key = held.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    other = Kid("A" * 43)
    held.found.take_away()
    calls = {
        "sign": lambda: key.sign(b"m"),
        "open": lambda: held.token.open(kid=public.kid, issuer=ISSUER, alg=Algorithm.ES256),
        "open another": lambda: held.token.open(kid=other, issuer=ISSUER, alg=Algorithm.ES256),
        "generate": lambda: held.token.generate(issuer=ISSUER, alg=Algorithm.ES256),
        "destroy": lambda: held.token.destroy(other),
        "sweep": lambda: held.token.sweep(keep=NOTHING, issuer=ISSUER, older_than=HOUR),
    }
    with pytest.raises(SignerUnavailable) as failed:
        calls[what]()
    assert type(failed.value) is SignerUnavailable
    assert held.token.state is TokenState.AWAY
    held.found.bring_back()
    held.clock.advance(2)
    jws.verify(public, b"m", key.sign(b"m"))


def test_token_that_is_away_is_asked_at_most_once_a_second(held):
    """Callers are answered at once meanwhile: each try may take as long as a network does."""
    held.token.connect()
    held.found.take_away()
    with pytest.raises(SignerUnavailable):
        held.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    with pytest.raises(SignerUnavailable):
        held.token.connect()
    held.found.bring_back()
    with pytest.raises(SignerUnavailable):
        held.token.connect()
    held.clock.advance(1)
    held.token.connect()


def test_pin_that_was_refused_is_not_tried_again(held, caplog):
    """Even where it would be right by now: a few wrong tries lock a token, and nobody counts them for us."""
    held.token.close()
    wrong = held.open("guess")
    for _ in range(5):
        with pytest.raises(SignerUnavailable):
            wrong.generate(issuer=ISSUER, alg=Algorithm.ES256)
        held.clock.advance(10)
    assert wrong.state is TokenState.PIN_REFUSED
    assert caplog.text.count("refuses the PIN") == 1
    assert "guess" not in caplog.text
    wrong.close()
    held.token.connect()
    held.session().set_pin(PIN, "guess")
    held.token.close()
    with pytest.raises(SignerUnavailable):
        wrong.connect()
    held.open("guess").connect()


@pytest.mark.parametrize("flag", [TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED])
def test_last_try_of_a_pin_is_left_to_people(held, flag):
    """Nodes that something starts again and again with a wrong PIN must not lock the token for good."""
    asked: list[object] = []

    class Counted:
        """A token that was tried before."""

        flags = flag

        def open(self, **given: object) -> None:
            asked.append(given)

    class Strict(Module):
        def token(self, label: str) -> pkcs11.Token:
            super().token(label)
            return Counted()  # type: ignore[return-value]

    held.module = Strict(held.found.module)
    token = held.open(PIN)
    with pytest.raises(SignerUnavailable):
        token.connect()
    assert token.state is TokenState.PIN_REFUSED
    assert asked == []


def test_pin_is_tried_once_by_however_many_waited(held, monkeypatch):
    """Signatures that all wait for a token to begin anew use up one try of its PIN together, not one each."""
    monkeypatch.setattr(token_module, "_DRAIN", 60.0)
    tries: list[object] = []
    entered, leave = threading.Event(), threading.Event()

    class Refusing:
        """A token whose PIN was changed meanwhile."""

        flags = TokenFlag(0)

        def open(self, **given: object) -> None:
            tries.append(given)
            raise pkcs11.PinIncorrect

    class Changing(Module):
        changed = False

        def token(self, label: str) -> pkcs11.Token:
            return Refusing() if self.changed else super().token(label)  # type: ignore[return-value]

    held.module = Changing(held.found.module)
    token = held.open(PIN)

    def stay() -> None:
        with token._session():
            entered.set()
            assert leave.wait(60)

    def reach() -> None:
        with pytest.raises(SignerUnavailable):
            token.connect()

    inside = threading.Thread(target=stay)
    inside.start()
    assert entered.wait(60)
    held.found.take_away()
    with pytest.raises(SignerUnavailable):
        token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    held.found.bring_back()
    held.clock.advance(2)
    held.module.changed = True
    waiting = [threading.Thread(target=reach) for _ in range(4)]
    for thread in waiting:
        thread.start()
    while len(token._changed._waiters) < len(waiting):
        pass
    leave.set()
    for thread in (inside, *waiting):
        thread.join()
    assert len(tries) == 1
    assert token.state is TokenState.PIN_REFUSED


def test_threads_sign_at_once(held):
    """Each has a session of its own: of many signatures at a time every one is right."""
    pairs = [held.token.generate(issuer=ISSUER, alg=alg) for alg in sorted(ALGORITHMS)]
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                public, key = pairs[(number + turn) % len(pairs)]
                message = b"%d.%d" % (number, turn)
                jws.verify(public, message, key.sign(message))
        except BaseException as error:  # noqa: BLE001 - told to the test
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_that_sign_while_the_token_goes_and_comes_end_well(held):
    """None hangs, none crashes: each signature is right or unavailable, and afterwards all are right."""
    public, key = held.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                try:
                    jws.verify(public, b"m", key.sign(b"m"))
                except SignerUnavailable:
                    held.clock.advance(1)
        except BaseException as error:  # noqa: BLE001 - told to the test
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        held.found.take_away()
        with pytest.raises(SignerUnavailable):
            held.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
        held.found.bring_back()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    held.clock.advance(2)
    jws.verify(public, b"m", key.sign(b"m"))


@pytest.mark.parametrize("path", ["/nonexistent.so", "/etc/passwd"])
def test_file_that_is_no_module_is_said_so(path):
    """Loading fails with one error, whatever the file is."""
    with pytest.raises(ModuleUnusable):
        Module(path)
