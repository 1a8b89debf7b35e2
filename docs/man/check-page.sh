#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# check-page.sh PAGE: the page formats without a warning and is not empty.
set -euo pipefail

complaints=$(groff -man -Tascii -ww -z "$1" 2>&1)
[ -z "$complaints" ] || { printf '%s\n' "$complaints" >&2; exit 1; }
[ "$(groff -man -Tascii "$1" | wc -l)" -gt 50 ]
