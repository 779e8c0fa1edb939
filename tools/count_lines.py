#!/usr/bin/env python3
"""Count the lines of Python in each room: all, and those of code.

    python -m tools.count_lines

Code is what is left without blank lines, comments and docstrings.
"""
import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
           tokenize.ENCODING, tokenize.ENDMARKER)


def count(source):
    """(lines, lines of code) of a module's source."""
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _SILENT:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
                node, clean=False) is not None:
            code.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return source.count("\n"), len(code)


def main():
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout.split()
    lines, code = Counter(), Counter()
    for name in map(Path, files):
        room = name.parts[0] if len(name.parts) > 1 else "scripts"
        found = count((ROOT / name).read_text(encoding="utf-8"))
        lines[room] += found[0]
        code[room] += found[1]
    tests = lines.pop("tests"), code.pop("tests")
    for room in sorted(lines, key=code.get, reverse=True):
        print(f"{room:12} {lines[room]:7,} {code[room]:7,}")
    print(f"{'together':12} {lines.total():7,} {code.total():7,}   (tests: {tests[0]:,}, "
          f"{tests[1]:,})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
