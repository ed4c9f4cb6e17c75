"""Functions that the user names as `package.module:function`, the only code of theirs that is ever imported.

The current folder is on Python's path while such a module is imported and while its function runs, as it is for a
script, and not for longer.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any


class HookError(ValueError):
    """A function named by the user cannot be found or does not give what it must."""


def load_hook(name: str) -> Callable[..., Any]:
    """What `package.module:function` names; raises HookError where there is no such thing to call.

    What the module itself raises while it is imported becomes one, too.
    """
    module_name, colon, attribute = name.partition(":")
    parts = (*module_name.split("."), *attribute.split("."))
    if not colon or not all(part.isidentifier() for part in parts):
        raise HookError(f"{name!r} names no function; write it as package.module:function")
    with users_code(name):
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise HookError(_not_found(name, module_name, error)) from error
        try:
            found = attrgetter(attribute)(module)
        except AttributeError as error:
            public = sorted(key for key, held in vars(module).items() if callable(held) and not key.startswith("_"))
            raise HookError(
                f"{name}: the module {module_name} has no {attribute!r}; it has "
                f"{', '.join(public[:8]) or 'no function'}"
            ) from error
    if not callable(found):
        raise HookError(f"{name}: a {type(found).__name__}, which cannot be called; name a function")
    hook: Callable[..., Any] = found
    return hook


@contextmanager
def here_on_path() -> Iterator[None]:
    """The current folder is the first place that Python looks for modules."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


@contextmanager
def users_code(name: str) -> Iterator[None]:
    """The user's own code runs in here: what it raises becomes a HookError that says where; errors of ours stay."""
    with here_on_path():
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise HookError(f"{name} raised {said} (line {last.lineno} of {last.filename}); mend it there") from error


def _not_found(name: str, module: str, error: ModuleNotFoundError) -> str:
    if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
        return f"{name}: no module {error.name!r} in {os.getcwd()} or among the installed packages; start where it is"
    return f"{name}: the module {module} imports {error.name!r}, which is not installed; install it"
