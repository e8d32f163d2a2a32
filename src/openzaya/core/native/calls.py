"""Calls of a library's functions with tensors, though nothing here knows torch."""

import ctypes
from collections.abc import Callable, Collection
from types import NoneType
from typing import Protocol


class Array(Protocol):
    """What is needed of a tensor on the CPU."""

    @property
    def dtype(self) -> object:
        """The type of its elements."""

    def data_ptr(self) -> int:
        """Return its address."""

    def is_contiguous(self) -> bool:
        """Tell whether its elements lie one after the other."""


Argument = Array | int | float | None
_PLAIN = (int, float, NoneType)


class Functions:
    """The functions of a library, which take addresses, int64 and float and return nothing."""

    def __init__(self, library: Callable[[], ctypes.CDLL], dtypes: Collection[object]) -> None:
        self._library = library
        self._dtypes = dtypes
        self._known: dict[str, Callable[..., None]] = {}

    def call(self, name: str, *args: Argument) -> None:
        """Call a function; arrays must be contiguous and of one of the dtypes.

        Python's lock is released meanwhile.
        """
        function = self._known.get(name) or self._find(name, args)
        function(*[x if isinstance(x, _PLAIN) else self._address(x) for x in args])

    def _find(self, name: str, args: tuple[Argument, ...]) -> Callable[..., None]:
        """Find a function; the first call tells which arguments are floats, all else is a word."""
        function = getattr(self._library(), name)
        function.argtypes = [
            ctypes.c_float if isinstance(value, float) else ctypes.c_void_p for value in args
        ]
        function.restype = None
        self._known[name] = function
        return function  # type: ignore[no-any-return]

    def _address(self, x: Array) -> int:
        assert x.dtype in self._dtypes, x.dtype
        assert x.is_contiguous(), "rows are not one after the other"
        return x.data_ptr()
