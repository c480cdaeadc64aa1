"""What of a text is its answer, and whether two answers are the same."""

import re
from decimal import Decimal, InvalidOperation

from clusterucb.config import ExactMatch

_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")  # the dash of 5-3 is no sign


def extracted(text: str, settings: ExactMatch) -> str | None:
    """Return the answer that a text gives; None where it gives none."""
    match settings.extract:
        case "whole":
            return text.strip() or None
        case "last_number":
            found = _NUMBER.findall(text)
            return _plain(found[-1]) if found else None
        case "regex":
            assert settings.pattern is not None, "the schema sees to it"
            matches = list(re.finditer(settings.pattern, text))
            if not matches:
                return None
            last = matches[-1]
            return ((last.group(1) if last.re.groups else last.group(0)) or "").strip() or None


def same(found: str | None, wanted: str) -> bool:
    """Whether an answer is the wanted one: as numbers where both are numbers, else as text, case and space aside."""
    if found is None:
        return False
    numbers = _number(found), _number(wanted)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return " ".join(found.split()).casefold() == " ".join(wanted.split()).casefold()


def _plain(number: str) -> str:
    return number.replace(",", "")


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(_plain(text.strip().lstrip("$").rstrip("%.")))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
