"""Of a lesson's own cells, only the statements that give a name somebody uses: a submission need not train a model.

A cell is a list: ["ours", text], ["theirs", grade_id, text] or ["check", exercise, expression]. Going backwards, the names
used by the learner's cells and by the checks are collected; a statement of ours that binds one of them stays, and the
names it uses are wanted as well.
"""

import ast
import symtable

from .cells import texts


def slice_cells(cells):
    """The same list with ours cut down to what is wanted; those that are empty then are left out."""
    wanted, kept = set(), []
    for kind, *rest in reversed(cells):
        if kind != "ours":
            wanted |= uses(rest[1])
            kept.append([kind, *rest])
            continue
        body = []
        for statement in reversed(ast.parse(rest[0]).body):
            if binds(statement) & wanted:
                body.append(statement)
                wanted |= uses(ast.unparse(statement))
        if body:
            kept.append([kind, ast.unparse(ast.Module(body=body[::-1], type_ignores=[]))])
    return kept[::-1]


def uses(source):
    """The names that some code takes from its module; none where it is no Python."""
    tables, names = [], set()
    for text in texts(source):
        try:
            tables.append(symtable.symtable(text, "cell", "exec"))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if (s.is_referenced() if top else s.is_global())}
    return names


def binds(statement):
    """The names it leaves in the module. Those of a comprehension stay inside it."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).split(".")[0] for a in statement.names}
    inside = {n for c in ast.walk(statement) if isinstance(c, ast.comprehension) for n in ast.walk(c.target)}
    stored = (n for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return {n.id for n in stored if n not in inside}
