"""Secrets, paths of one machine and blanks are found by their shape, and near misses are not."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard, ModelCardData

from hubtool.hub.card import lint

from .card_folders import CLEAN, SECTIONS, SHA256, rules, small


@pytest.fixture
def judged(tmp_path):
    """Rule and line of every problem of a card file with this text."""

    def judge(text: str) -> set[tuple[str, int]]:
        path = tmp_path / "card.md"
        path.write_text(text, encoding="utf-8")
        return rules(path)

    return judge


LETTERS = "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vWxYz1C3d5"
SECRETS = [
    (f"hubtool_{LETTERS[:36]}", "hubtool_cache and hubtool_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    (f"hf_{LETTERS[:34]}", "hf_hub_download and hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ("AKIA" + "Q3EGRT7ZK2MN5PXV", "AKIAIOSFODNN7EXAMPLE"),
    (f"aws_secret_access_key = {LETTERS}", f"sha256 = {SHA256}"),
    ("-----BEGIN OPENSSH PRIVATE " + "KEY-----", "-----BEGIN PUBLIC KEY-----"),
    (f"ghp_{LETTERS[:36]}", "ghp_token"),
    (f"github_pat_{LETTERS}{LETTERS}", "github_pat_…"),
    (f"glpat-{LETTERS[:20]}", "glpat-"),
    (f"xoxb-{LETTERS[:24]}", "xoxb-…"),
    (f"AIza{LETTERS[:35]}", "AIzawa"),
    (f"npm_{LETTERS[:36]}", "npm_config_registry"),
    (f"pypi-{LETTERS}{LETTERS}", "pypi-publish"),
    (f"sk-proj-{LETTERS}", "sk-learn and task-oriented-dialogue-with-many-words-in-it"),
    (f"eyJ{LETTERS[:20]}.eyJ{LETTERS[:20]}.{LETTERS[:20]}", "eyJ is how each begins"),
    (f"Authorization: Bearer {LETTERS}", "Authorization: Bearer $HF_TOKEN"),
    (f"Authorization: Bearer {LETTERS}", "the bearer internationalization-of-things said"),
    ("https://me:s3cr3tPassw0rd@example.org/", "https://example.org:8080/a@b"),
    (f"api_key: {LETTERS[:20]}", "api_key: os.environ['API_KEY_NUMBER_1']"),
    (f'token="{LETTERS[:20]}"', f"token: {SHA256}"),
    (f"password={LETTERS[:20]}", "password: your-password-number-1"),
]


@pytest.mark.parametrize(("leak", "near"), SECRETS)
def test_secrets_are_found_and_never_shown(judged, tmp_path, leak, near) -> None:
    assert judged(f"{CLEAN}\n```\n{leak}\n```\n") == {("secret", 42)}
    (problem,) = lint(tmp_path / "card.md")
    assert leak not in str(problem)
    assert problem.severity == "error"
    assert judged(f"{CLEAN}\n{near}\n") == set()


@pytest.mark.parametrize(
    "where", ["---\nlicense: mit\nx: {}\n---\n", "---\nlicense: mit\n---\n<!-- {} -->\n"]
)
def test_secrets_are_found_in_the_header_and_in_comments(judged, where) -> None:
    assert ("secret", 3 if "x:" in where else 4) in judged(where.format(SECRETS[0][0]) + SECTIONS)


@pytest.mark.parametrize("prefix", ["hubtool_", "hf_"])
@pytest.mark.parametrize("name", ["notes/run.livemd", "config.json"])
def test_a_token_in_any_file_of_a_folder_is_found(tmp_path, prefix, name) -> None:
    folder = small(tmp_path / "digits")
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xff\0\n" + f"{{'x': '{prefix}{LETTERS[:36]}'}}".encode())
    found = [each for each in lint(folder, card=CLEAN) if each.rule == "secret"]
    assert [(each.file, each.line, each.severity) for each in found] == [(name, 2, "error")]
    assert LETTERS[:36] not in str(found[0])
    sent = lint(folder, card=CLEAN, published_files=["graph.json", "gone"])
    assert "secret" not in {each.rule for each in sent}
    path.write_text(f"{prefix}cache, {prefix}{'x' * 36}")
    assert "secret" not in {each.rule for each in lint(folder, card=CLEAN)}


@pytest.mark.parametrize(
    ("leak", "near"),
    [
        ("/home/ann/models/x.onnx", "https://example.org/home/ann"),
        ("see /Users/ann/x", "the path /api/models and GET /v1/users"),
        ("/root/x", "the cube/root of it"),
        ("`/tmp/x.npy`", "at/tmpfs and /tmpl"),
        ("/mnt/disk1/data", "/mnt is where disks go; and/or"),
        ("(/content/drive/x)", "/contents"),
        ("C:\\Users\\ann\\x", "C:\\ and a\\b"),
        ("D:/Users/ann", "ratio 3:/4"),
        ("E:\\models\\x.onnx", '"N:\\n"'),
        ("\\\\server\\share\\x", "\\alpha\\beta"),
        ("file:///etc/x", "profile://"),
        ("[x](/home/ann/x.md)", "[x](docs/home/y)".replace("docs/home/y", "https://a.b/home/y")),
        ("cd /workspace/x", "~/models and ./tmp/x and $HOME/tmp/x"),
    ],
)
def test_paths_of_one_machine(judged, leak, near) -> None:
    assert judged(f"{CLEAN}\n{leak}\n") == {("local-path", 41)}
    assert judged(f"{CLEAN}\n{near}\n") == set()


@pytest.mark.parametrize(
    ("blank", "near"),
    [
        ("[More Information Needed]", "more information needed for further steps"),
        ("{{ license }}", "```bibtex\ntitle={{Deep Learning}}\n```"),
        ("{% if x %}", "100 {%}"),
        ("TODO: say it", "todos, and <!-- TODO -->"),
        ("`<your-username>/x`", "<span>your</span>"),
        ("[your name]", "[your own](https://example.org)"),
        ("[Insert a figure]", "[inserted]"),
        ("Lorem ipsum dolor", "a lorem"),
        ("the rest is TBD", "the TBDs"),
    ],
)
def test_placeholders(judged, blank, near) -> None:
    assert judged(f"{CLEAN}\n{blank}\n") == {("placeholder", 41)}
    assert judged(f"{CLEAN}\n{near}\n") == set()


def test_the_default_template_leaves_38_placeholders(tmp_path) -> None:
    text = str(ModelCard.from_template(ModelCardData(license="mit")))
    (tmp_path / "card.md").write_text(text)
    found = lint(tmp_path / "card.md")
    assert [problem.rule for problem in found] == ["placeholder"] * 38
    lines = text.splitlines()
    assert all("[More Information Needed]" in lines[problem.line - 1] for problem in found)
