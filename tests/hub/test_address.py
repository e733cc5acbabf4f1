"""Which hub is meant, and that a token goes to no other than the one it was made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubtool.errors import InputError
from hubtool.hub.address import HUGGING_FACE, check_name, is_name, resolve

TEAM = "https://hub.example.org"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HUBTOOL_HUB", "HUBTOOL_TOKEN", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def test_nothing_said_is_the_embedded_hub(tmp_path: Path) -> None:
    hub = resolve()
    assert (hub.url, hub.folder, hub.token) == (None, tmp_path / "home" / "hub", None)


def test_the_option_wins_over_hubtool_hub_over_hf_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://three:1")
    assert resolve().url == "http://three:1"
    monkeypatch.setenv("HUBTOOL_HUB", "http://two:1")
    assert resolve().url == "http://two:1"
    assert resolve("http://one:1").url == "http://one:1"
    assert resolve("hf").url == HUGGING_FACE
    assert resolve("embedded").folder is not None


def test_a_folder_is_a_hub_of_its_own_with_a_cache_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = resolve(str(tmp_path / "a")), resolve(str(tmp_path / "b"))
    assert one.folder == tmp_path / "a"
    assert len({one.key, two.key, resolve().key, resolve("hf").key}) == 4


def test_ports_and_hosts_have_caches_of_their_own() -> None:
    keys = {resolve(url).key for url in ("http://h:1", "http://h:2", "http://g:1", TEAM)}
    assert len(keys) == 4
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for key in keys)


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("huggingface.co", "--hub https://huggingface.co"),
        ("nowhere", "--hub hf"),
        ("ftp://hub", "no address of a hub"),
        ("https://", "no address of a hub"),
        ("http://h:x", "no address of a hub"),
        ("http://h/?a=b", "no address of a hub"),
    ],
)
def test_what_is_no_hub_is_refused_with_a_next_step(said: str, means: str) -> None:
    with pytest.raises(InputError) as refused:
        resolve(said)
    assert means in str(refused.value)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        resolve("https://me:geheim@hub.example.org")
    assert "geheim" not in str(refused.value)


def test_hf_token_goes_to_hugging_face_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert resolve("hf").token == "hf_mine"
    assert resolve(HUGGING_FACE).token == "hf_mine"
    for other in (TEAM, "http://huggingface.co", "https://huggingface.co.evil.org", "embedded"):
        assert resolve(other).token is None, other


def test_hf_token_beside_hf_endpoint_goes_there_and_not_to_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", TEAM)
    monkeypatch.setenv("HF_TOKEN", "hf_team")
    assert resolve().token == "hf_team"
    assert resolve("hf").token is None
    (tmp_path / "token").write_text("hf_stored\n")
    assert resolve("hf").token == "hf_stored"


def test_hubtool_token_goes_to_hubtool_hub_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBTOOL_HUB", TEAM)
    monkeypatch.setenv("HUBTOOL_TOKEN", "secret")
    assert resolve().token == resolve(f"{TEAM}/").token == "secret"
    assert resolve("https://other.example.org").token is None
    assert resolve(TEAM.replace("https", "http")).token is None
    monkeypatch.setenv("HUBTOOL_HUB", "hf")
    assert resolve("hf").token == "secret"


@pytest.mark.parametrize("name", ["axon/resnet34-v1", "a/b", "A.b_c/D-e.f", f"a/{'b' * 94}"])
def test_an_id_is_namespace_and_name(name: str) -> None:
    assert is_name(name) and check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["resnet", "a/b/c", "/b", "a/", "a b/c", "../x", "a/..", "a/b--c", "a/b.git", "a/é", "-a/b"],
)
def test_what_is_no_id_is_refused(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InputError, match="namespace/name"):
        check_name(name)


@pytest.mark.parametrize("name", [f"a/{'b' * 95}", "a/b\n", "a\\b/c"])
def test_what_is_too_long_or_odd_is_refused(name: str) -> None:
    assert not is_name(name)
