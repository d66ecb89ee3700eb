"""What came of a question: whose answer counted, and why another's did not."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from polyclinic.errors import ContractViolation, PolyclinicError
from polyclinic.exchange import Tensors, group_of
from polyclinic.flare.convert import ERROR
from polyclinic.flare.gathering import Gathering, Outcome
from polyclinic.flare.guard import Refused
from polyclinic.ledger import Record

MALFORMED = "malformed"
Take = Callable[[str, Shareable], None]
_CODE = re.compile(r"[A-Za-z_]{1,48}")


@dataclass
class Tally:
    """By site, how a question ended.

    Attributes:
        refused: reason code of the guard.
        failed: the site's own error code.
        outcome: who was late, absent or lost, and how long answers took.
    """

    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)

    def record(self) -> Record:
        """The part of a ledger line that says who did not count and why."""
        answered = {site: round(s, 4) for site, s in sorted(self.outcome.answered.items())}
        return {
            "refused": self.refused,
            "failed": self.failed,
            "late": self.outcome.late,
            "absent": self.outcome.absent,
            "lost": self.outcome.lost,
            "answer_seconds": answered,
        }


def gather(gathering: Gathering, take: Take, fl_ctx: FLContext, abort: Signal) -> Tally:
    """Ask, hand every answer to ``take``, and tell what came of it.

    An answer with an error code, or one that ``take`` refuses, is noted and changes nothing else.
    An answer may hold anything in any place, so reading it may raise anything; that is the site's
    fault and its alone. What is wrong with the server itself passes.
    """
    tally = Tally(outcome=gathering.outcome)
    for site, answer in gathering.answers(fl_ctx, abort):
        try:
            code = answer.get_return_code()
            if code in (None, "", ReturnCode.OK):
                take(site, answer)
            else:
                tally.failed[site] = _own_words(answer, str(code))
        except Refused as refusal:
            tally.refused[site] = refusal.reason
        except ContractViolation:
            tally.refused[site] = MALFORMED
        except PolyclinicError:
            raise
        except Exception:
            tally.refused[site] = MALFORMED
    return tally


def by_group(tensors: Tensors) -> dict[str, int]:
    """Bytes of tensors by group."""
    found: dict[str, int] = {}
    for name, array in tensors.items():
        found[group_of(name)] = found.get(group_of(name), 0) + int(array.nbytes)
    return dict(sorted(found.items()))


def _own_words(answer: Shareable, code: str) -> str:
    """The error code that the site's executor gave, or FLARE's return code."""
    head = answer.get_header(ERROR)
    word = head.get("code") if isinstance(head, dict) else None
    for said in (word, code):
        if isinstance(said, str) and _CODE.fullmatch(said):
            return said
    return "unknown"
