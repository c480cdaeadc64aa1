"""Strings by the million: an Arrow array that reads as a sequence of str."""

# pyarrow is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_ROWS_AT_A_TIME = 8192


class Texts(Sequence[str]):
    """A sequence of str that costs little more than its characters; `array` is an Arrow array of strings."""

    def __init__(self, array: Any) -> None:
        self._array: Any = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._array[index].to_pylist() if isinstance(index, slice) else self._array[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS_AT_A_TIME):
            yield from self._array.slice(start, _ROWS_AT_A_TIME).to_pylist()

    def take(self, samples: npt.ArrayLike) -> list[str]:
        """Return the strings of these samples."""
        return self._array.take(pa.array(np.asarray(samples, np.int64))).to_pylist()

    def codes(self) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
        """Return every string as an index into the distinct ones, which come in order of first appearance."""
        encoded = self._array.dictionary_encode()
        return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), tuple(encoded.dictionary.to_pylist())
