"""A PKCS#11 module (Cryptoki 2.40), loaded so that several threads may use it at once.

python-pkcs11 initializes a module with no arguments, which promises that one thread alone will call it
(C_Initialize, PKCS#11 v2.40 s.5.4), and SoftHSM for one then takes no locks at all. So it is initialized and
finalized here, with ``CKF_OS_LOCKING_OK``, and python-pkcs11 gets to see it only as it is afterwards.
"""

import ctypes
from typing import Final

import pkcs11
from pkcs11 import _pkcs11

_OK: Final = 0
_OS_LOCKING_OK: Final = 2

_Call = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)


class ModuleUnusable(OSError):
    """The file is no PKCS#11 module that this process can load."""


class _Functions(ctypes.Structure):
    """The beginning of CK_FUNCTION_LIST; what follows is python-pkcs11's concern."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("initialize", _Call), ("finalize", _Call))


class _Arguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS without mutex functions of ours."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class Module:
    """The module at ``path``, loaded and not yet initialized. Raises ModuleUnusable.

    Whoever calls :meth:`initialize` or :meth:`finalize` sees to it that no other thread is inside.
    """

    def __init__(self, path: str) -> None:
        try:
            loaded = ctypes.CDLL(path)
            listed = ctypes.POINTER(_Functions)()
            answer = loaded.C_GetFunctionList(ctypes.byref(listed))
        except (OSError, AttributeError):
            raise ModuleUnusable("no PKCS#11 module can be loaded from there") from None
        if answer != _OK:
            raise ModuleUnusable("the PKCS#11 module gives no functions")
        self._functions = listed.contents
        self._arguments = _Arguments(flags=_OS_LOCKING_OK)
        # Its own __init__ would initialize the module, in the way that the first lines here speak of.
        self._library: _pkcs11.lib = _pkcs11.lib.__new__(_pkcs11.lib, path)  # type: ignore[call-arg]

    def initialize(self) -> None:
        """Begin anew. Raises PKCS11Error when the module cannot, for threads or at all."""
        self.finalize()
        answer = self._functions.initialize(ctypes.addressof(self._arguments))
        if answer != _OK:
            raise pkcs11.PKCS11Error(f"C_Initialize gave {answer:#x}")

    def finalize(self) -> None:
        """End every session; what is unusable afterwards is unusable before. Idempotent."""
        self._functions.finalize(None)

    def token(self, label: str) -> pkcs11.Token:
        """The one token of that label. Raises PKCS11Error when there is none, or more than one."""
        return self._library.get_token(token_label=label)
