"""What the tests of both notebooks share."""

import re

import nbformat
from nbclient.exceptions import CellExecutionError


def run_from(folder, kernel, path, modules, ids=None):
    """Run a notebook's cells (or those with `ids`) in a folder until one fails.

    Return its cells, the failing one's id and its error. `modules` are imported afresh.
    """
    kernel.nb = nbformat.read(path, 4)
    start = "for name in set(get_ipython().user_ns) - set(get_ipython().user_ns_hidden):\n"
    start += "    del globals()[name]\n"  # as %reset does, but at once
    start += f"import os, sys, torch\nos.chdir({str(folder)!r})\nold = {modules}\n"
    start += "torch.set_num_threads(1)\n"  # two wait for each other where the machine is busy
    start += "sys.path[:] = [path for path in sys.path if not path.endswith('copy_of_root')]\n"
    start += "for name in old: sys.modules.pop(name, None)"
    kernel.execute_cell(nbformat.v4.new_code_cell(start), 0)
    for index, cell in enumerate(kernel.nb.cells):
        if ids is not None and cell.id not in ids:
            continue
        try:
            kernel.execute_cell(cell, index)
        except CellExecutionError as error:
            return kernel.nb.cells, cell.id, error
    return kernel.nb.cells, None, None


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def check_what_it_shows(cells, path):
    """The parts of scripts that the committed notebook shows are those of the scripts of today."""
    for cell, committed in zip(cells, nbformat.read(path, 4).cells, strict=True):
        if cell.id.startswith("show-"):
            assert printed(cell) == printed(committed) != "", "the script has changed since"


def check_committed(path, figures, size):
    """It was executed from top to bottom without an error, and says nothing of the machine."""
    notebook, text = nbformat.read(path, 4), path.read_text()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not any("text/html" in output.get("data", {}) for output in outputs), "TensorBoard ran"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == figures
    assert "\nRERUN = False\n" in "\n".join(["", *(cell.source for cell in cells)])
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.metadata for cell in notebook.cells)
    assert not re.search(r"(^|[\s\"'(])/(home|root|tmp|Users|opt|usr|var)/", text)
    assert len(text) < size
