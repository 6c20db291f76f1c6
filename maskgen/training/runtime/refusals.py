"""One sentence from the nested errors of jsonargparse, which quote every alternative and the whole configuration."""

import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence

from maskgen.training.runtime.allowed import described

DUMPS = ("Does not validate against any of the Union subtypes", "Problem with given class_path", "Parser key ")
"""How jsonargparse's own messages begin."""
NAMED = (
    (r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>(?:\.? Got value: (.*))?$", r"got \2, wanted \1"),
    (r"Expected a dot import path string: (\S+).*", r"\1 is no class; give the path of one, such as package.module.Class"),
    (r"Expected a path but (\S+) either not accessible or invalid.*", r"\1 is neither a class nor a file with one"),
    (r"(?:Option|Key) '?([\w.-]+)'? is not (?:accepted|expected)", r"there is no argument \1"),
)
"""jsonargparse's words, and ours."""
ABOUT_A_CLASS = re.compile("there is no argument|has no attribute|No module named")
NOT_MET = re.compile(r"Requirement '([^']+)' not met")


def refusal(error: BaseException, verb: str, own: Sequence[str] = ()) -> str | None:
    """The sentence for a configuration that cannot be parsed, or whose objects cannot be made.

    Args:
        error: What LightningCLI raised.
        verb: The verb, for the hint at its help.
        own: Packages of the user that are allowed.

    Returns:
        The sentence; None for an error of the run itself, which says what is wrong in its own words.
    """
    message = " ".join(str(error).split())
    if not isinstance(error, ArgumentError) and not message.startswith(DUMPS):
        return None
    if said := _not_allowed(message, own):
        return said
    causes = [" ".join(str(one).split()) for one in _causes(error)]
    kind = next((found[-1] for text in reversed(causes) if (found := re.findall(r"given class_path '([^']+)'", text))), None)
    if missing := NOT_MET.search(causes[-1]):
        return f"{kind or 'a class'} needs {missing[1]}, which is not installed; install it: pip install '{missing[1]}'"
    words = _innermost(causes[-1])
    if not isinstance(error, ArgumentError):
        return words
    keys = [key for text in causes for key in re.findall(r'^Parser key "([^"]+)"', text)]
    place = ".".join(dict.fromkeys(keys))
    about = f" ({kind})" if kind and ABOUT_A_CLASS.search(words) else ""
    return f"{f'{place}: ' if place else ''}{words}{about}; see maskgen {verb} --help and the folder configs/"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, down to the first cause."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _innermost(message: str) -> str:
    """The last problem of a message without the alternatives that do not apply, in our words."""
    words = re.sub(r'^Parser key "[^"]+": ', "", message).removeprefix("- ")
    words = re.split(r" -? ?(?:Does not validate against|Expected a <class 'NoneType'>|Given value type)", words)[0].strip(" -")
    for pattern, ours in NAMED:
        words = re.sub(pattern, ours, words)
    return words.replace("got , ", "")


def _not_allowed(message: str, own: Sequence[str]) -> str | None:
    """The sentence for a class that is not allowed; None for other errors."""
    refused = re.search(r"Importing '([^']+)' is not allowed", message)
    if refused is None:
        return None
    given = re.findall(r"given class_path '([^']+)'", message[: refused.start()])
    path = given[-1] if given else refused[1]
    allowed = described(path, own)
    if path != refused[1]:  # a name of another module, reached through an allowed one
        return f"class_path {path} is not allowed: it is {refused[1]}; a configuration may name classes of {allowed}"
    if path.partition(".")[0] == "lightning":
        return f"class_path {path} is not allowed: a configuration may name classes of {allowed}"
    return (
        f"class_path {path} is not allowed: a configuration may name classes of {allowed}; "
        f"if the package is yours, add --allow {path.split('.')[0]} to the command"
    )
