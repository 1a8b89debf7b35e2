#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make C tables and a reference page from a schema file.

    gen-schema.py SCHEMA.json [--header FILE.h] [--source FILE.c] [--markdown FILE.md]
                  [--check-markdown FILE.md]

The tables are those of base/schema.h and are checked by base/schema.c. --check-markdown
fails when the page in the tree is not what the schema says.

A schema is a JSON object:
    name, title, intro      for the symbol sluice_schema_<name> and for the page
    types                   {name: type}: types used more than once, by {"ref": name}
    commands                {name: {doc, args, additional?, vmm?, returns, example?}}
    events, messages        {name: {doc, data, additional?}}
args and data are {member: type}. A type is an object with "type", one of
    str (max, min = 0)      int (min, max)          size (min = 0, max): bytes
    bool, number, any       enum (values)           array (of, max)
    object (members, additional?)
or {"ref": name}; members also have "doc", and may have "optional" and "default".
"additional": {"type": "any"} allows members that are not listed. Text may be Markdown.
"""
import argparse
import difflib
import json
import sys

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
ARRAY_MAX = 65536
TYPE_KEYS = {
    "str": {"min", "max"},
    "int": {"min", "max"},
    "size": {"min", "max"},
    "bool": set(),
    "number": set(),
    "any": set(),
    "enum": {"values"},
    "array": {"of", "max"},
    "object": {"members", "additional"},
}
MEMBER_KEYS = {"doc", "optional", "default"}
KINDS = {"commands": "args", "events": "data", "messages": "data"}
ENTRY_KEYS = {
    "commands": {"doc", "args", "additional", "vmm", "returns", "example"},
    "events": {"doc", "data", "additional"},
    "messages": {"doc", "data", "additional"},
}


class SchemaError(Exception):
    """The schema file is wrong; the text says where."""


def need(condition, where, text):
    if not condition:
        raise SchemaError(f"{where}: {text}")


class Schema:
    """A schema file, validated."""

    def __init__(self, raw):
        self.raw = raw
        unknown = set(raw) - {"name", "title", "intro", "types"} - set(KINDS)
        need(not unknown, "schema", f"unknown keys {sorted(unknown)}")
        for key in ("name", "title", "intro"):
            need(key in raw, "schema", f"'{key}' is missing")
        self.name = raw["name"]
        self.types = raw.get("types", {})
        for name, spec in self.types.items():
            need("doc" in spec, f"types.{name}", "'doc' is missing")
            self.check_type(spec, f"types.{name}")
        for kind, key in KINDS.items():
            for name, entry in raw.get(kind, {}).items():
                self.check_entry(kind, key, entry, f"{kind}.{name}")

    def check_entry(self, kind, key, entry, where):
        unknown = set(entry) - ENTRY_KEYS[kind]
        need(not unknown, where, f"unknown keys {sorted(unknown)}")
        need("doc" in entry, where, "'doc' is missing")
        need(key in entry, where, f"'{key}' is missing")
        self.check_members(entry[key], f"{where}.{key}")
        if kind == "commands":
            need("returns" in entry, where, "'returns' is missing")
            self.check_type(entry["returns"], f"{where}.returns")
        if "example" in entry:
            self.check_example(entry, f"{where}.example")

    def check_members(self, members, where):
        for name, spec in members.items():
            need("doc" in spec, f"{where}.{name}", "'doc' is missing")
            self.check_type(spec, f"{where}.{name}")

    def check_type(self, spec, where):
        if "ref" in spec:
            need(spec["ref"] in self.types, where, f"no type is called {spec['ref']}")
            unknown = set(spec) - MEMBER_KEYS - {"ref"}
            need(not unknown, where, f"unknown keys {sorted(unknown)}")
            return
        kind = spec.get("type")
        need(kind in TYPE_KEYS, where, f"unknown type {kind}")
        unknown = set(spec) - MEMBER_KEYS - TYPE_KEYS[kind] - {"type"}
        need(not unknown, where, f"unknown keys {sorted(unknown)}")
        if kind == "str":
            need("max" in spec, where, "a string needs 'max'")
        if kind == "enum":
            need(spec.get("values"), where, "an enum needs 'values'")
        if kind == "array":
            need("of" in spec, where, "an array needs 'of'")
            self.check_type(spec["of"], f"{where}.of")
        if kind == "object":
            need("members" in spec, where, "an object needs 'members'")
            self.check_members(spec["members"], f"{where}.members")

    def resolve(self, spec):
        while "ref" in spec:
            spec = self.types[spec["ref"]]
        return spec

    def check_example(self, entry, where):
        """The examples on the page must be true."""
        as_object = {"type": "object", "members": entry["args"]}
        if "additional" in entry:
            as_object["additional"] = entry["additional"]
        self.check_value(as_object, entry["example"]["in"].get("arguments", {}), f"{where}.in")
        self.check_value(entry["returns"], entry["example"]["out"]["return"], f"{where}.out")

    def check_value(self, spec, value, where):
        spec = self.resolve(spec)
        kind = spec["type"]
        python = {"str": str, "int": int, "size": int, "bool": bool, "number": (int, float),
                  "any": object, "enum": str, "array": list, "object": dict}[kind]
        need(isinstance(value, python), where, f"is not of type {kind}")
        if kind in ("str", "int", "size"):
            low, high = bounds(spec)
            number = len(value.encode()) if kind == "str" else value
            need(low <= number <= high, where, f"is not within {low} to {high}")
        if kind == "enum":
            need(value in spec["values"], where, f"is not one of {spec['values']}")
        if kind == "array":
            for item in value:
                self.check_value(spec["of"], item, f"{where}[]")
        if kind == "object":
            for name, member in spec["members"].items():
                if name in value:
                    self.check_value(member, value[name], f"{where}.{name}")
                else:
                    need(member.get("optional"), where, f"'{name}' is missing")
            unknown = set(value) - set(spec["members"])
            need("additional" in spec or not unknown, where, f"unknown {sorted(unknown)}")


def bounds(spec):
    """The inclusive bounds of a type: bytes of a str, items of an array, else the value."""
    kind = spec["type"]
    if kind == "str":
        return spec.get("min", 0), spec["max"]
    if kind == "int":
        return spec.get("min", INT64_MIN), spec.get("max", INT64_MAX)
    if kind == "size":
        return spec.get("min", 0), spec.get("max", INT64_MAX)
    if kind == "array":
        return 0, spec.get("max", ARRAY_MAX)
    return 0, 0


def c_name(text):
    return "".join(c if c.isalnum() else "_" for c in text).lower()


def c_int(value):
    return "INT64_MIN" if value == INT64_MIN else f"INT64_C({value})"


class Tables:
    """Writes the C tables: inner ones first, types of "ref" once."""

    def __init__(self, schema):
        self.schema = schema
        self.lines = []
        self.refs = {}
        self.count = 0

    def fresh(self, hint):
        self.count += 1
        return f"{c_name(hint)}_{self.count}"

    def value(self, spec, hint):
        """Emit a type; returns the name of its sluice_schema_value."""
        if "ref" in spec:
            ref = spec["ref"]
            if ref not in self.refs:
                self.refs[ref] = self.value(self.schema.types[ref], ref)
            return self.refs[ref]
        kind = spec["type"]
        low, high = bounds(spec)
        fields = [f".type = SLUICE_SCHEMA_{kind.upper()}"]
        if kind in ("str", "int", "size", "array"):
            fields += [f".min = {c_int(low)}", f".max = {c_int(high)}"]
        if kind == "enum":
            words = ", ".join(f'"{word}"' for word in spec["values"])
            name = self.fresh(f"words_{hint}")
            self.lines.append(f"static const char *const {name}[] = {{{words}, NULL}};")
            fields.append(f".words = {name}")
        if kind == "array":
            fields.append(f".of = &{self.value(spec['of'], hint)}")
        if kind == "object":
            inner = self.struct(spec["members"], "additional" in spec, hint)
            fields.append(f".object = &{inner}")
        name = self.fresh(f"value_{hint}")
        self.lines.append(f"static const struct sluice_schema_value {name} = {{")
        self.lines.append(f"\t{', '.join(fields)}}};")
        return name

    def struct(self, members, is_open, hint):
        rows = []
        for name, spec in members.items():
            optional = "true" if spec.get("optional") else "false"
            rows.append(f'\t{{"{name}", {optional}, &{self.value(spec, name)}}},')
        table = "NULL"
        if rows:
            table = self.fresh(f"members_{hint}")
            self.lines.append(f"static const struct sluice_schema_member {table}[] = {{")
            self.lines += rows + ["};"]
        name = self.fresh(f"struct_{hint}")
        self.lines.append(f"static const struct sluice_schema_struct {name} = {{")
        self.lines.append(f"\t{table}, {len(rows)}, {str(is_open).lower()}}};")
        return name

    def entries(self, kind, key):
        rows = []
        for name, entry in self.schema.raw.get(kind, {}).items():
            data = self.struct(entry[key], "additional" in entry, name)
            returns = "NULL"
            if "returns" in entry:
                returns = "&" + self.value(entry["returns"], f"{name}_returns")
            vmm = "true" if entry.get("vmm") else "false"
            rows.append(f'\t{{"{name}", {vmm}, &{data}, {returns}}},')
        if not rows:
            return "NULL", 0
        self.lines.append(f"static const struct sluice_schema_entry {kind}[] = {{")
        self.lines += rows + ["};"]
        return kind, len(rows)

    def source(self):
        fields = []
        for kind, key in KINDS.items():
            table, count = self.entries(kind, key)
            fields += [f"\t.{kind} = {table},", f"\t.{kind[:-1]}_count = {count},"]
        symbol = f"sluice_schema_{c_name(self.schema.name)}"
        return "\n".join(
            ["/* SPDX-License-Identifier: BSD-3-Clause */",
             f"/* Generated by scripts/gen-schema.py from {self.schema.name}.json. */",
             f'#include "{self.schema.name}-schema.h"', ""]
            + self.lines
            + ["", f"const struct sluice_schema {symbol} = {{",
               f'\t.name = "{self.schema.name}",'] + fields + ["};", ""])

    def header(self):
        guard = f"SLUICE_{c_name(self.schema.name).upper()}_SCHEMA_H"
        symbol = f"sluice_schema_{c_name(self.schema.name)}"
        return "\n".join(
            ["/* SPDX-License-Identifier: BSD-3-Clause */",
             f"/* Generated by scripts/gen-schema.py from {self.schema.name}.json. */",
             f"#ifndef {guard}", f"#define {guard}", "", '#include "base/schema.h"', "",
             f"extern const struct sluice_schema {symbol};", "", "#endif", ""])


class Page:
    """Writes the reference page."""

    def __init__(self, schema):
        self.schema = schema
        self.lines = []

    def add(self, *lines):
        self.lines += lines

    def type_text(self, spec):
        if "ref" in spec:
            return f"[{spec['ref']}](#{anchor('type ' + spec['ref'])})"
        kind = spec["type"]
        low, high = bounds(spec)
        if kind == "str":
            return f"string, {low} to {high} bytes" if low else f"string, at most {high} bytes"
        if kind == "enum":
            return "one of " + ", ".join(f"`{word}`" for word in spec["values"])
        if kind == "array":
            limit = f"at most {spec['max']} " if "max" in spec else ""
            return f"array of {limit}{self.type_text(spec['of'])}"
        if kind in ("int", "size"):
            text = "integer" if kind == "int" else "bytes"
            if "min" in spec and "max" in spec:
                return f"{text}, {low} to {high}"
            if "min" in spec:
                return f"{text}, at least {low}"
            return f"{text}, at most {high}" if "max" in spec else text
        return {"bool": "boolean", "any": "any value"}.get(kind, kind)

    def rows(self, members, prefix=""):
        for name, spec in members.items():
            note = ""
            if spec.get("optional"):
                default = f", default {json.dumps(spec['default'])}" if "default" in spec else ""
                note = f" (optional{default})"
            doc = join(spec["doc"])
            self.add(f"| `{prefix}{name}` | {self.type_text(spec)}{note} | {doc} |")
            if "ref" not in spec and spec["type"] == "object":
                self.rows(spec["members"], f"{prefix}{name}.")

    def members(self, title, members, is_open):
        if members:
            self.add(f"| {title} | type | meaning |", "|---|---|---|")
            self.rows(members)
            self.add("")
        if is_open:
            self.add(f"{title.capitalize()}: any others too." if members
                     else f"{title.capitalize()}: any name, any value.", "")

    def returns(self, spec):
        if spec.get("type") == "object":
            if not spec["members"] and "additional" not in spec:
                self.add("Returns `{}`.", "")
            else:
                self.members("returns", spec["members"], "additional" in spec)
        elif spec.get("type") == "array" and spec["of"].get("type") == "object":
            self.add("Returns an array of objects:", "")
            self.members("member", spec["of"]["members"], "additional" in spec["of"])
        else:
            self.add(f"Returns {self.type_text(spec)}.", "")

    def entry(self, kind, key, name, entry):
        self.add(f"### {name}", "", join(entry["doc"]) + (" *VMM.*" if entry.get("vmm") else ""), "")
        self.members("argument" if kind == "commands" else "member", entry[key],
                     "additional" in entry)
        if "returns" in entry:
            self.returns(entry["returns"])
        if "example" in entry:
            self.add("```json", "-> " + json.dumps(entry["example"]["in"]),
                     "<- " + json.dumps(entry["example"]["out"]), "```", "")

    def type_section(self, name, spec):
        self.add(f"### type {name}", "", join(spec["doc"]), "")
        if spec["type"] == "object":
            self.members("member", spec["members"], "additional" in spec)
        else:
            self.add(self.type_text(spec).capitalize() + ".", "")

    def text(self):
        raw = self.schema.raw
        self.add(f"# {raw['title']}", "",
                 f"<!-- Generated by scripts/gen-schema.py from {raw['name']}.json; "
                 "change that file instead. -->", "")
        for paragraph in raw["intro"]:
            self.add(paragraph, "")
        for kind, key in KINDS.items():
            if raw.get(kind):
                self.add(f"## {kind.capitalize()}", "")
                self.add(", ".join(f"[{n}](#{anchor(n)})" for n in raw[kind]) + ".", "")
                for name, entry in raw[kind].items():
                    self.entry(kind, key, name, entry)
        if self.schema.types:
            self.add("## Types", "")
            for name, spec in self.schema.types.items():
                self.type_section(name, spec)
        return "\n".join(self.lines).rstrip("\n") + "\n"


def anchor(heading):
    """The fragment that Git forges give a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def join(doc):
    return doc if isinstance(doc, str) else " ".join(doc)


