"""Settings: defaults, ranges, unknown variables."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from services.runtime.config import FOREIGN_VARIABLES, ServiceSettings, load_settings, split_address


class Settings(ServiceSettings):
    models: list[str] = Field(default=["tiny"])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTIPHON_LISTEN", "ANTIPHON_METRICS_LISTEN", "ANTIPHON_MODELS"):
        monkeypatch.delenv(name, raising=False)


def test_defaults() -> None:
    settings = load_settings(Settings)
    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:50051", "127.0.0.1:9101")
    assert (settings.drain_grace_seconds, settings.drain_delay_seconds) == (60, 0)
    assert settings.max_message_bytes == 64 * 1024 * 1024


def test_the_environment_and_a_services_own_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_LISTEN", "unix:/run/antiphon.sock")
    monkeypatch.setenv("ANTIPHON_METRICS_LISTEN", "")
    monkeypatch.setenv("ANTIPHON_MODELS", '["a", "b"]')
    settings = load_settings(Settings)
    assert (settings.listen, settings.metrics_listen) == ("unix:/run/antiphon.sock", "")
    assert settings.models == ["a", "b"]


@pytest.mark.parametrize("name", sorted(FOREIGN_VARIABLES))
def test_variables_of_other_parts_are_let_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    load_settings(Settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listen", "50051"),
        ("listen", "localhost:65536"),
        ("listen", "unix:"),
        ("listen", ""),
        ("metrics_listen", "unix:/path"),
        ("metrics_listen", "::1:9101"),
        ("log_level", "LOUD"),
        ("log_format", "xml"),
        ("drain_grace_seconds", 0),
        ("drain_grace_seconds", float("inf")),
        ("drain_delay_seconds", -1),
        ("max_message_bytes", 0),
        ("max_concurrent_rpcs", 0),
        ("nothing", 1),
    ],
)
def test_bad_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        ServiceSettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "ANTIPHON_LOGLEVEL",
            "INFO",
            "error: ANTIPHON_LOGLEVEL is not a setting of this service\nhint: did you mean ANTIPHON_LOG_LEVEL?\n",
        ),
        (
            "ANTIPHON_LISTEN",
            "nowhere",
            "error: ANTIPHON_LISTEN: must be \"host:port\" with a port from 0 to 65535 (it is 'nowhere')\n",
        ),
    ],
)
def test_bad_settings_end_the_process_with_a_message(
    variable: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load_settings(Settings)
    assert caught.value.code == 2
    assert capsys.readouterr().err == message


def test_a_list_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ANTIPHON_MODELS", "a,b")
    with pytest.raises(SystemExit):
        load_settings(Settings)
    assert "models" in capsys.readouterr().err


def test_split_address() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("example.org:0") == ("example.org", 0)
