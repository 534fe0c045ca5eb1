"""Whether a chat template does nothing with what is said but write it out, whole or trimmed.

Then all conversations of the same roles are written alike but for their contents, and one rendering tells how. What is
not known here to be harmless (a test on a content, a filter, a macro, an unknown tag) makes the answer no.
"""

from __future__ import annotations

from typing import Any

_LOOP = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"})
_SAME_FOR_ALL = frozenset({"defined", "undefined", "none", "string", "mapping", "sequence", "iterable"})

# what an expression may be: independent of the contents, the messages, one of them, its content, or text with contents
_CLEAN, _LIST, _TURN, _CONTENT, _TEXT = "clean", "list", "turn", "content", "text"


def only_writes_contents(template: str) -> bool:
    """Whether the output is made of constants and contents, each whole or trimmed, in a way that roles alone decide."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
        walk = _Walk()
        before = None
        while before != walk.names:  # a name may be given a content further down in a loop
            before = dict(walk.names)
            walk.statements(tree.body)
    except (TemplateSyntaxError, _NotOpaque, RecursionError):
        return False
    return True


class _NotOpaque(Exception):
    pass


class _Walk:
    """Through a template, with what each name may hold; scopes are not told apart, which errs on the side of no."""

    def __init__(self) -> None:
        self.names = {"messages": _LIST}

    def statements(self, nodes: list[Any]) -> None:
        for node in nodes:
            handle = getattr(self, f"_{type(node).__name__.lower()}", None)
            if handle is None:
                raise _NotOpaque
            handle(node)

    def _output(self, node: Any) -> None:
        self._need(node.nodes, _CLEAN, _CONTENT, _TEXT)

    def _templatedata(self, node: Any) -> None: ...

    def _break(self, node: Any) -> None: ...

    def _continue(self, node: Any) -> None: ...

    def _if(self, node: Any) -> None:
        self._need([node.test], _CLEAN)
        self.statements([*node.body, *node.elif_, *node.else_])

    def _for(self, node: Any) -> None:
        kind = self.kind(node.iter)
        if kind not in (_CLEAN, _LIST):
            raise _NotOpaque
        self._bind(node.target, _TURN if kind == _LIST else _CLEAN)
        self._need([node.test] if node.test else [], _CLEAN)
        self.statements([*node.body, *node.else_])

    def _assign(self, node: Any) -> None:
        self._bind(node.target, self.kind(node.node))

    def _bind(self, target: Any, kind: str) -> None:
        from jinja2 import nodes

        if kind != _CLEAN and not isinstance(target, nodes.Name):
            raise _NotOpaque
        for name in [target] if isinstance(target, nodes.Name) else target.find_all(nodes.Name):
            known = self.names.setdefault(name.name, kind)
            if {known, kind} <= {_CLEAN, _CONTENT, _TEXT}:
                self.names[name.name] = known if known == kind else _TEXT
            elif known != kind or name.name == "loop":
                raise _NotOpaque

    def _need(self, expressions: Any, *kinds: str) -> None:
        if any(self.kind(expression) not in kinds for expression in expressions):
            raise _NotOpaque

    def kind(self, node: Any) -> str:  # noqa: PLR0911 - a return for each kind of expression
        """What an expression is. Raises `_NotOpaque` where it looks at a content."""
        from jinja2 import nodes

        match node:
            case nodes.TemplateData() | nodes.Const():
                return _CLEAN
            case nodes.Name(name="self" | "caller" | "varargs" | "kwargs"):
                raise _NotOpaque
            case nodes.Name():
                return self.names.get(node.name, _CLEAN)
            case nodes.Getattr(node=nodes.Name(name="loop")) if node.attr not in _LOOP:
                raise _NotOpaque
            case nodes.Getattr() | nodes.Getitem():
                return self._part(node)
            case nodes.Add() | nodes.Concat():
                parts = [node.left, node.right] if isinstance(node, nodes.Add) else node.nodes
                self._need(parts, _CLEAN, _CONTENT, _TEXT)
                return _CLEAN if {self.kind(part) for part in parts} == {_CLEAN} else _TEXT
            case nodes.Filter(name="trim", args=[], kwargs=[]) if self.kind(node.node) == _CONTENT:
                return _CONTENT
            case nodes.Call(node=nodes.Getattr(attr="strip") as stripped, args=[], kwargs=[]):
                return self.kind(stripped.node) if self.kind(stripped.node) == _CONTENT else self._clean(node)
            case nodes.Filter(name="length" | "count", args=[]) if self.kind(node.node) == _LIST:
                return _CLEAN
            case nodes.Test() if node.name in _SAME_FOR_ALL:
                self.kind(node.node)
                return _CLEAN
            case nodes.CondExpr():
                self._need([node.test], _CLEAN)
                kinds = {self.kind(part) for part in (node.expr1, node.expr2) if part is not None}
                if len(kinds) > 1 and not kinds <= {_CLEAN, _CONTENT, _TEXT}:
                    raise _NotOpaque
                return kinds.pop() if len(kinds) == 1 else _TEXT
        return self._clean(node)

    def _clean(self, node: Any) -> str:
        self._need(node.iter_child_nodes(), _CLEAN)
        return _CLEAN

    def _part(self, node: Any) -> str:
        """Of the messages: one or some of them. Of one: its content, its role, or what none of ours has."""
        from jinja2 import nodes

        whole = self.kind(node.node)
        key = node.attr if isinstance(node, nodes.Getattr) else node.arg
        if whole == _LIST and isinstance(key, nodes.Slice):
            self._clean(key)
            return _LIST
        if whole == _LIST and isinstance(key, nodes.Node):
            self._need([key], _CLEAN)
            return _TURN
        if whole == _TURN:
            name = key.value if isinstance(key, nodes.Const) else key
            if not isinstance(name, str) or hasattr(dict, name):
                raise _NotOpaque
            return _CONTENT if name == "content" else _CLEAN
        if whole != _CLEAN:
            raise _NotOpaque
        return self._clean(node)
