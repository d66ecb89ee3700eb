"""A mean that is taken name by name while updates arrive, and comes out the same in any order."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from polyclinic.errors import ContractViolation
from polyclinic.exchange import Array

Float64 = npt.NDArray[np.float64]
CHUNK = 1 << 18


@dataclass
class _Sum:
    """A running sum kept as two float64 numbers, high and low part (Knuth's two-sum).

    106 bits of mantissa hold a sum of float32 differences times weights exactly unless their
    sizes differ by more than about 2^50, so the order of arrival is not seen in the result.
    """

    shape: tuple[int, ...]
    high: Float64
    low: Float64

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> "_Sum":
        size = int(np.prod(shape, dtype=np.int64))
        return cls(shape, np.zeros(size), np.zeros(size))

    def add(self, value: Array, factor: Float64) -> None:
        """Add ``factor * value``; in chunks, so that temporaries stay small."""
        flat = value.reshape(-1)
        scale = np.broadcast_to(factor, value.shape).reshape(-1) if factor.ndim else factor
        for start in range(0, flat.size, CHUNK):
            part = slice(start, start + CHUNK)
            x = flat[part].astype(np.float64) * (scale[part] if factor.ndim else factor)
            a = self.high[part]
            s = a + x
            b = s - a
            self.low[part] += (a - (s - b)) + (x - b)
            # Normalised after every step: high is always the rounded sum.
            self.high[part] = s + self.low[part]
            self.low[part] -= self.high[part] - s

    def value(self) -> Float64:
        return self.high.reshape(self.shape)


@dataclass
class KeyedMean:
    """Weighted means by name, each over the sites that sent the name.

    Guarantees:
    - Constant memory: 16 bytes per number and name, however many sites contribute.
    - The result does not depend, in a single bit, on the order in which sites were added.
    - A site counts at most once per name.
    - A name nobody sent has no mean: the caller keeps its old value.
    """

    _sums: dict[str, _Sum] = field(default_factory=dict)
    _weights: dict[str, dict[str, Float64]] = field(default_factory=dict)

    def add(self, site: str, name: str, value: Array, weight: float | Float64 = 1.0) -> None:
        """Count ``site``'s value.

        Args:
            weight: one finite number >= 0, or one per row of ``value``; rows of weight 0 do not
                vote.

        Raises:
            ContractViolation: a second value of the same site, another shape, or a bad weight.
        """
        factor = np.asarray(weight, dtype=np.float64)
        voters = self._weights.setdefault(name, {})
        sums = self._sums.setdefault(name, _Sum.zero(value.shape))
        if site in voters:
            raise _violation(f"one '{name}' per site and round", "a second one")
        if value.shape != sums.shape or factor.shape not in ((), value.shape[:1]):
            raise _violation(f"'{name}' of shape {sums.shape}", f"shape {value.shape}")
        if not np.isfinite(factor).all() or (factor < 0).any():
            raise _violation(f"a finite weight of 0 or more for '{name}'", "another number")
        voters[site] = factor
        sums.add(value, factor.reshape(-1, *[1] * (value.ndim - 1)) if factor.ndim else factor)

    def names(self) -> frozenset[str]:
        """Names with at least one contribution."""
        return frozenset(self._sums)

    def weight(self, name: str) -> Float64:
        """Total weight: a scalar array, or one number per row."""
        return _exact_total(self._weights[name].values())

    def mean(self, name: str) -> Float64:
        """Σ w x / Σ w in float64; 0 where the weights sum to 0."""
        total = self.weight(name)
        safe = np.where(total > 0, total, 1.0)
        value = self._sums[name].value()
        return value / (safe.reshape(-1, *[1] * (value.ndim - 1)) if safe.ndim else safe)


def _exact_total(weights: Iterable[Float64]) -> Float64:
    """The sum of weights, exactly rounded and hence free of order; a scalar or one per row."""
    weights = list(weights)
    rows = max(w.size for w in weights)
    spread = [np.broadcast_to(w.reshape(-1), (rows,)) for w in weights]
    total = np.array([math.fsum(column) for column in zip(*spread, strict=True)])
    return total if any(w.ndim for w in weights) else total.reshape(())


def _violation(expected: str, got: str) -> ContractViolation:
    return ContractViolation(expected=expected, got=got, remedy="refuse the update")
