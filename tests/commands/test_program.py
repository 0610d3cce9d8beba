"""The program `ppose`: its help, its exit codes, and what it imports."""

import subprocess
import sys

import pytest
from conftest import ROOT

from ppose import __version__
from ppose.commands import COMMANDS, main, program
from ppose.utils.errors import PposeError

SCRIPTS = {
    **{f"tools/{name}.py": name for name in ("average", "compress", "config", "convert", "eval")},
    **{f"tools/{name}.py": name for name in ("export", "infer", "quantize", "train")},
    "tools/make_synthetic.py": "synthetic",
    "deploy/serve.py": "serve",
}


def ended(*arguments):
    """The exit code of the program."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code or 0


def options(parser):
    return {option for action in parser._actions for option in action.option_strings}


def parsers():
    (commands,) = (a for a in program()._actions if hasattr(a, "choices") and a.choices)
    return commands.choices


def test_help_is_one_screen_and_names_every_command(capsys):
    assert ended("--help") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 40
    assert all(f"    {name}" in printed for name in COMMANDS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom ppose.commands import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'paddle', 'yaml'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_teaches_and_needs_no_paddle(name):
    code = (
        "import sys; sys.modules['paddle'] = None\n"
        f"import ppose.commands as program; program.main([{name!r}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: ppose {name}" in done.stdout
    assert f"examples:\n  ppose {name} " in done.stdout


def test_examples_have_options_that_exist():
    for name, parser in parsers().items():
        for line in parser.epilog.replace("\\\n", " ").splitlines():
            if line.strip().startswith("ppose "):
                command = line.split()[1]
                known = options(parsers()[command])
                given = {
                    w.partition("=")[0] for w in line.split() if w.startswith("-") and w != "-"
                }
                assert given <= known, (name, line)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_the_commands_under_their_old_names(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for option in options(parsers()[SCRIPTS[script]]):
        assert option in done.stdout


def test_the_version(capsys):
    assert ended("--version") == 0
    assert capsys.readouterr().out == f"ppose {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["train"], ["infer", "--infer_img=a"]])
def test_wrong_usage_is_2(arguments, capsys):
    assert ended(*arguments) == 2
    assert "error:" in capsys.readouterr().err


def test_an_unknown_config_is_1_and_names_the_nearest(capsys):
    assert ended("config", "-c", "quikstart") == 1
    assert "did you mean 'quickstart'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PposeError("no people"), 1, "error: no people"),
        (FileNotFoundError("no file"), 1, "error: no file"),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt(15), 143, "stopped"),
        (ModuleNotFoundError("x", name="visualdl.writer"), 1, "pip install 'ppose[train]'"),
    ],
    ids=["error", "file", "Ctrl-C", "SIGTERM", "package"],
)
def test_exit_codes(error, code, said, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr("ppose.commands.config.run", fail)
    assert ended("config", "-c", "quickstart") == code
    assert said in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError("x", name="ppose.nothing")

    monkeypatch.setattr("ppose.commands.config.run", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["config", "-c", "quickstart"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell, capsys):
    assert ended("completion", shell) == 0
    printed = capsys.readouterr().out
    assert "quantize" in printed
    assert "draw_threshold" in printed


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--epochs", "5"], "-o epochs=5"),
        (["--lr=0.1"], "-o optimizer.lr=0.1"),
        (["--batch_size"], "-o batch_size=VALUE"),
        (["--epohcs", "5"], None),
        (["stray"], None),
    ],
)
def test_an_unknown_option_that_is_a_key_says_how_it_is_set(options, hint, capsys):
    assert ended("train", "-c", "quickstart", *options) == 2
    printed = capsys.readouterr().err
    assert f"unrecognized arguments: {' '.join(options)}" in printed
    assert (f"a key of the config is set with {hint}\n" in printed) == (hint is not None)
