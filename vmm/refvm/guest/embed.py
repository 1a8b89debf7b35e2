#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""embed.py IN OUT: write a flat binary as a C array, for the build of refvm."""
import sys


def main():
    with open(sys.argv[1], "rb") as source:
        image = source.read()
    lines = [", ".join(f"0x{byte:02x}" for byte in image[i : i + 16])
             for i in range(0, len(image), 16)]
    with open(sys.argv[2], "w", encoding="ascii") as out:
        out.write("/* Generated from the guest program. */\n")
        out.write('#include "vmm/refvm/guest_image.h"\n\n')
        out.write("const unsigned char refvm_guest_image[] = {\n\t")
        out.write(",\n\t".join(lines))
        out.write("\n};\n")
        out.write("const size_t refvm_guest_image_bytes = sizeof(refvm_guest_image);\n")


if __name__ == "__main__":
    main()
