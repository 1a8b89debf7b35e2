# SPDX-License-Identifier: BSD-3-Clause
"""spoil: every way in which a message can miss its schema, made from the schema itself.

So a message that is added to engine/peer/peer-link.json is attacked from that day on.
"""

import copy

OTHER_TYPES = {"null": None, "a boolean": True, "a string": "x" * 40, "an integer": 7,
               "a real": 1.5, "an array": [[]], "an object": {"a": 1}}
FITS = {"str": ("a string",), "enum": (), "int": ("an integer",), "size": ("an integer",),
        "bool": ("a boolean",), "number": ("an integer", "a real"), "array": (), "object": (),
        "any": tuple(OTHER_TYPES)}
INT64 = 1 << 63


def resolve(types, spec):
    return resolve(types, types[spec["ref"]]) if "ref" in spec else spec


def wrong_values(spec):
    """(what, value) of values that do not fit @spec, which is no reference."""
    kind = spec["type"]
    for what, value in OTHER_TYPES.items():
        if what not in FITS[kind]:
            yield what, value
    if kind in ("int", "size"):
        low, high = spec.get("min", 0 if kind == "size" else -INT64), spec.get("max", INT64 - 1)
        if low > -INT64:
            yield "below the least", low - 1
            yield "the most negative", -INT64
        if high < INT64 - 1:
            yield "above the most", high + 1
            yield "the largest of 32 bits", max(high + 1, (1 << 32) - 1)
            yield "the largest", INT64 - 1
        yield "beyond 64 bits", 1 << 64
    if kind == "str":
        if spec.get("min", 0) > 0:
            yield "too short", "x" * (spec["min"] - 1)
        if spec["max"] < 1 << 16:
            yield "too long", "x" * (spec["max"] + 1)
    if kind == "enum":
        yield "another word", "perhaps"
        yield "no word", ""
    if kind == "array" and "max" in spec and spec["max"] <= 256:
        yield "too many", None  # filled in by its caller, who has a good element


def spoiled(types, members, value, path=()):
    """(member's path, what, how to change a copy of the message) for each way."""
    for name, reference in members.items():
        spec = resolve(types, reference)
        here = (*path, name)
        if not spec.get("optional") and not reference.get("optional"):
            yield here, "missing", lambda m, p=here: drop(m, p)
        for what, wrong in wrong_values(spec):
            if what == "too many":
                good = value[name][0] if value[name] else 0
                wrong = [good] * (spec["max"] + 1)
            yield here, what, lambda m, p=here, w=wrong: put(m, p, w)
        if spec["type"] == "array":
            inner = resolve(types, spec["of"])
            if inner["type"] == "object" and value[name]:
                yield from spoiled(types, inner["members"], value[name][0], (*here, 0))
            else:
                for what, wrong in wrong_values(inner):
                    if what != "too many":
                        yield (*here, 0), what, lambda m, p=here, w=wrong: put(m, p, [w])
        if spec["type"] == "object":
            yield from spoiled(types, spec["members"], value[name], here)
    yield (*path, "surprise"), "unknown", lambda m, p=(*path, "surprise"): put(m, p, 1)


def put(message, path, value):
    for key in path[:-1]:
        message = message[key]
    message[path[-1]] = value


def drop(message, path):
    for key in path[:-1]:
        message = message[key]
    del message[path[-1]]


def spoil(schema, kind, message):
    """(what, the name of the member, the spoiled message) for each way to spoil @message."""
    for path, what, change in spoiled(schema.get("types", {}), schema["messages"][kind]["data"],
                                      message):
        bad = copy.deepcopy(message)
        change(bad)
        named = [key for key in path if isinstance(key, str)][-1]
        yield f"{'.'.join(map(str, path))} {what}", named, bad
