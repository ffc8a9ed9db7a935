"""Files and words that would run something, or reach outside, where a program is careless."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from fmtl.storage.records import sealed
from fmtl.training import checkpoints

MARK = "owned"  # the file that everything here would leave
WORDS = (
    f"; touch {MARK} #", f"$(touch {MARK})", f"`touch {MARK}`", f"| touch {MARK}", f"&& touch {MARK}",
    f"x\ntouch {MARK}\n",
    f"' ; touch {MARK} ; '", f'" ; touch {MARK} ; "', f"{{touch,{MARK}}}", f"${{IFS}}touch${{IFS}}{MARK}",
    f"--help ; touch {MARK}", f"%0atouch {MARK}",
)  # fmt: skip


class Payload:
    def __reduce__(self) -> tuple:
        return os.system, (f"touch {MARK}",)


def pickled() -> bytes:
    return pickle.dumps({"state_dict": Payload(), "model": Payload()}, protocol=2)


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def workbook(entity: str) -> bytes:
    """An xlsx whose sheet declares entities."""
    buffer = io.BytesIO()
    sheet = (
        f'<?xml version="1.0"?><!DOCTYPE x [{entity}]><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/'
        '2006/main"><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>&z;</t></is></c></row></sheetData></worksheet>'
    )
    book = (
        '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.'
        'openxmlformats.org/officeDocument/2006/relationships"><sheets><sheet name="a" sheetId="1" r:id="r1"/></sheets>'
        "</workbook>"
    )
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    links = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType='
        '"application/xml"/><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-'
        'officedocument.spreadsheetml.sheet.main+xml"/></Types>'
    )
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("[Content_Types].xml", types)
        packed.writestr("_rels/.rels", links.format(
            f'<Relationship Id="r1" Type="{kind}/officeDocument" Target="xl/workbook.xml"/>'))  # fmt: skip
        packed.writestr("xl/workbook.xml", book)
        packed.writestr("xl/_rels/workbook.xml.rels", links.format(
            f'<Relationship Id="r1" Type="{kind}/worksheet" Target="worksheets/sheet1.xml"/>'))  # fmt: skip
        packed.writestr("xl/worksheets/sheet1.xml", sheet)
    return buffer.getvalue()


BOMB = '<!ENTITY a "ha"><!ENTITY b "{}"><!ENTITY z "{}">'.format("&a;" * 5000, "&b;" * 5000)
STEALS = '<!ENTITY z SYSTEM "file:///etc/passwd">'
TABLES: dict[str, Callable[[], bytes]] = {
    "pickle.csv": pickled,
    "pickle.parquet": lambda: b"PAR1" + pickled() + b"PAR1",
    "pickle.xlsx": pickled,
    "bomb.xlsx": lambda: workbook(BOMB),
    "steals.xlsx": lambda: workbook(STEALS),
    "formula.csv": f"image,colour\n=cmd|'/c touch {MARK}'!A0,red\n|touch {MARK},blue\n".encode,
    "outside.csv": lambda: b"image,colour\n/etc/passwd,red\n../../../etc/passwd,blue\nfile:///etc/passwd,red\n",
    "commands.jsonl": lambda: f'{{"image": "$(touch {MARK}).png", "colour": "`touch {MARK}`"}}\n'.encode() * 9,
    "deep.jsonl": lambda: b"[" * 100_000,
}
WEIGHTS: dict[str, Callable[[], bytes]] = {
    "pickle.pt": pickled,
    "pickle.pth": lambda: torch_file({"state_dict": Payload()}),
    "old.pt": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickled() * 3,
    "pickle.safetensors": pickled,
    "repeats.pt": lambda: torch_file({"w": torch.zeros(1).expand(10**12)}),
    "long.safetensors": lambda: (2**62).to_bytes(8, "little") + b"{}",
}
SETTINGS: dict[str, Callable[[], bytes]] = {
    "python.yaml": f"data: !!python/object/apply:os.system ['touch {MARK}']\n".encode,
    "new.yaml": f"data: !!python/object/new:os.system ['touch {MARK}']\n".encode,
    "laughs.yaml": lambda: (
        b"a: &a [x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 118))
    ),
    "deep.yaml": lambda: b"a: " + b"[" * 50_000,
}


def model_folder(folder: Path, how: str) -> Path:
    """A stranger's model: ours with a pickle for weights, or MLflow's that would import a file of its own."""
    folder.mkdir(parents=True)
    code = f"import os\nos.system('touch {MARK}')\n"
    if how == "pickled weights":
        (folder / "weights.safetensors").write_bytes(pickled())
        about = {"format": "fmtl-model", "version": 2, "backbone": f"$(touch {MARK})", "weights_sha256": "0" * 64}
        (folder / "model.json").write_text(json.dumps(sealed(about)))
        return folder
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text(code + "def _load_pyfunc(path): pass\n")
    (folder / "python_model.pkl").write_bytes(pickled())
    flavor = {
        "loader": "loader_module: evil\n      code: code",
        "pickle": "loader_module: mlflow.pyfunc.model\n      python_model: python_model.pkl",
        "code": "loader_module: mlflow.pyfunc.model\n      model_code_path: code/evil.py",
    }[how]
    (folder / "MLmodel").write_text(f"flavors:\n  python_function:\n      {flavor}\nmlflow_version: 3.0.0\nrun_id: x\n")
    return folder


MODELS = ("pickled weights", "loader", "pickle", "code")


def checkpoint(path: Path) -> Path:
    """With a seal that is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_sealed(path, {"format": "fmtl-checkpoint", "version": 3, "model": Payload()})
    return path
