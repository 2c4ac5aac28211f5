"""Reading the output of data_prep/phantoms.py."""

import csv

SIZE = 64


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(folder):
    with (folder / "Data_Entry_2017_v2020.csv").open() as file:
        return list(csv.DictReader(file))
