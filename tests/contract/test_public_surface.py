"""What `import antiphon` offers: exactly what `__all__` says."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types

import antiphon


def test_all_is_sorted_complete_and_there() -> None:
    names = antiphon.__all__
    assert names == sorted(set(names))
    public = {
        name
        for name, value in vars(antiphon).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(names) - {"__version__"}
    assert all(hasattr(antiphon, name) for name in names)


def test_everything_public_is_documented() -> None:
    for name in antiphon.__all__:
        value = getattr(antiphon, name)
        if not inspect.isclass(value) or not value.__module__.startswith("antiphon"):
            continue
        assert value.__doc__, name
        for attribute, member in vars(value).items():
            if not attribute.startswith("_") and isinstance(member, (types.FunctionType, property)):
                assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute}"


def test_both_clients_offer_the_same_calls() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(client).items()
            if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
        }

    assert calls(antiphon.Client) == calls(antiphon.AsyncClient)


def test_one_tree_of_errors_without_grpc() -> None:
    errors = [getattr(antiphon, name) for name in antiphon.__all__ if name.endswith("Error")]
    assert all(error.__mro__[1] is antiphon.AntiphonError for error in errors[1:])
    assert antiphon.AntiphonError.__mro__[1] is Exception
    assert errors[0] is antiphon.AntiphonError


def test_importing_the_client_and_its_cli_loads_no_model_code() -> None:
    program = (
        "import sys, antiphon, antiphon.cli; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'audiocraft', 'services')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