def check_page(path, text):
    with open(path, encoding="utf-8") as file:
        found = file.read()
    if found == text:
        return 0
    diff = difflib.unified_diff(found.splitlines(), text.splitlines(), path, "the schema", "",
                                "", 1, "")
    print("\n".join(diff), file=sys.stderr)
    print(f"{path} is not up to date: run scripts/gen-schema.py SCHEMA --markdown {path}",
          file=sys.stderr)
    return 1


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def load(path):
    def no_duplicates(pairs):
        names = [name for name, _ in pairs]
        for name in names:
            need(names.count(name) == 1, path, f"'{name}' is there twice")
        return dict(pairs)

    with open(path, encoding="utf-8") as file:
        return Schema(json.load(file, object_pairs_hook=no_duplicates))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("schema")
    for option in ("--header", "--source", "--markdown", "--check-markdown"):
        parser.add_argument(option, metavar="FILE")
    args = parser.parse_args()
    try:
        schema = load(args.schema)
    except (SchemaError, ValueError) as error:
        print(f"{args.schema}: {error}", file=sys.stderr)
        return 1
    if args.header:
        write(args.header, Tables(schema).header())
    if args.source:
        write(args.source, Tables(schema).source())
    if args.markdown:
        write(args.markdown, Page(schema).text())
    if args.check_markdown:
        return check_page(args.check_markdown, Page(schema).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
