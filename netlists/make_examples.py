"""Write netlists/examples again: two decks of the digits network, its card, and the currents they give.

.venv/bin/python netlists/make_examples.py
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

import cosim

EXAMPLES = Path(__file__).parent / "examples"
SETTINGS = ["run.layers=conv1", "array.open_wordlines=4", "trim.method=none"]  # currents as they are


def main() -> None:
    """One deck in each fidelity, from the first group of the first layer."""
    network = cosim.load_network("digits-w4a4")
    images = cosim.load_dataset("digits").real(0, 100)
    for fidelity in ("dc", "tran"):
        circuit = cosim.CircuitNetwork(network, cosim.Config.load(None, [*SETTINGS, f"run.fidelity={fidelity}"]))
        circuit(images)
        with tempfile.TemporaryDirectory() as folder:
            entry = json.loads(circuit.write_netlists(folder).read_text())["decks"][0]
            name = f"digits_conv1_{fidelity}"
            text = (Path(folder) / entry["file"]).read_text().replace(entry["raw"], f"{name}.raw")
            (EXAMPLES / f"{name}.cir").write_text(text)
            shutil.copy(Path(folder) / "nor65.card", EXAMPLES)
        table = circuit.arrays["conv1"].table
        amperes = table.lookup(0, np.array(entry["patterns"])) * circuit.config.cell.unit_a
        rows = np.column_stack([entry["sample_at"], amperes])
        header = ",".join(["at", *(f"{source} [A]" for source in entry["bitlines"])])
        np.savetxt(EXAMPLES / f"{name}.csv", rows, delimiter=",", header=header, fmt="%.6e")


if __name__ == "__main__":
    main()
