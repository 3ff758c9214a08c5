"""Read a file of variables: `NAME=value` lines, as `.env.example` is written.

    # a comment
    OTEL_SERVICE_NAME=orders          # a comment after a blank is cut off
    export OTEL_RESOURCE_ATTRIBUTES='team=data,tier=1'
    GREETING="two\\nlines"

Nothing is expanded: `$HOME` stays `$HOME`. Inside double quotes `\\n`, `\\t`, `\\"` and `\\\\` are
escapes; inside single quotes nothing is. Errors name the file and the line, never a value.
"""

from __future__ import annotations

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$"}


class EnvFileError(Exception):
    """Tell, in one line, why a file of variables cannot be read."""


def read(path: str) -> dict[str, str]:
    """Return the variables of the file at `path`; of a repeated name the last.

    Raises EnvFileError where the file or a line of it cannot be read. UTF-8, with or without a byte
    order mark; Unix and Windows line ends.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs start-up
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise EnvFileError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise EnvFileError(f"cannot read {path}: it is not UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        try:
            name, value = _assignment(entry)
        except ValueError as error:
            raise EnvFileError(f"{path}:{number}: {error}") from None
        found[name] = value
    return found


def _assignment(entry: str) -> tuple[str, str]:
    name, equals, rest = entry.partition("=")
    name = name.strip()
    if name.startswith(("export ", "export\t")):
        name = name[7:].strip()
    if not equals:
        raise ValueError("expected NAME=value")
    if not name.isascii() or not name.replace(".", "_").isidentifier():
        raise ValueError("the name before = is not the name of a variable")
    value = _value(rest.strip())
    if "\0" in value:
        raise ValueError(f"{name} holds a NUL byte")
    return name, value


def _value(text: str) -> str:
    quote = text[:1]
    if quote not in ("'", '"') or not quote:
        hash_at = next((i for i, c in enumerate(text) if c == "#" and (i == 0 or text[i - 1] in " \t")), len(text))
        return text[:hash_at].rstrip()
    value, position = "", 1
    while position < len(text) and text[position] != quote:
        if quote == '"' and text[position] == "\\" and text[position + 1 : position + 2] in _ESCAPES:
            position += 1
            value += _ESCAPES[text[position]]
        else:
            value += text[position]
        position += 1
    if position >= len(text):
        raise ValueError("a quote is not closed")
    after = text[position + 1 :].strip()
    if after and not after.startswith("#"):
        raise ValueError("text after the closing quote")
    return value
