#!/usr/bin/env python3
"""Holds the tokens of GGUF vocabularies against the ids that llama.cpp's tests expect of them.

    check_vocabularies.py --shoal SHOAL (--package NAME==VERSION | --folder FOLDER)

The source package of llama-cpp-python on PyPI has llama.cpp's vocabularies (models/ggml-vocab-*.gguf), texts (.inp) and what Hugging
Face's tokenizers make of them (.out). It is downloaded into a temporary folder, of which nothing is kept; or FOLDER has its files.

A vocabulary is either refused, by the name of the value that is not built, or all of its texts must give the expected ids. Uses only
the standard library, and pip to download. `./dev check vocabularies` runs it.
"""
import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Between two texts of an .inp file: a line of its own.
SEPARATOR = "\n__ggml_vocab_test__\n"
# Vocabularies of models that no family here computes, and the key by which they are refused.
REFUSED = {"bert-bge": "'tokenizer.ggml.model'"}


def download(package, folder):
    """The vocabularies of a source package, below `folder`."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", package.split("==")[0], "--no-deps", "--dest", folder,
                    package], check=True)
    archive = next(Path(folder).glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        for member in files:
            name = Path(member.name).name
            if member.isfile() and name.startswith("ggml-vocab-"):
                (Path(folder) / name).write_bytes(files.extractfile(member).read())


def tokenized(shoal, vocabulary, texts):
    """The ids of each text, and no error; or none, and what shoal said."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    run = subprocess.run([shoal, "tokenize", "--model", vocabulary, "--plain", "--lines"], input=lines, capture_output=True, text=True,
                         check=False)
    if run.returncode != 0:
        return None, run.stderr.strip()
    return [json.loads(line) for line in run.stdout.splitlines()], ""


def compare(shoal, vocabulary):
    """Whether the vocabulary passes, and how."""
    texts = Path(f"{vocabulary}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    # The last text ends with the file, and has its line end.
    expected = [[int(number) for number in line.split()] for line in Path(f"{vocabulary}.out").read_text().splitlines()]
    if len(texts) == len(expected) + 1 and not texts[-1].strip():
        texts.pop()
    if len(texts) != len(expected):
        return False, f"expected as many texts as lines of ids, found {len(texts)} and {len(expected)}"
    found, error = tokenized(shoal, vocabulary, texts)
    if found is None:
        key = REFUSED.get(Path(vocabulary).stem.removeprefix("ggml-vocab-"))
        return key is not None and key in error, f"refused: {error}"
    wrong = [(text, want, got) for text, want, got in zip(texts, expected, found, strict=True) if want != got]
    for text, want, got in wrong[:3]:
        print(f"  {text!r}\n    expected {want}\n    found    {got}")
    return not wrong, f"{len(texts) - len(wrong)} of {len(texts)} texts give the expected ids"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--package", help="source package to download")
    source.add_argument("--folder", help="folder with ggml-vocab-*.gguf, .inp and .out")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if args.package:
            download(args.package, temporary)
        vocabularies = [path for path in sorted(folder.glob("ggml-vocab-*.gguf")) if Path(f"{path}.inp").exists()]
        if not vocabularies:
            sys.exit(f"no ggml-vocab-*.gguf with an .inp file in {folder}")
        for vocabulary in vocabularies:
            good, how = compare(args.shoal, vocabulary)
            failed += not good
            print(f"{'ok    ' if good else 'FAILED'} {vocabulary.stem.removeprefix('ggml-vocab-'):<16} {how}")
    print(f"{len(vocabularies) - failed} of {len(vocabularies)} vocabularies")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
