#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Fill a manual page's template: the line @GENERATED@ becomes what a program prints.

    gen-man.py TEMPLATE OUTPUT VERSION PROGRAM OPTION

So that the page and --help come from the same table. @VERSION@ becomes the version.
"""
import subprocess
import sys


def main():
    template, output, version, program, option = sys.argv[1:]
    printed = subprocess.run([program, option], check=True, stdout=subprocess.PIPE,
                             universal_newlines=True).stdout
    with open(template, encoding="utf-8") as file:
        text = file.read()
    if "@GENERATED@\n" not in text:
        sys.exit(f"{template}: there is no line @GENERATED@")
    text = text.replace("@GENERATED@\n", printed).replace("@VERSION@", version)
    with open(output, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
