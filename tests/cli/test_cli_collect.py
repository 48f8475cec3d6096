import re
import signal
import socket

import pytest
from studies import Visitor, attentive, start_process, write_source

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")


@pytest.fixture
def study(shell, folder):
    """A small study, by the command."""
    write_source(folder / "source", 4)
    few = ("--items", 3, "--votes", 1, "--practice", 0, "--repeats", 0)
    code, out, _ = shell("collect", "new", "study", "--from", "source", *few)
    assert code == 0
    assert out.startswith("study: 4 items (2afc), shown 16 times enlarged\n")
    return folder / "study"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_from_new_to_export(shell, study, folder, number, status):
    process, port = start_process(study)
    lines = [process.stdout.readline() for _ in range(2)]
    try:
        address, token = re.fullmatch(
            r"Administrator  http://127.0.0.1:(\d+)/admin\?token=(.*)", lines[0].strip()
        ).groups()
        assert int(address) == port
        assert len(token) >= 32
        Visitor(port).enrol().take_part(attentive)
        assert Visitor(port).request("GET", f"/admin?token={token}").status == 303
    finally:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert "Traceback" not in out + err
    assert process.returncode == status
    code, out, _ = shell("collect", "backup", "study", "-o", "copy.db")
    assert code == 0
    assert out.startswith("copy.db: all votes so far")
    code, out, _ = shell(
        "collect", "export", "study", "-o", "judged", "--database", f"sqlite:///{folder / 'copy.db'}"
    )
    assert code == 0
    assert out.splitlines() == [
        "Manifest  judged/manifest.csv: 3 items, 3 votes",
        "Report    judged/report.md",
        "Excluded  0 of 1 participants",
    ]


def test_what_cannot_be_served_is_one_line(shell, study, folder):
    def refusal(*arguments):
        code, _, err = shell("collect", *arguments)
        assert code == 1
        (line,) = err.strip().splitlines()
        return line

    assert "no study in nothing" in refusal("serve", "nothing")
    assert "exists already" in refusal("new", "study", "--from", "source")
    assert "no/such/x.db': No such file" in refusal("serve", "study", "--database", "sqlite:///no/such/x.db")
    assert "study/judgments.db': No such file" in refusal("export", "study", "-o", "judged")
    assert "study/judgments.db': No such file" in refusal("backup", "study", "-o", "copy.db")
    (folder / "ids.txt").write_text("a b")
    assert "ids.txt, line 1" in refusal("serve", "study", "--participants", "ids.txt")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in refusal(
            "serve", "study", "--port", port
        )
    image = next((study / "images").iterdir())
    image.unlink()
    assert f"1 images of study are missing or not what they were: study/images/{image.name}" in refusal(
        "serve", "study"
    )
    (study / "judgments.db").write_text("no database " * 100)
    assert "file is not a database" in refusal("export", "study", "-o", "judged")
    (study / "study.yaml").write_text((study / "study.yaml").read_text().replace("version: 1", "version: 9"))
    assert "version 9, made by a newer perceptual" in refusal("export", "study", "-o", "judged")


def test_choose_and_outputs(shell, folder, draw):
    write_source(folder / "source", 6)
    code, out, _ = shell(
        "collect", "choose", "source", "--methods", "l2,ssim", "--count", 5, "-o", "chosen", "--size", 16
    )
    assert code == 0
    assert "1 triplets at random (split val)" in out
    assert "4 on which l2, ssim disagree most (split train)" in out
    for seed, name in enumerate(("originals", "a", "b")):
        draw(f"{name}/x.png", seed, 32, 32)
    code, out, _ = shell(
        "data", "make-triplets", "--outputs", "originals", "a", "b", "ask", "--count", 3, "--size", 16
    )
    assert (code, out) == (0, "ask: 3 triplets of 2 algorithms\n")
    code, _, err = shell("data", "make-triplets", "--outputs", "originals", "a", "--count", 3)
    assert code == 1
    assert "needs a folder of originals, two of outputs and one to write" in err
    code, _, err = shell("data", "make-triplets", "packaged", "x", "y", "--count", 3)
    assert code == 1
    assert "y needs --outputs" in err
